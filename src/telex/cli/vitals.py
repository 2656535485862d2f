"""What a worker process says about itself, once a second: for liveness, readiness and metrics. No message bodies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Literal

import msgspec

from ..app import Telex
from ..delivery.context import Delivery
from ..engine import Decision, Fetched, Settlement, SourceStats
from ..errors import TelexError
from ..events import VITALS_FAILING, qualified, words
from ..urls import redact

log = logging.getLogger("telex.worker")

EVERY = 1.0
STATS_EVERY, STATS_SHARE = 5.0, 0.01
"""Seconds between looks at the sources, and the most of the time they may take."""
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds in seconds of the histogram of handlers."""
OUTCOMES = {
    Decision.ACCEPT: "accepted",
    Decision.RETRY: "retried",
    Decision.DEAD: "dead",
    Decision.DISCARD: "discarded",
}


class Timing(msgspec.Struct):
    """How long the handlers of a source took.

    Attributes:
        running: Handlers under way.
        total: Seconds in all.
        buckets: How many took at most as long as the bound, and more than the one before; the last has no bound.
    """

    running: int = 0
    total: float = 0.0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def copy(self) -> Timing:
        """As it is now: who reads it is on another thread."""
        return Timing(self.running, self.total, list(self.buckets))


class Report(msgspec.Struct):
    """One sign of life.

    Attributes:
        at: When, in monotonic seconds of this host.
        state: Whether it takes messages.
        app: The application's name.
        engine: The engine's; empty before it is open.
        problems: What is wrong, one line each.
        lag: Seconds by which the event loop was late.
        settled: Deliveries by source and outcome, since the process began.
        timings: Of handlers, by source.
        sources: How the application's sources stand; None: this worker does not look.
    """

    at: float
    state: Literal["starting", "running", "draining"]
    app: str
    engine: str = ""
    problems: list[str] = []
    lag: float = 0.0
    settled: dict[str, dict[str, int]] = {}
    timings: dict[str, Timing] = {}
    sources: list[SourceStats] | None = None


Sink = Callable[[Report], object]


class Vitals:
    """Counts what happens in this process, and reports it.

    Args:
        app: Not open yet.
        sink: Takes the reports; quick.
        looks: Whether to look at the sources too: one worker is enough.
    """

    def __init__(self, app: Telex, sink: Sink, *, looks: bool) -> None:
        self._app = app
        self._sink = sink
        self._looks = looks
        self._settled: dict[str, dict[str, int]] = {}
        self._timings: dict[str, Timing] = {}
        self._sources: list[SourceStats] | None = None
        self._problem: str | None = None
        self._failing: set[str] = set()
        """What fails now and was complained of: once is enough until it works again."""
        app.instrument(observer=self._observe, middleware=self._time)
        sink(Report(at=time.monotonic(), state="starting", app=app.name))

    async def report(self) -> None:
        """Reports until it is cancelled; begun when the application is open."""
        looking = asyncio.ensure_future(self._look()) if self._looks else None
        try:
            lag = 0.0
            while True:
                try:
                    self._tell(lag)
                    self._failing.discard("reporting")
                except Exception as error:
                    self._complain("reporting", "this worker cannot say how it is", error)
                due = time.monotonic() + EVERY
                await asyncio.sleep(EVERY)
                lag = max(0.0, time.monotonic() - due)
        finally:
            if looking is not None:
                looking.cancel()

    def _tell(self, lag: float) -> None:
        problems = [redact(problem) for problem in self._app.problems()]
        if self._problem is not None:
            problems.append(self._problem)
        self._sink(
            Report(
                at=time.monotonic(),
                state="draining" if self._app.draining else "running",
                app=self._app.name,
                engine=self._app.features.engine,
                problems=problems,
                lag=lag,
                settled={source: dict(counts) for source, counts in self._settled.items()},
                timings={source: timing.copy() for source, timing in self._timings.items()},
                sources=self._sources,
            )
        )

    async def _look(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                names = {bound.name for bound in self._app.bound.bounds}
                wanted = [source for source in await self._app.admin.sources() if str(source) in names]
                self._sources = list(await self._app.admin.stats(wanted))
                self._problem = None
                self._failing.discard("looking")
            except TelexError as error:
                self._problem = f"the sources cannot be looked at: {redact(str(error))}"
            except Exception as error:  # A disk's, for example: who stopped here would show old numbers for ever.
                self._problem = f"the sources cannot be looked at: {redact(words(error))}"
                self._complain("looking", "the sources cannot be looked at", error)
            took = time.monotonic() - begun
            await asyncio.sleep(max(STATS_EVERY, took / STATS_SHARE))

    def _complain(self, what: str, text: str, error: Exception) -> None:
        """Once, until it works again."""
        if what not in self._failing:
            self._failing.add(what)
            VITALS_FAILING.log(
                log,
                "%s: %s; tried again every few seconds",
                text,
                redact(words(error)),
                exc_info=error,
                error=qualified(error),
            )

    def _observe(
        self, source: str, fetched: Fetched, settlement: Settlement, error: BaseException | None, at: datetime
    ) -> None:
        outcome = OUTCOMES.get(settlement.decision)
        if outcome is not None:
            counts = self._settled.setdefault(source, dict.fromkeys(OUTCOMES.values(), 0))
            counts[outcome] += 1

    async def _time(self, delivery: Delivery, call_next: Callable[[Delivery], Awaitable[Any]]) -> Any:
        timing = self._timings.get(delivery.source)
        if timing is None:
            timing = self._timings[delivery.source] = Timing()
        timing.running += 1
        begun = time.perf_counter()
        try:
            return await call_next(delivery)
        finally:
            took = time.perf_counter() - begun
            timing.running -= 1
            timing.total += took
            timing.buckets[bisect_left(BUCKETS, took)] += 1


class Pipe:
    """Sends reports to the process that started this one, and notices when that is gone.

    A thread writes: a report may be larger than the pipe, and the event loop must not wait for its reader.

    Args:
        fd: The pipe's end for writing.
        alone: Called once, on that thread, when nobody reads any more.
    """

    def __init__(self, fd: int, alone: Callable[[], object]) -> None:
        self._fd = fd
        self._alone = alone
        os.set_inheritable(fd, False)  # What a handler starts must not keep the pipe open.
        self._lines: queue.Queue[bytes] = queue.Queue(maxsize=1)
        threading.Thread(target=self._write, name="telex vitals", daemon=True).start()

    def __call__(self, report: Report) -> None:
        with contextlib.suppress(queue.Full):  # A reader that does not keep up misses a report.
            self._lines.put_nowait(msgspec.json.encode(report) + b"\n")

    def _write(self) -> None:
        try:
            while True:
                line = self._lines.get()
                while line:
                    line = line[os.write(self._fd, line) :]
        except OSError:
            self._alone()
