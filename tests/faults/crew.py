"""The processes of one fault run: started, killed by their own numbers, and judged at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from telex.testing.checker import Expectations, Report, Violation, check
from telex.testing.history import Event, Recorder, digest, read

from .program import BILLING, JOBS, MAILS, SOURCES, Config, Program

ROOT = Path(__file__).parents[2]
COPIES = 2.0
"""Seconds around a fault within which an engine that is not atomic may leave copies; see `Expectations.copies`."""
PATIENCE = 60.0
"""Seconds after which waiting for a process is a failure."""


class Process:
    """One process of a run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.history = Path(config.folder) / f"{config.name}.jsonl"
        self._log = (Path(config.folder) / f"{config.name}.err").open("wb")
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.program", msgspec.json.encode(config).decode()],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to this process alone."""
        if self.alive:
            os.kill(self.popen.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Waits for its end; its exit code."""
        code = self.popen.wait(timeout)
        self._log.close()
        return code

    def kill(self) -> int:
        """Kills it; how many operations it had under way: runs of handlers, or publishes."""
        self.signal(signal.SIGKILL)
        self.wait()
        return self.under_way()

    def under_way(self) -> int:
        """Operations begun and not ended."""
        open_ones = set[int]()
        for event in self.events():
            if event.op == "deliver" or (event.op == "publish" and self.config.role == "publisher"):
                (open_ones.add if event.phase == "begin" else open_ones.discard)(event.number)
        return len(open_ones)

    def events(self) -> list[Event]:
        """What it wrote down so far."""
        return read([self.history]) if self.history.exists() else []

    @property
    def log(self) -> str:
        """What it logged."""
        path = Path(self.config.folder) / f"{self.config.name}.log"
        return path.read_text() if path.exists() else ""


class Crew:
    """All processes of a run in one store: a file in the folder if nothing else is said."""

    def __init__(self, folder: Path, **defaults: Any) -> None:
        self.folder = folder
        self._defaults = {"store": str(folder / "telex.db"), "folder": str(folder), **defaults}
        self.engine: dict[str, Any] = {}
        """What to expect of the engine; known when stock was taken."""
        self.processes: list[Process] = []
        self.referee = Recorder(folder / "referee.jsonl", "referee")

    def spawn(self, role: str, **fields: Any) -> Process:
        """Starts a publisher or a worker."""
        name = f"{role[0]}{len(self.processes)}"
        config = Config(**{**self._defaults, "role": role, "name": name, **fields})
        process = Process(config)
        self.processes.append(process)
        return process

    def program(self, name: str, recorder: Recorder, **fields: Any) -> Program:
        """The application within the test itself."""
        return Program(Config(**{**self._defaults, "role": "publisher", "name": name, **fields}), recorder)

    def send(self, *messages: tuple[str, str], **fields: Any) -> None:
        """Publishes from the test itself: (channel, act) each, on as many keys as ``keys`` says."""
        name = f"t{len(list(self.folder.glob('t*.jsonl')))}"
        with Recorder(self.folder / f"{name}.jsonl", name) as recorder:
            program = self.program(name, recorder, **fields)
            keys = program.config.keys

            async def publish() -> None:
                async with program.app:
                    for no, (channel, act) in enumerate(messages, 1):
                        body = {"id": f"{name}-{no}", "key": f"k{no // 2 % keys}", "seq": no, "act": act}
                        assert await program.publish(channel, body) == "ok"

            asyncio.run(publish())

    def fault(self, name: str, value: int) -> None:
        """Notes that something was done to the run while ``value`` operations were under way."""
        self.referee.note("fault", name=name, value=value)

    def drain(self) -> None:
        """Ends the publishers, lets workers finish all there is, ends the workers, and takes stock."""
        for process in self.processes:
            if process.config.role == "publisher":
                process.signal(signal.SIGTERM)
        for process in self.processes:
            if process.config.role == "publisher":
                process.wait()
        self.referee.note("heal", name="all")
        last = self.spawn("worker", until_idle=True)
        code = last.wait()
        assert code == 0, f"the last worker ended with {code}:\n{last.log[-2000:]}"
        for process in self.processes:
            process.signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()
        asyncio.run(self._take_stock())

    async def _take_stock(self) -> None:
        app = self.program("stock", self.referee).app
        async with app:
            self.engine["confirmed"] = app.features.settle_confirmed
            self.engine["copies"] = None if app.features.atomic else COPIES
            for source in ("orders.placed/billing", "orders.placed/audit", "jobs", "mails"):
                async for letter in app.dead_letters(source):
                    self.referee.note(
                        "letter", id=letter.message.id, source=letter.source, digest=digest(letter.message.body),
                        name=letter.reason.value,
                    )  # fmt: skip
            for stats in (await app.stats()).sources:
                left = (stats.ready or 0) + (stats.leased or 0) + (stats.retrying or 0) + (stats.delayed or 0)
                self.referee.note("queued", source=stats.source, value=left)

    def events(self) -> list[Event]:
        """The whole history."""
        return read(sorted(self.folder.glob("*.jsonl")))

    def judge(self, *, stopped: Collection[str] = (), **fields: Any) -> Report:
        """What the history says; emissions are judged beside what the checker knows.

        Args:
            stopped: Processes that were stopped and went on. What they ran before they could know that their leases
                were lost is left out; that it changed nothing is judged by all the rest.
            fields: Of `Expectations`.
        """
        events = _without_stale(self.events(), stopped)
        expected = Expectations(
            **{
                "sources": SOURCES,
                "ordered": frozenset({BILLING}),
                "acknowledged": 1,
                "liveness": 45.0,
                **self.engine,
                **fields,
            }
        )
        report = check([*events, *_crashed(events)], expected)
        faults = [event for event in events if event.op == "fault"]
        lost = _lost_mails(events)
        print(f"\n{report}\n{len(faults)} faults; in hand when they fired: {[int(event.value) for event in faults]}")
        return replace(report, violations=(*report.violations, *lost))

    def close(self) -> None:
        """Kills what is left, each by its own number."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
            process.wait()
        self.referee.__exit__()


def _without_stale(events: list[Event], stopped: Collection[str]) -> list[Event]:
    lost: dict[tuple[str, str, str], float] = {}
    """When a process last noted that a lease was lost."""
    for event in events:
        if event.op == "lost" and event.proc in stopped:
            lost[event.id, event.source, event.proc] = event.t
    stale = {
        (event.proc, event.number)
        for event in events
        if event.op == "deliver" and event.phase == "begin"
        and event.t < lost.get((event.id, event.source, event.proc), 0.0)
    }  # fmt: skip
    return [event for event in events if event.op != "deliver" or (event.proc, event.number) not in stale]


def _crashed(events: list[Event]) -> list[Event]:
    """The ends of runs that no process lived to write: a message that was buried as crashed ended with its letter."""
    open_runs: dict[tuple[str, str], Event] = {}
    ended = {(event.proc, event.number) for event in events if event.op == "deliver" and event.phase == "end"}
    for event in events:
        if event.op == "deliver" and event.phase == "begin" and (event.proc, event.number) not in ended:
            open_runs[event.id, event.source] = event
    crashed = {(event.id, event.source) for event in events if event.op == "letter" and event.name == "crashed"}
    return [
        msgspec.structs.replace(open_runs[event.id, event.source], t=event.t, phase="end", outcome="dead")
        for event in events
        if event.op == "settle"
        and event.name == "dead"
        and (event.id, event.source) in crashed
        and (event.id, event.source) in open_runs
    ]


def _lost_mails(events: list[Event]) -> list[Violation]:
    """A handler that was settled as a success emitted its mail: it must have been handled, or be dead."""
    settled = {event.id for event in events if event.op == "settle" and event.outcome and event.source == JOBS}
    dead = {event.id for event in events if event.op == "letter"}
    mails = {event.id for event in events if event.op == "deliver" and event.source == MAILS}
    emitted: dict[str, str] = {}
    """Mail by parent."""
    for event in events:
        if event.op == "publish" and event.channel == "mails":
            emitted[event.name] = event.id
    return [
        Violation("I1", f"{parent} was settled and its mail {mail} is lost")
        for parent, mail in emitted.items()
        if parent in settled and parent not in dead and mail not in mails and mail not in dead
    ]


@contextmanager
def crew(folder: Path, **defaults: Any) -> Iterator[Crew]:
    """A crew that is gone at the end, whatever happens."""
    made = Crew(folder, **defaults)
    try:
        yield made
    finally:
        made.close()


def until(true: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Waits for another process.

    Raises:
        AssertionError: It did not come true in time.
    """
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, f"it did not come true within {patience:g} s"
        time.sleep(0.02)


def assert_good(report: Report) -> None:
    """No violation."""
    if report.violations:
        pytest.fail(f"{len(report.violations)} violations\n" + "\n".join(map(str, report.violations[:10])))
