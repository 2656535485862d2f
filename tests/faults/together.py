"""A publisher and a worker within the test's own process, whose disk the test holds in its hand."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from telex.testing.history import Recorder

from .crew import Crew
from .program import Program

PATIENCE = 20.0


class Together:
    """Both at work.

    Attributes:
        outcomes: What became of the publishes: ok, fail, unknown.
        errors: Texts of their errors.
    """

    def __init__(self, made: Crew, publisher: Program, worker: Program) -> None:
        self.made = made
        self.publisher = publisher
        self.worker = worker
        self.outcomes: Counter[str] = Counter()
        self._no = 1
        self._publishing = asyncio.Event()
        self._publishing.set()
        self._quiet = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Deliveries fetched and not settled."""
        return self.worker.points.in_hand

    @property
    def publishes(self) -> bool:
        """Whether the thread that asks is the one that writes what is published."""
        session = self.publisher.app._session
        assert session is not None
        engine: Any = session.engine
        return threading.current_thread() is engine._core.writer._thread

    @property
    def handled(self) -> int:
        """Runs of handlers that ended."""
        return sum(event.op == "deliver" and event.phase == "end" for event in self.made.events())

    @property
    def problems(self) -> str:
        """What the two applications say is wrong; `stats` says the same, but asks the store, which may not answer."""
        found = list[str]()
        for app in (self.publisher.app, self.worker.app):
            if app._session is not None:
                found += app._session.engine.problems()
            if app._worker is not None:
                found += app._worker.problems()
        return " | ".join(found)

    async def fault(self, name: str, least: int = 1) -> None:
        """Waits until enough is in hand, and notes the fault; the caller makes it without another await."""
        await self.until(lambda: self.in_hand >= least)
        self.made.fault(name, self.in_hand)

    async def until(self, true: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Waits for something.

        Raises:
            AssertionError: It did not come true in time.
        """
        end = time.monotonic() + patience
        while not true():
            assert time.monotonic() < end, f"it did not come true within {patience:g} s: {self.problems}"
            await asyncio.sleep(0.01)

    async def new(self, outcome: str, number: int = 1) -> None:
        """Waits until so many more publishes ended so."""
        wanted = self.outcomes[outcome] + number
        await self.until(lambda: self.outcomes[outcome] >= wanted)

    async def publish(self, to: str, act: str = "") -> str:
        """One message of the test's choice."""
        body = {"id": f"x-{self._no}", "key": "x", "seq": self._no, "act": act}
        self._no += 1
        return await self.publisher.publish(to, body)

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """No publishes meanwhile."""
        self._publishing.clear()
        await self.until(self._quiet.is_set)
        yield
        self._publishing.set()

    async def run(self) -> None:
        """Publishes in bursts until cancelled."""
        config, no = self.publisher.config, 1
        while True:
            self._quiet.set()
            await self._publishing.wait()
            self._quiet.clear()
            bodies = self.publisher.bodies(no, config.burst)
            self.outcomes.update(await asyncio.gather(*(self.publisher.publish(to, body) for to, body in bodies)))
            no += config.burst
            self._quiet.set()
            await asyncio.sleep(config.pace)


@asynccontextmanager
async def at_work(made: Crew, **fields: Any) -> AsyncIterator[Together]:
    """Publishes and handles until the end of the block; what is left is for `Crew.drain`."""
    with (
        Recorder(made.folder / "publisher.jsonl", "publisher") as one,
        Recorder(made.folder / "worker.jsonl", "worker") as other,
    ):
        publisher, worker = made.program("publisher", one, **fields), made.program("worker", other, **fields)
        run = Together(made, publisher, worker)
        with worker.points:
            async with publisher.app, worker.app.running():
                task = asyncio.create_task(run.run())
                try:
                    yield run
                    async with run.silence():
                        pass
                finally:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task


class Processor:
    """Time of this process's processor, as a share of the time that passed since it was made."""

    def __init__(self) -> None:
        self._cpu, self._begun = self._used(), time.monotonic()

    @property
    def share(self) -> float:
        """1.0: one processor was busy all the time."""
        return (self._used() - self._cpu) / self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._begun

    @staticmethod
    def _used() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime
