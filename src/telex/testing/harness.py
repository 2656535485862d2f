"""The real pipeline on an engine in memory, with time in the test's hands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Self

from ..app import Telex
from ..clock import Seconds, seconds
from ..delivery.runner import Runner
from ..engine import Decision, Fetched, Settlement, SourceStats
from ..message import Message
from .clock import START, VirtualClock

PATIENCE = 30.0
"""Real seconds without any settlement after which waiting is given up: a test that hangs explains nothing."""
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


class Harness:
    """Runs an application on another engine and in virtual time; everything else is the application's own.

    Eight attempts of backoff take no time: `drain` moves the clock to the next retry whenever nothing else is left.
    Timeouts of handlers, batch waits, rates and request timeouts stay in real time.

    Args:
        app: The application; not open. It is the same object inside and afterwards.
        url: Where to run it; private memory unless told otherwise.
        now: The first instant of virtual time; aware.

    Attributes:
        app: The application.
        clock: The virtual clock.
        settled: Every attempt so far, oldest first.

    Raises:
        ConfigError: On entering: the application is open, or is declared wrongly.
    """

    def __init__(self, app: Telex, *, url: str = "memory://", now: datetime = START) -> None:
        self.app = app
        self.clock = VirtualClock(now)
        self.settled: list[Settled] = []
        self._url = url
        self._reported = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            before = self.app._swap(url=self._url, clock=self.clock, observer=self._observe)
            stack.callback(self.app._restore, before)
            await stack.enter_async_context(self.app)
            await stack.enter_async_context(self.app.running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Drains what runs, closes the application and gives it its own engine and time back."""
        await self._stack.aclose()

    async def drain(self) -> list[Settled]:
        """Runs everything there is to run, retries too, until nothing is ready, in hand or waiting for a retry.

        Virtual time moves to each retry as it comes. Delayed sends that are not due do not count.

        Returns:
            What was settled since `drain` or `advance` last returned.

        Raises:
            TimeoutError: Nothing was settled for 30 seconds of real time, and something is left.
        """
        while (due := await self._quiet()) is not None:
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
            ValueError: ``by`` is negative.
            TimeoutError: As in `drain`.
        """
        if seconds(by) < 0:
            raise ValueError(f"advance({by!r}): time does not go back")
        until = self.clock.now() + timedelta(seconds=seconds(by))
        while (due := await self._quiet()) is not None and due <= until:
            self.clock.advance_to(due)
        self.clock.advance_to(until)
        await self._quiet()
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

    async def _quiet(self) -> datetime | None:
        """Waits until nothing is ready or in hand: when the next retry is due, None if none waits."""
        pause, seen, patient_until = LOOK, len(self.settled), time.monotonic() + PATIENCE
        while True:
            stats = await self._stats()
            due = _due(stats, self.clock.now())
            if due is not _NOW and not any(runner.busy for runner in self._runners()):
                return due
            if len(self.settled) > seen:
                pause, seen, patient_until = LOOK, len(self.settled), time.monotonic() + PATIENCE
            if time.monotonic() > patient_until:
                raise TimeoutError(f"nothing was settled for {PATIENCE:g} s and something is left: {_left(stats)}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK)

    async def _stats(self) -> Sequence[SourceStats]:
        names = {runner.bound.name for runner in self._runners()}
        return [stats for stats in (await self.app.stats()).sources if stats.source in names]

    def _runners(self) -> Sequence[Runner]:
        worker = self.app._worker
        return () if worker is None else worker._runners


_NOW = datetime.min
"""Stands for: something is there to be run now."""


def _due(stats: Sequence[SourceStats], now: datetime) -> datetime | None:
    if any(s.ready or s.leased for s in stats):
        return _NOW
    waiting = [s for s in stats if s.retrying]
    if not waiting:
        return None
    times = [s.next_retry for s in waiting if s.next_retry is not None]
    if not times or (first := min(times)) <= now:
        return _NOW
    return first


def _left(stats: Sequence[SourceStats]) -> str:
    parts = [
        f"{s.source}: {s.ready} ready, {s.leased} in hand, {s.retrying} retrying"
        for s in stats
        if s.ready or s.leased or s.retrying
    ]
    return "; ".join(parts) or "a handler still runs"
