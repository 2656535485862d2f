"""One source at work in this process: a stock of deliveries, and slots that run the handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec

from ..clock import Clock, Timer, seconds
from ..engine import Consumer, Decision, Fetched, Settled, Settlement
from ..errors import TelexError
from ..events import INTERRUPTED, SLOT_BROKEN, qualified, words
from ..tracing import Tracing
from .bound import Bound
from .deadline import Slot, Stop
from .execution import Execution
from .fetcher import Fetcher
from .order import KeyOrder
from .rate import Rate
from .settler import Settler
from .traced import TracedExecution

if TYPE_CHECKING:
    from ..app import Telex

log = logging.getLogger("telex.delivery")

TURN = 0.002
"""Seconds after which a slot lets the rest of the loop run, when its handlers never wait."""

ACQUIT = 2.0
"""Seconds for which the end waits until messages on trial are acquitted."""

Observer = Callable[[str, Fetched, Settlement, BaseException | None, datetime], None]


class Runner:
    """Runs the handler of one source.

    ``concurrency`` long-lived tasks, the slots, take messages from one queue: a task a message would cost 5 us.
    """

    def __init__(
        self,
        app: Telex,
        bound: Bound,
        clock: Clock,
        random: Random,
        observer: Observer | None,
        tracing: Tracing | None = None,
    ) -> None:
        self.bound = bound
        self._clock = clock
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._slots: list[Slot] = []
        self._execution = (
            Execution(app, bound, self._slots, self._settle, clock, random)
            if tracing is None
            else TracedExecution(app, bound, self._slots, self._settle, clock, random, tracing)
        )
        self._order = KeyOrder() if bound.source.ordered else None
        self._holds = app.features.holds_keys
        self._rate = Rate(bound.rate, clock) if bound.rate else None
        self._ready: deque[Fetched] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._held: dict[Timer, Fetched] = {}
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
        if self._gatherer is not None:
            _set(self._gatherer)
        self._give_trials_back()

    def _give_trials_back(self) -> None:
        """There is one trial in hand for all sources: it must not wait until this one is resumed."""
        for fetched in [one for one in self._ready if one.trial is not None]:
            self._ready.remove(fetched)
            followers = self._order.retire(fetched) if self._order is not None else []
            self._release([fetched, *followers])
            self._next_of_key(fetched)

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._paused = False
        self._fetcher.block(self._settler.failing)
        self._wake()

    def _failing(self, failing: bool) -> None:
        self._fetcher.block(failing or self._paused or self._stopping)

    @property
    def busy(self) -> bool:
        """Whether anything is in hand here."""
        return self._fetcher.in_hand > 0 or self._settler.unsettled > 0

    @property
    def under_way(self) -> list[str]:
        """Ids of the messages whose handlers run now."""
        return [fetched.message.id for slot in self._slots if slot.until for fetched in slot.taken]

    @property
    def waiting(self) -> bool:
        """Whether all that is in hand waits for the clock: for a fuller batch, its turn, or the retry of its key."""
        if self._settler.unsettled or any(slot.until for slot in self._slots):
            return False
        if self._gatherer is not None:
            return not self._gatherer.done() and not self._ready
        if self._rate is not None and self._rate.waiting:
            return self._rate.waiting + len(self._idle) >= len(self._slots) and not self._waking
        return bool(self._held) and not self._ready and len(self._idle) == len(self._slots)

    @property
    def gathering(self) -> bool:
        """Whether a batch is waiting to become fuller."""
        return self._gatherer is not None

    @property
    def problem(self) -> str | None:
        """What is wrong with this source now."""
        if self._settler.failing:
            return f"{self.bound.name}: outcomes cannot be stored; the source takes nothing new until they are"
        return self._fetcher.problem

    @property
    def expired(self) -> int:
        """Requests discarded because nobody waited for their answer any more."""
        return self._execution.expired

    def lost(self, leases: Sequence[object]) -> None:
        """The engine says that leases are gone; from any thread."""
        self._loop.call_soon_threadsafe(self._lost, leases)

    async def stop(self) -> None:
        """Takes nothing more and gives back what was not started; what runs goes on."""
        self._stopping = True
        if self._rate is not None:
            self._rate.stop()
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
        """Ends everything; what is unsettled comes back as a loss.

        `stop` may have been cut short, or not have begun: a slot must not take the next message for the one it leaves.
        """
        self._stopping = True
        self._fetcher.end()  # What the slots give back would come again at once.
        tried: list[Fetched] = []
        for slot in self._slots:
            if slot.until:
                tried += [fetched for fetched in slot.taken if fetched.trial is not None]
                ids = ", ".join(f.message.id for f in slot.taken[:3])
                INTERRUPTED.log(
                    log,
                    "%s: the handler of %s still ran at the end of the grace; it comes back",
                    self.bound.name,
                    ids,
                    source=self.bound.name,
                    message_id=slot.taken[0].message.id,
                )
            slot.cancel(Stop.DRAIN)
        tasks = [slot.task for slot in self._slots if slot.task is not None and not (slot.until and slot.in_thread)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        self._settler.close()
        self._execution.close()
        await self._acquit(tried)
        await self._consumer.close()

    async def _acquit(self, tried: Sequence[Fetched]) -> None:
        """What was on trial did not kill this process, which ends by itself: that must not count against it."""
        if tried:
            with contextlib.suppress(TimeoutError, TelexError):
                async with asyncio.timeout(ACQUIT):
                    await self._consumer.settle([Settlement(fetched.lease, Decision.TRIAL) for fetched in tried])

    # -- the stock --------------------------------------------------------------------------------------------------

    def _arrived(self, batch: Sequence[Fetched]) -> None:
        if self._stopping:
            self._release(batch)
            return
        if self._order is None:
            self._ready.extend(batch)
            if self._paused:  # It was fetched before.
                self._give_trials_back()
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
            self._add(fetched)

    def _add(self, fetched: Fetched) -> None:
        self._ready.append(fetched)
        if self._paused:
            self._give_trials_back()

    def _hold(self, fetched: Fetched, until: datetime) -> None:
        def due() -> None:
            del self._held[timer]
            self._add(fetched)
            self._wake()

        timer = self._clock.call_later(max(0.0, (until - self._clock.now()).total_seconds()), due)
        self._held[timer] = fetched

    def _release(self, deliveries: Sequence[Fetched]) -> None:
        for fetched in deliveries:
            self._settle(fetched, Settlement(fetched.lease, Decision.RELEASE), None)

    def _lost(self, leases: Sequence[object]) -> None:
        """Forgets what waits, stops what runs."""
        gone = {id(lease) for lease in leases}
        if self._order is not None:  # First: those that are gone must not follow one another.
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
            lost = [f for f in slot.taken if id(f.lease) in gone]
            if lost and slot.until:
                slot.cancel(Stop.LOST)
                continue
            for fetched in lost if slot.starting else ():
                slot.taken.remove(fetched)
                self._forget(fetched)

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
                try:
                    await self._next(slot)
                except (asyncio.CancelledError, GeneratorExit):
                    raise
                except BaseException as error:  # A slot that ends would keep its message, and the source would dry up.
                    self._broke(slot, error)
                if time() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time() + TURN
            if self._stopping:
                return
            idle: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(idle)
            await idle

    async def _next(self, slot: Slot) -> None:
        if self.bound.batch is None and self._rate is None:
            taken = slot.taken = [self._ready.popleft()]
        elif not (taken := await self._prepare(slot)):
            return
        if self._stopping:
            self._release(taken)
            return
        if self._ready and not self._waking:
            self._wake()
        for fetched in await self._execution.run(slot, taken):
            self._forget(fetched)
        slot.taken = []

    async def _prepare(self, slot: Slot) -> list[Fetched]:
        """What a slot runs next, once its batch is full and its turn has come; without what was lost meanwhile.

        Nothing if the source was paused meanwhile: what was taken waits with the rest.
        """
        taken = slot.taken = []
        slot.starting = True
        try:
            if self.bound.batch is None:
                taken.append(self._ready.popleft())
            else:
                await self._gather(taken)
            if self._rate is not None and taken and not self._paused:
                await self._rate.turn(len(taken))
            if self._paused and not self._stopping:
                self._ready.extendleft(reversed(taken))
                taken.clear()
                self._give_trials_back()
        finally:
            slot.starting = False
        return taken

    def _broke(self, slot: Slot, error: BaseException) -> None:
        SLOT_BROKEN.log(
            log,
            "%s: handling a message failed outside its handler (%s); it counts as a failure of the message",
            self.bound.name,
            words(error),
            exc_info=error,
            source=self.bound.name,
            error=qualified(error),
        )
        for fetched in slot.taken:
            if not self._settler.has(fetched):
                self._execution.broke(fetched, error)

    async def _gather(self, taken: list[Fetched]) -> None:
        """Fills a batch, or takes what came within its wait or before a pause. What failed before goes alone."""
        batch = self.bound.batch
        assert batch is not None
        async with self._gathering:
            ready = self._ready
            if not ready or self._paused:
                return
            taken.append(ready.popleft())
            if _marked(taken[0]):
                return
            deadline = self._clock.monotonic() + seconds(batch.wait)
            while True:
                while ready and len(taken) < batch.size and not _marked(ready[0]):
                    taken.append(ready.popleft())
                left = deadline - self._clock.monotonic()
                if len(taken) >= batch.size or left <= 0 or ready or self._paused or self._stopping:
                    return
                self._gatherer = gatherer = self._loop.create_future()
                timer = self._clock.call_later(left, partial(_set, gatherer))
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
