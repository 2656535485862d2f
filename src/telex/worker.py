"""Running an application's handlers: which, until when, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from .clock import Clock
from .delivery.bound import Bound
from .delivery.fetcher import MOST
from .delivery.runner import Observer, Runner
from .engine import Source, SourceKind, Subscription
from .errors import ConfigError, Disconnected
from .events import CUT_SHORT, STARTED, STOPPED, STOPPING, wait
from .session import Session
from .signals import listening
from .tracing import Tracing

if TYPE_CHECKING:
    from .app import Telex

log = logging.getLogger("telex.worker")

LOOK = 0.02
LONGEST_LOOK = 0.25
"""Seconds between looks at whether there is anything left to do."""


class Worker:
    """The handlers of one application at work in this process."""

    def __init__(
        self,
        app: Telex,
        session: Session,
        clock: Clock,
        random: Random,
        observer: Observer | None,
        tracing: Tracing | None,
    ) -> None:
        self._app = app
        self._session = session
        self._clock = clock
        self._random = random
        self._observer = observer
        self._tracing = tracing
        self._runners: list[Runner] = []
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._fatal: BaseException | None = None

    def choose(self, only: Collection[str]) -> Sequence[Bound]:
        """The handlers to run.

        Raises:
            ConfigError: There are none, or ``only`` names a source without a handler.
        """
        bounds = self._session.plan.bounds
        if isinstance(only, str):
            raise ConfigError(f"only={only!r}: write a list of sources")
        names = [bound.name for bound in bounds]
        if unknown := sorted(set(only) - set(names)):
            raise ConfigError(f"only: no handler for {', '.join(unknown)}; there are {', '.join(names) or 'none'}")
        return [bound for bound in bounds if not only or bound.name in only]

    async def start(self, bounds: Sequence[Bound]) -> None:
        """Begins to consume."""
        for bound in bounds:
            runner = Runner(self._app, bound, self._clock, self._random, self._observer, self._tracing)
            subscription = Subscription(source=bound.source, start=bound.start, window=MOST)
            runner.attach(await self._session.engine.consume(subscription, runner.lost))
            self._runners.append(runner)
        for runner in self._runners:
            runner.start()
        sources = ", ".join(bound.name for bound in bounds)
        STARTED.log(log, "%s runs %s", self._app.name, sources or "no handlers", app=self._app.name, sources=sources)

    async def wait(self, *, until_idle: bool) -> None:
        """Returns when told to stop, or when nothing is left to do.

        Raises:
            SystemExit, KeyboardInterrupt: A handler raised it.
        """
        with listening(self._signalled):
            stop = asyncio.ensure_future(self._stop.wait())
            try:
                if until_idle:
                    idle = asyncio.ensure_future(self._idle())
                    try:
                        await asyncio.wait([stop, idle], return_when=asyncio.FIRST_COMPLETED)
                        if idle.done():
                            idle.result()
                    finally:
                        idle.cancel()
                else:
                    await stop
            finally:
                stop.cancel()
            await self._drain(self._app.grace)
        if self._fatal is not None:
            raise self._fatal

    async def stop(self, grace: float) -> None:
        """Drains and ends; idempotent."""
        await self._drain(grace)

    def fatal(self, error: BaseException) -> None:
        """Drains, then `wait` raises it."""
        self._fatal = self._fatal or error
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def runs(self, name: str) -> bool:
        """Whether a source is consumed here."""
        return any(runner.bound.name == name for runner in self._runners)

    def runner(self, name: str) -> Runner:
        """The runner of a source.

        Raises:
            ConfigError: It does not run here.
        """
        for runner in self._runners:
            if runner.bound.name == name:
                return runner
        running = ", ".join(runner.bound.name for runner in self._runners)
        raise ConfigError(f"no handler of {name!r} runs in this process; there are {running or 'none'}")

    def problems(self) -> list[str]:
        """What is wrong here, one line each."""
        return [problem for runner in self._runners if (problem := runner.problem) is not None]

    @property
    def expired(self) -> int:
        """Requests discarded here because nobody waited for their answer any more."""
        return sum(runner.expired for runner in self._runners)

    async def _idle(self) -> None:
        """Returns once these sources have nothing ready, in hand or waiting for a retry, here or anywhere."""
        sources = [r.bound.source for r in self._runners if r.bound.source.kind is not SourceKind.BROADCAST]
        pause = LOOK
        while True:
            if not any(runner.busy for runner in self._runners) and await self._nothing_left(sources):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, LONGEST_LOOK)

    async def _nothing_left(self, sources: Sequence[Source]) -> bool:
        try:
            stats = await self._session.engine.admin.stats(sources)
        except Disconnected:  # The engine says so, and connects again: an outage is not the end of the work.
            return False
        return not any(s.ready or s.leased or s.retrying for s in stats) and not any(r.busy for r in self._runners)

    async def _drain(self, grace: float) -> None:
        runners, self._runners = self._runners, []
        if not runners:
            return
        draining = asyncio.ensure_future(_drained(runners))
        hurry = asyncio.ensure_future(self._at_once.wait())
        try:
            done, _ = await asyncio.wait([draining, hurry], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if draining in done:
                draining.result()
            elif hurry in done:
                text = "told twice to stop: ends at once; what is in hand comes back"
                CUT_SHORT.log(log, text, reason="signal", grace=grace)
            else:
                text = "the grace of %s is over: ends now; what is in hand comes back"
                CUT_SHORT.log(log, text, wait(grace), reason="grace", grace=grace)
        finally:
            await _finish(self._close(runners, [draining, hurry]))

    async def _close(self, runners: Sequence[Runner], waits: Sequence[asyncio.Future[Any]]) -> None:
        """Ends every runner, whatever becomes of the others, and then raises what the first of them raised."""
        for task in waits:
            task.cancel()
        await asyncio.wait(waits)
        ends = await asyncio.gather(*(runner.close() for runner in runners), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        STOPPED.log(log, "%s has stopped", self._app.name, app=self._app.name)

    def _signalled(self, name: str) -> None:
        """The first signal drains, the second ends at once."""
        if self._stop.is_set():
            self._at_once.set()
            return
        text, grace = "%s: takes nothing new and finishes what runs, for at most %s", self._app.grace
        STOPPING.log(log, text, name, wait(grace), signal=name, grace=grace)
        self._stop.set()


async def _drained(runners: Sequence[Runner]) -> None:
    await asyncio.gather(*(runner.stop() for runner in runners))
    await asyncio.gather(*(runner.drained() for runner in runners))


async def _finish(end: Coroutine[Any, Any, None]) -> None:
    """Awaits it to its end; a cancellation meanwhile comes afterwards: nothing may run on when `run` has returned."""
    task = asyncio.ensure_future(end)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    task.result()
