"""The real pipeline on an engine in memory, with time in the test's hands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Self

from ..app import Telex
from ..clock import Seconds, seconds
from ..delivery.runner import Runner
from ..engine import Decision, Fetched, Settlement, SourceStats
from ..errors import ConfigError
from ..message import Message
from ..policy import duration
from .clock import START, VirtualClock

PATIENCE = 30.0
"""Real seconds without any settlement after which waiting is given up."""
LEAVE = 1.0
"""Real seconds that handlers get when a test is over."""
MOST = 100 * 366 * 86400.0
"""Seconds that time may move at once."""
LOOK, LONGEST_LOOK = 0.0005, 0.02
"""Real seconds between looks at what is left to do."""


class Outcome(Enum):
    """What became of one attempt."""

    ACCEPTED = "accepted"
    RETRIED = "retried"
    DEAD = "dead"
    DISCARDED = "discarded"


_OUTCOMES = {
    Decision.ACCEPT: Outcome.ACCEPTED,
    Decision.RETRY: Outcome.RETRIED,
    Decision.DEAD: Outcome.DEAD,
    Decision.DISCARD: Outcome.DISCARDED,
}
"""RELEASE and TRIAL are missing: nothing ran."""


@dataclass(frozen=True, slots=True)
class Settled:
    """One attempt and its outcome.

    Attributes:
        message: What was delivered.
        source: Where, for example ``orders.placed/billing``.
        attempt: From 1.
        outcome: What became of it.
        at: When, in virtual time.
        error: What the handler raised; None where it returned.
    """

    message: Message
    source: str
    attempt: int
    outcome: Outcome
    at: datetime
    error: BaseException | None


class HandlersLeft(AssertionError):
    """A test ended while handlers still ran."""


class Harness:
    """Runs an application on another engine and in virtual time; everything else is the application's own.

    Eight attempts of backoff take no time: `drain` moves the clock to the next retry whenever nothing else is left.
    So do batches that wait to become fuller, and rates. Timeouts of handlers and of requests stay in real time, since
    handlers run in it.

    Args:
        app: The application; not open. It is the same object inside and afterwards.
        url: Where to run it; private memory unless told otherwise.
        now: The first instant of virtual time; aware.
        patience: Real seconds without any settlement after which `drain` and `advance` give up: a test that hangs
            explains nothing.

    Attributes:
        app: The application.
        clock: The virtual clock.
        settled: Every attempt so far, oldest first.

    Raises:
        ConfigError: On entering: the application is open, or is declared wrongly.
        ValueError: ``now`` has no time zone, or ``patience`` is not above 0.
    """

    def __init__(
        self, app: Telex, *, url: str = "memory://", now: datetime = START, patience: Seconds = PATIENCE
    ) -> None:
        if not isinstance(app, Telex):
            raise ConfigError(f"Harness({app!r}): give the application, a Telex")
        self.app = app
        self.clock = VirtualClock(now)
        self.settled: list[Settled] = []
        self._url = url
        self._patience = seconds(patience)
        if not self._patience > 0:
            raise ValueError(f"Harness(patience={patience!r}): write seconds above 0")
        self._reported = 0
        self._stack = AsyncExitStack()
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConfigError("this harness was entered before: make a new one for each test")
        async with AsyncExitStack() as stack:
            before = self.app._swap(url=self._url, clock=self.clock, observer=self._observe)
            stack.callback(self.app._restore, before)
            await stack.enter_async_context(self.app)
            await stack.enter_async_context(self.app.running())
            self._stack = stack.pop_all()
            self._entered = True
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Lets handlers that run come to their end, closes the application and gives it its engine and time back.

        Raises:
            HandlersLeft: One did not end within a second. Not raised over an error of the test itself, which gets it
                as a note.
        """
        left = await self._come_to_an_end()
        if not left:
            await self._stack.aclose()
            return
        grace, self.app.grace = self.app.grace, 0.0
        try:
            await self._stack.aclose()
        finally:
            self.app.grace = grace
        text = (
            f"the test ended while handlers still ran, which were given {LEAVE:g} s more: {'; '.join(left)}. "
            "Let the handler end, or give it a timeout, before the harness is left"
        )
        if error is None:
            raise HandlersLeft(text)
        error.add_note(text)

    async def drain(self) -> list[Settled]:
        """Runs everything there is to run, retries too, until nothing is ready, in hand or waiting for a retry.

        Virtual time moves to each retry as it comes. Delayed sends that are not due do not count.

        Returns:
            What was settled since `drain` or `advance` last returned.

        Raises:
            TimeoutError: Nothing was settled for ``patience``, and something is left: it says what.
            ConfigError: Outside ``async with``.
        """
        while (due := await self._quiet("drain")) is not None:
            self.clock.advance_to(due)
        return self._news()

    async def advance(self, by: Seconds) -> list[Settled]:
        """Lets an amount of virtual time pass, and runs what becomes due in it.

        Retries run at their own instants on the way, delayed sends at the end.

        Args:
            by: Seconds or a timedelta, not negative.

        Returns:
            What was settled since `drain` or `advance` last returned.

        Raises:
            ValueError: ``by`` is negative, or no duration.
            TimeoutError, ConfigError: As in `drain`.
        """
        step = duration("advance(by)", by, most=MOST)
        until = self.clock.now() + timedelta(seconds=step)
        while (due := await self._quiet("advance")) is not None and due <= until:
            self.clock.advance_to(due)
        self.clock.advance_to(until)
        await self._quiet("advance")
        return self._news()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _observe(
        self, source: str, fetched: Fetched, settlement: Settlement, error: BaseException | None, at: datetime
    ) -> None:
        outcome = _OUTCOMES.get(settlement.decision)
        if outcome is not None:
            attempt = fetched.failures + fetched.losses + 1
            self.settled.append(Settled(fetched.message, source, attempt, outcome, at, error))

    def _news(self) -> list[Settled]:
        news = self.settled[self._reported :]
        self._reported = len(self.settled)
        return news

    async def _quiet(self, verb: str) -> datetime | None:
        """Waits until nothing moves any more: when the next thing is due, None if nothing waits."""
        pause, seen, patient_until = LOOK, len(self.settled), time.monotonic() + self._patience
        while True:
            if not self._runners():
                raise ConfigError(f"{verb}() works inside `async with Harness(app) as harness:`")
            stats = await self._stats()
            due = self._due(stats)
            if due is not _NOW:
                return due
            if len(self.settled) > seen:
                pause, seen, patient_until = LOOK, len(self.settled), time.monotonic() + self._patience
            if time.monotonic() > patient_until:
                raise TimeoutError(
                    f"{verb}(): nothing was settled for {self._patience:g} s and something is left: "
                    f"{self._what_is_left(stats)}"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK)

    def _due(self, stats: Mapping[str, SourceStats]) -> datetime | None:
        """When something happens next: `_NOW` if something is to be run or runs, None if nothing is left."""
        instants: list[datetime] = []
        for runner in self._runners():
            one = stats.get(runner.bound.name, _NOTHING)
            if runner.waiting and not (runner.gathering and one.ready):
                timer = self.clock.next_timer()
                instants.append(_NOW if timer is None else timer)
            elif runner.busy or one.ready or one.leased:
                return _NOW
            if one.retrying:
                instants.append(one.next_retry or _NOW)
        first = min(instants, default=None)
        return _NOW if first is not None and first <= self.clock.now() else first

    async def _come_to_an_end(self) -> list[str]:
        """Starts nothing more, and gives handlers that run a moment; those that need longer."""
        for runner in self._runners():
            runner.pause()
        until = time.monotonic() + LEAVE
        while True:
            left = self._under_way()
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(LOOK if time.monotonic() < until - LEAVE / 2 else LONGEST_LOOK)

    def _under_way(self) -> list[str]:
        running = [(runner.bound, ids) for runner in self._runners() if (ids := runner.under_way)]
        return [
            f"{bound.function.__qualname__} with {', '.join(ids[:3])}{' …' if len(ids) > 3 else ''} of {bound.name}"
            for bound, ids in running
        ]

    def _what_is_left(self, stats: Mapping[str, SourceStats]) -> str:
        parts = [
            f"{s.source}: {s.ready} ready, {s.leased} in hand, {s.retrying} retrying"
            for s in stats.values()
            if s.ready or s.leased or s.retrying
        ]
        if running := self._under_way():
            parts.append(f"running: {'; '.join(running)}")
        return "; ".join(parts) or "something that no source shows"

    async def _stats(self) -> Mapping[str, SourceStats]:
        names = {runner.bound.name for runner in self._runners()}
        return {stats.source: stats for stats in (await self.app.stats()).sources if stats.source in names}

    def _runners(self) -> Sequence[Runner]:
        worker = self.app._worker
        return () if worker is None or not self._entered else worker._runners


_NOW = datetime.min.replace(tzinfo=UTC)
"""Stands for: something is there to be run now, or runs."""
_NOTHING = SourceStats(source="")
"""Of a source that the store does not know: a broadcast."""
