"""The processes of one fault run: started, killed by their own numbers, and judged at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from telex.testing.checker import Expectations, Report, Violation, check
from telex.testing.history import Event, Recorder, digest, read

from .program import BILLING, JOBS, MAILS, SOURCES, Config, Program
from .watching import TOLD

ROOT = Path(__file__).parents[2]
COPIES = 2.0
"""Seconds around a fault within which an engine that is not atomic may leave copies; see `Expectations.copies`."""
PATIENCE = 60.0
"""Seconds after which waiting for a process is a failure."""
TELLING = 2.0
"""Seconds from a process's knowing that its leases are gone to its handlers' being told: one commit."""


class Process:
    """One process of a run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.history = Path(config.folder) / f"{config.name}.jsonl"
        self._read = 0
        self._events: list[Event] = []
        self.continued: list[float] = []
        """When it was told to go on after it had been stopped."""
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
            if number == signal.SIGCONT and is_stopped(self.popen.pid):
                self.continued.append(time.monotonic())
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

    @property
    def handled(self) -> int:
        """Runs of handlers that ended well."""
        return sum(event.op == "deliver" and event.outcome == "ok" for event in self.events())

    def events(self) -> list[Event]:
        """What it wrote down so far. Read on from where it was read to: tests ask many times a second."""
        if self.history.exists():
            with self.history.open("rb") as file:
                file.seek(self._read)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            self._events += [msgspec.json.decode(line, type=Event) for line in whole.splitlines()]
        return self._events

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return (Path(self.config.folder) / f"{self.config.name}.err").read_text()

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
        self.store: str = self._defaults["store"]
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

    def judge(self, *, damaged: Mapping[str, str] | None = None, **fields: Any) -> Report:
        """What the history says; emissions are judged beside what the checker knows.

        What a process that was stopped began after it went on and before its handlers were told that the leases are
        gone is left out: nobody can know that sooner. That it changed nothing is judged by all the rest.

        Args:
            damaged: Whose letter it is, by the id of each letter that stands for a damaged message.
            fields: Of `Expectations`.
        """
        continued = {process.config.name: process.continued for process in self.processes if process.continued}
        events = _without_stale(_named(self.events(), damaged or {}), continued)
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
        in_hand = [int(event.value) for event in events if event.op == "fault"]
        print(f"\n{report}\n{len(in_hand)} faults; in hand when they fired: {in_hand}")
        more = [*_lost_mails(events), *_told_late(events), *_vacuous(events, in_hand)]
        return replace(report, violations=(*report.violations, *more))

    def close(self) -> None:
        """Kills what is left, each by its own number."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
            process.wait()
        self.referee.__exit__()


def _without_stale(events: list[Event], continued: Mapping[str, Sequence[float]]) -> list[Event]:
    told: dict[tuple[str, str, str], list[float]] = {}
    """When a process's handlers were told that a lease was lost."""
    for event in events:
        if event.op == "lost" and event.name == TOLD:
            told.setdefault((event.id, event.source, event.proc), []).append(event.t)
    stale = {
        (event.proc, event.number)
        for event in events
        if event.op == "deliver" and event.phase == "begin"
        for since in continued.get(event.proc, ())
        if since <= event.t <= _first(told.get((event.id, event.source, event.proc), ()), since)
    }  # fmt: skip
    return [event for event in events if event.op != "deliver" or (event.proc, event.number) not in stale]


def _first(times: Sequence[float], since: float) -> float:
    """The first of these at or after a moment: what is told again later was known before."""
    return min((t for t in times if t >= since), default=0.0)


def _named(events: list[Event], damaged: Mapping[str, str]) -> list[Event]:
    """Letters of damaged messages by the names that those had: nobody can read them any more."""
    digests = {event.id: event.digest for event in events if event.op == "publish"}
    named = []
    for event in events:
        id = damaged.get(event.id) if event.op == "letter" and event.name == "damaged" else None
        named.append(event if id is None else msgspec.structs.replace(event, id=id, digest=digests[id]))
    return named


def _told_late(events: list[Event]) -> list[Violation]:
    """A process that knows that it was taken for dead tells its handlers at once."""
    knows = [event for event in events if event.op == "lost" and event.name == "knows"]
    found = []
    for known in knows:
        told = [event.t for event in events if (event.op, event.name, event.proc) == ("lost", TOLD, known.proc)]
        after = [t for t in told if t >= known.t]
        if told and (not after or min(after) > known.t + TELLING):
            found.append(Violation("I4", f"{known.proc} knew that its leases were lost and did not tell its handlers"))
    return found


def _vacuous(events: list[Event], in_hand: Sequence[int]) -> list[Violation]:
    """Whether a fault hit work, and whether anybody lived to say what he holds at his end."""
    found = []
    if in_hand and not any(in_hand):
        found.append(Violation("vacuous", "every fault fired while nothing was in hand"))
    if not any(event.op == "resources" and event.last for event in events):
        found.append(Violation("vacuous", "no process measured its resources at its end"))
    return found


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


def is_stopped(pid: int) -> bool:
    """Whether a signal stopped a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


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
