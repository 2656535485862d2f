"""Settling in batches, and going on until it is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..engine import Consumer, Decision, Fetched, Settled, Settlement
from ..events import (
    LEASE_LOST,
    SETTLE_BROKEN,
    SETTLE_FAILING,
    SETTLE_RECOVERED,
    SETTLE_UNCERTAIN,
    qualified,
    wait,
    words,
)

log = logging.getLogger("telex.delivery")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
IN_FLIGHT = 4
"""Batches at the engine at once: enough that a reply need not wait for the batch before it."""

_WORDS = {
    Decision.RETRY: "its retry",
    Decision.DEAD: "its dead letter",
    Decision.TRIAL: "its trial",
}

Answered = Callable[[Fetched, Settlement, Settled], None]


class Settler:
    """Hands settlements to the engine in batches.

    FAILED ones are settled again with backoff, the handler is never run again for them, and the source takes
    nothing new meanwhile (`failing`).
    """

    def __init__(self, consumer: Consumer, source: str, answered: Answered, failing: Callable[[bool], None]) -> None:
        self._consumer = consumer
        self._source = source
        self._answered = answered
        self._tell = failing
        self._loop = asyncio.get_running_loop()
        self._pending: list[tuple[Fetched, Settlement]] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause = 0.0
        self.unsettled = 0
        """Settlements the engine has not answered finally."""
        self.failing = False

    def add(self, fetched: Fetched, settlement: Settlement) -> None:
        """Settles soon."""
        self._pending.append((fetched, settlement))
        self.unsettled += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def has(self, fetched: Fetched) -> bool:
        """Whether it was added and is not handed to the engine yet."""
        return any(added is fetched for added, _ in self._pending)

    async def flush(self) -> None:
        """Waits until everything added is settled."""
        while self.unsettled:
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Gives up what is not settled: it comes back as a loss."""
        for task in self._tasks:
            task.cancel()

    def _flush(self) -> None:
        self._scheduled = False
        if not self._pending or len(self._tasks) >= IN_FLIGHT:
            return
        batch, self._pending = self._pending, []
        task = self._loop.create_task(self._settle(batch))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            SETTLE_BROKEN.log(
                log,
                "%s: settling failed (%s); the messages come back",
                self._source,
                words(error),
                source=self._source,
                error=qualified(error),
            )
        if self._pending:
            self._flush()

    async def _settle(self, batch: list[tuple[Fetched, Settlement]]) -> None:
        done = 0
        try:
            while True:
                answers = await self._consumer.settle([settlement for _, settlement in batch])
                failed = []
                for item, answer in zip(batch, answers, strict=True):
                    if answer is Settled.FAILED:
                        failed.append(item)
                        continue
                    done += 1
                    if answer is Settled.LOST or answer is Settled.UNKNOWN:
                        self._report(item[0], item[1], answer)
                    self._answered(item[0], item[1], answer)
                self.unsettled -= done
                done = 0
                if not failed:
                    self._recovered()
                    return
                batch = failed
                await self._wait(failed)
        except BaseException:
            self.unsettled -= len(batch)
            raise

    def _recovered(self) -> None:
        if self.failing:
            self.failing = False
            self._pause = 0.0
            SETTLE_RECOVERED.log(log, "%s: outcomes are stored again", self._source, source=self._source)
            self._tell(False)

    async def _wait(self, failed: list[tuple[Fetched, Settlement]]) -> None:
        if not self.failing:
            self.failing = True
            self._tell(True)
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        SETTLE_FAILING.log(
            log,
            "%s: the engine could not store the outcome of %d messages; trying again in %s, taking none meanwhile",
            self._source,
            len(failed),
            wait(self._pause),
            source=self._source,
            messages=len(failed),
            delay=self._pause,
        )
        await asyncio.sleep(self._pause)

    def _report(self, fetched: Fetched, settlement: Settlement, answer: Settled) -> None:
        what = _WORDS.get(settlement.decision, "its outcome")
        if answer is Settled.LOST:
            event, text = LEASE_LOST, "%s: LeaseLost: message %s was taken over before %s was stored"
        else:
            event, text = SETTLE_UNCERTAIN, "%s: message %s: the engine does not know whether %s was stored"
        id = fetched.message.id
        event.log(log, f"{text}; its handler may run twice", self._source, id, what, source=self._source, message_id=id)
