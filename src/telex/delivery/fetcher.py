"""Fetching ahead: enough that no slot waits, not so much that another process starves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from ..engine import Consumer, EngineClosed, Fetched
from ..events import FETCH_FAILING, FETCH_RECOVERED, line, qualified, said, wait

log = logging.getLogger("telex.delivery")

MOST = 4096
"""Most messages in hand for one source and process; the window of its subscription."""
MOST_BYTES = 64 * 1024 * 1024
SOON, LATE = 0.05, 0.5
"""A stock that lasts less than the first is doubled, one that lasts longer than the second is halved."""
WAIT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0


class Fetcher:
    """Keeps a stock of deliveries for one source.

    Attributes:
        in_hand: Deliveries fetched and not settled.
        problem: Why nothing is fetched, or None.
    """

    def __init__(self, consumer: Consumer, name: str, least: int, arrived: Callable[[Sequence[Fetched]], None]) -> None:
        self._consumer = consumer
        self._name = name
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._least = min(least, MOST)
        self._most = MOST
        self._stock = self._least
        self._filled = 0.0
        self._asked: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._blocked = False
        self._empty: asyncio.Future[None] | None = None
        self.in_hand = 0
        self.problem: str | None = None

    def start(self) -> None:
        """Begins to fetch."""
        self._task = self._loop.create_task(self._run(), name=f"telex {self._name} fetch")

    def used(self) -> None:
        """A delivery was settled. Called once a message."""
        self.in_hand -= 1
        if not self.in_hand and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        if self._asked is not None and self.in_hand * 2 <= self._stock and not self._blocked:
            self._ask()

    async def empty(self) -> None:
        """Returns once nothing is in hand."""
        while self.in_hand > 0:
            self._empty = self._loop.create_future()
            await self._empty

    def block(self, blocked: bool) -> None:
        """Fetches nothing while blocked."""
        self._blocked = blocked
        if not blocked:
            self._ask()

    async def stop(self) -> None:
        """Fetches no more, and gives back what the engine holds ready."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self._consumer.stop()

    def end(self) -> None:
        """Fetches no more, without a word to the engine: its consumer is closed next. Idempotent."""
        if self._task is not None:
            self._task.cancel()

    def _ask(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._fetch()
            except EngineClosed:
                return
            except Exception as error:
                self.problem = f"{self._name}: cannot fetch: {line(said(error))}"
                FETCH_FAILING.log(
                    log,
                    "%s; trying again in %s",
                    self.problem,
                    wait(pause),
                    source=self._name,
                    error=qualified(error),
                    delay=pause,
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                if self.problem is not None:
                    self.problem = None
                    pause = FIRST_PAUSE
                    FETCH_RECOVERED.log(log, "%s: messages are fetched again", self._name, source=self._name)

    async def _fetch(self) -> None:
        while self._blocked or self.in_hand * 2 > self._stock:
            self._asked = self._loop.create_future()
            await self._asked
            self._asked = None
        self._adapt()
        batch = await self._consumer.fetch(self._stock - self.in_hand, WAIT)
        if batch:
            self.in_hand += len(batch)
            # What came back may be put on trial at once, which says nothing about how quickly handlers are.
            self._filled = 0.0 if any(fetched.losses for fetched in batch) else self._loop.time()
            self._bound(batch)
            self._arrived(batch)

    def _adapt(self) -> None:
        """The stock has half run out: how long did that take?"""
        if not self._filled:
            return
        lasted = self._loop.time() - self._filled
        if lasted < SOON:
            self._stock = min(self._stock * 2, self._most)
        elif lasted > LATE:
            self._stock = max(self._stock // 2, self._least)

    def _bound(self, batch: Sequence[Fetched]) -> None:
        """Large bodies: fewer of them."""
        size = sum([len(fetched.message.body) for fetched in batch]) // len(batch) + 1
        self._most = max(1, min(MOST, MOST_BYTES // size))
        self._stock = min(self._stock, self._most)
