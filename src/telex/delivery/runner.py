"""One source at work in this process: a stock of deliveries, and slots that run the handler."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING

import msgspec

from ..clock import Clock, seconds
from ..engine import Consumer, Decision, Fetched, Settled, Settlement
from .bound import Bound
from .deadline import Slot, Stop
from .execution import Execution
from .fetcher import Fetcher
from .order import KeyOrder
from .rate import Rate
from .settler import Settler

if TYPE_CHECKING:
    from ..app import Telex

log = logging.getLogger("telex.delivery")

TURN = 0.002
"""Seconds after which a slot lets the rest of the loop run, when its handlers never wait."""

Observer = Callable[[str, Fetched, Settlement, BaseException | None, datetime], None]


class Runner:
    """Runs the handler of one source.

    ``concurrency`` long-lived tasks, the slots, take messages from one queue: a task a message would cost 5 us.
    """

    def __init__(self, app: Telex, bound: Bound, clock: Clock, random: Random, observer: Observer | None) -> None:
        self.bound = bound
        self._clock = clock
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._slots: list[Slot] = []
        self._execution = Execution(app, bound, self._slots, self._settle, clock, random)
        self._order = KeyOrder() if bound.source.ordered else None
        self._holds = app.features.holds_keys
        self._stopped = asyncio.Event()
        self._rate = Rate(bound.rate, self._stopped) if bound.rate else None
        self._ready: deque[Fetched] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._held: dict[asyncio.TimerHandle, Fetched] = {}
        self._gathering = asyncio.Lock()
        """Held by the slot that gathers a batch: two would each get half of one."""
        self._gatherer: asyncio.Future[None] | None = None
        self._paused = False
        self._stopping = False

    # -- life -------------------------------------------------------------------------------------------------------

    def attach(self, consumer: Consumer) -> None:
        """Gives it the consumer, which was made with `lost` of this runner."""
        self._consumer = consumer
        self._settler = Settler(consumer, self.bound.name, self._answered, self._failing)
        least = self.bound.concurrency * (self.bound.batch.size if self.bound.batch else 1) * 2
        self._fetcher = Fetcher(consumer, self.bound.name, least, self._arrived)

    def start(self) -> None:
        """Begins to fetch and run."""
        self._fetcher.start()

    def pause(self) -> None:
        """Starts nothing new in this process; what runs goes on."""
        self._paused = True
        self._fetcher.block(True)

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._paused = False
        self._fetcher.block(self._settler.failing)
        self._wake()

    def _failing(self, failing: bool) -> None:
        self._fetcher.block(failing or self._paused)

    @property
    def busy(self) -> bool:
        """Whether anything is in hand here."""
        return self._fetcher.in_hand > 0 or self._settler.unsettled > 0

    @property
    def problem(self) -> str | None:
        """What is wrong with this source now."""
        if self._settler.failing:
            return f"{self.bound.name}: outcomes cannot be stored; the source takes nothing new until they are"
        return self._fetcher.problem

    def lost(self, leases: Sequence[object]) -> None:
        """The engine says that leases are gone; from any thread."""
        self._loop.call_soon_threadsafe(self._lost, leases)

    async def stop(self) -> None:
        """Takes nothing more and gives back what was not started; what runs goes on."""
        self._stopping = True
        self._stopped.set()
        if self._gatherer is not None and not self._gatherer.done():
            self._gatherer.set_result(None)
        for timer in self._held:
            timer.cancel()
        await self._fetcher.stop()  # First: what is given back while the source is read would come again at once.
        unstarted = [*self._ready, *self._held.values(), *(self._order.drain() if self._order else ())]
        self._held.clear()
        self._ready.clear()
        self._release(unstarted)
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)

    async def drained(self) -> None:
        """Returns once nothing runs and all is settled."""
        await self._fetcher.empty()
        await self._settler.flush()

    async def close(self) -> None:
        """Ends everything; what is unsettled comes back as a loss."""
        for slot in self._slots:
            if slot.until:
                ids = ", ".join(f.message.id for f in slot.taken[:3])
                log.warning(
                    "%s: the handler of %s still ran at the end of the grace; it comes back", self.bound.name, ids
                )
            slot.cancel(Stop.DRAIN)
        tasks = [slot.task for slot in self._slots if slot.task is not None and not (slot.until and slot.in_thread)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        self._settler.close()
        self._execution.close()
        await self._consumer.close()

    # -- the stock --------------------------------------------------------------------------------------------------

    def _arrived(self, batch: Sequence[Fetched]) -> None:
        if self._stopping:
            self._release(batch)
            return
        if self._order is None:
            self._ready.extend(batch)
        else:
            for fetched in batch:
                if self._order.enter(fetched):
                    self._begin(fetched)
        if self._gatherer is not None and not self._gatherer.done():
            self._gatherer.set_result(None)
        self._wake()

    def _begin(self, fetched: Fetched) -> None:
        """The head of a key may start: now, or at its time if an earlier process left it waiting."""
        if fetched.not_before is not None:
            self._hold(fetched, fetched.not_before)
        else:
            self._ready.append(fetched)

    def _hold(self, fetched: Fetched, until: datetime) -> None:
        def due() -> None:
            del self._held[timer]
            self._ready.append(fetched)
            self._wake()

        timer = self._loop.call_later(max(0.0, (until - self._clock.now()).total_seconds()), due)
        self._held[timer] = fetched

    def _release(self, deliveries: Sequence[Fetched]) -> None:
        for fetched in deliveries:
            self._settle(fetched, Settlement(fetched.lease, Decision.RELEASE), None)

    def _lost(self, leases: Sequence[object]) -> None:
        """Forgets what waits, stops what runs."""
        gone = {id(lease) for lease in leases}
        if self._order is not None:  # First: otherwise the end of one lets the next of its key begin, lost as well.
            for _ in self._order.drop(leases):
                self._fetcher.used()
        waiting = [f for f in self._ready if id(f.lease) in gone]
        for fetched in waiting:
            self._ready.remove(fetched)
            self._forget(fetched)
        for timer, fetched in list(self._held.items()):
            if id(fetched.lease) in gone:
                timer.cancel()
                del self._held[timer]
                self._forget(fetched)
        for slot in self._slots:
            if any(id(f.lease) in gone for f in slot.taken):
                slot.cancel(Stop.LOST)

    def _forget(self, fetched: Fetched) -> None:
        """A delivery is not ours any more."""
        self._fetcher.used()
        self._next_of_key(fetched)

    def _next_of_key(self, fetched: Fetched) -> None:
        if self._order is not None and (follower := self._order.leave(fetched)) is not None:
            if self._stopping:
                self._release([follower])
            else:
                self._begin(follower)
                self._wake()

    # -- slots ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Lets one more slot look for work. It wakes the next itself: handlers that never wait need only one."""
        if self._waking or not self._ready or self._paused or self._stopping:
            return
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                self._waking = True
                idle.set_result(None)
                return
        if len(self._slots) < self.bound.concurrency:
            self._waking = True
            slot = Slot()
            self._slots.append(slot)
            slot.task = self._loop.create_task(self._work(slot), name=f"telex {self.bound.name} {len(self._slots)}")

    async def _work(self, slot: Slot) -> None:
        """A slot's life."""
        ready, time = self._ready, self._loop.time
        while not self._stopping:
            self._waking = False
            turn_ends = time() + TURN
            while ready and not self._paused:
                await self._next(slot)
                if time() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time() + TURN
            if self._stopping:
                return
            idle: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(idle)
            await idle

    async def _next(self, slot: Slot) -> None:
        taken = [self._ready.popleft()] if self.bound.batch is None else await self._gather()
        if self._rate is not None and taken:
            await self._rate.turn(len(taken))
        if self._stopping:
            self._release(taken)
            return
        if not taken:
            return
        if self._ready and not self._waking:
            self._wake()
        for fetched in await self._execution.run(slot, taken):
            self._forget(fetched)

    async def _gather(self) -> list[Fetched]:
        """A full batch, or what came within its wait. What failed before goes alone."""
        batch = self.bound.batch
        assert batch is not None
        async with self._gathering:
            ready = self._ready
            if not ready:
                return []
            taken = [ready.popleft()]
            if _marked(taken[0]):
                return taken
            deadline = self._loop.time() + seconds(batch.wait)
            while True:
                while ready and len(taken) < batch.size and not _marked(ready[0]):
                    taken.append(ready.popleft())
                left = deadline - self._loop.time()
                if len(taken) >= batch.size or left <= 0 or ready or self._stopping:
                    return taken
                self._gatherer = self._loop.create_future()
                timer = self._loop.call_later(left, _set, self._gatherer)
                await self._gatherer
                timer.cancel()
                self._gatherer = None

    # -- settling ---------------------------------------------------------------------------------------------------

    def _settle(self, fetched: Fetched, settlement: Settlement, error: BaseException | None) -> None:
        """Hands a decision on. An accepted message lets the next of its key go at once, any other when it is stored."""
        self._fetcher.used()
        if self._observer is not None:
            self._observer(self.bound.name, fetched, settlement, error, self._clock.now())
        self._settler.add(fetched, settlement)
        if self._order is None:
            return
        if settlement.decision is Decision.ACCEPT or settlement.decision is Decision.DISCARD:
            self._next_of_key(fetched)
        elif settlement.decision is Decision.RETRY and not self._holds:
            self._release(self._order.retire(fetched))

    def _answered(self, fetched: Fetched, settlement: Settlement, answer: Settled) -> None:
        """The engine stored a decision."""
        if self._order is None:
            return
        if answer is Settled.HELD and settlement.at is not None:
            self._fetcher.in_hand += 1
            again = msgspec.structs.replace(fetched, failures=fetched.failures + 1, not_before=None)
            self._hold(again, settlement.at)
        elif settlement.decision is Decision.RETRY:
            head, stale = self._order.reopen(fetched)
            self._release(stale)
            if head is not None:
                self._begin(head)
                self._wake()
        elif settlement.decision is Decision.DEAD:
            self._next_of_key(fetched)


def _marked(fetched: Fetched) -> bool:
    return bool(fetched.failures or fetched.losses)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
