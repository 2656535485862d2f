"""One lane of an ordered source in this process: whose it is, what is handed out, what its owner leaves behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec

from ...engine import Decision, Fetched, Settled, Settlement
from ...errors import AccessDenied, Disconnected
from ...events import BROKER_TROUBLE
from .backlog import Backlog
from .codec import Incoming, micros, moment
from .codec import Reader as Decoder
from .control import Control
from .intake import Intake
from .lanestate import ERROR, Alone, LaneState, StateStore, Waits, mark_of
from .leases import Held, Lease, Spared
from .link import DROPPED, Link
from .settling import failed
from .trials import Trials

log = logging.getLogger("telex.rabbitmq")

FULL = 64
"""A window that has doubled up to here is none any more."""
AGAIN = 0.5
"""Seconds until what could not be read or written is tried again."""


class Lane:
    """A lane. The broker gives its messages to one consumer at a time (single active consumer).

    Args:
        number: Of the lane.
        queue: Its queue.
        lost: Which deliveries of a copy were lost by processes that live.
        trials: Chooses who is on trial in this process.
        ready: Told when something can be handed out.
        ended: Told when its channel is gone, with what was in hand.
    """

    def __init__(
        self,
        number: int,
        queue: str,
        store: Callable[[Callable[[], LaneState]], StateStore],
        decoder: Decoder,
        control: Control,
        spared: Spared,
        lost: Callable[[str], Awaitable[frozenset[int]]],
        trials: Trials,
        now: Callable[[], datetime],
        ready: Callable[[], None],
        ended: Callable[[Lane, Sequence[Lease], str], None],
    ) -> None:
        self.number = number
        self._queue = queue
        self._decoder = decoder
        self._control = control
        self._spared = spared
        self._lost = lost
        self._trials = trials
        self._now = now
        self._ready = ready
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._state = LaneState()
        self._unsaved = False
        """Whether the stored state says something of messages that have left the lane."""
        self._store = store(lambda: self._state)
        self._intake: Intake | None = None
        self._loading: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._acquitting: asyncio.Task[bool] | None = None
        self._raw: list[tuple[Incoming, Lease]] = []
        self._loaded = False
        self._backlog = Backlog(now, ready)
        self._out: dict[int, Lease] = {}
        """Handed out and not settled, by identity."""
        self._marks: dict[int, str] = {}
        """By delivery tag."""
        self._position = 0
        self._window: int | None = None
        self._suspect: Lease | None = None
        """What will be handed out alone, and is not yet said to be."""
        self._empty = asyncio.Event()
        self._finishing: dict[Intake, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        """Two consumers of one lane in one process would each wait for the other."""
        self.mine = True
        self.give: Callable[[Lane], None] = _nothing
        """Told when a message that was wanted alone may be taken."""
        self.unwanted: Callable[[Lane], bool] = _wanted
        """Asked when its first message comes, before anything is begun: it may be another's, and is left then."""
        self.leaving = False
        self.bounces = 0

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self, link: Link, prefetch: int) -> None:
        """Stands in line for the lane.

        Raises:
            ChannelNotFoundEntity: Its queue is not there.
            Disconnected, AMQPError: The connection is gone, or the broker refuses.
        """
        async with self._opening:
            if self.is_open:
                return
            intake = Intake(self._decoder, self._arrived, self._over)
            self._reset()
            self._intake, self.leaving = intake, False
            try:
                await intake.start(link, self._queue, prefetch)
            except BaseException:
                self._intake = None
                raise
            self.look_again()

    @property
    def is_open(self) -> bool:
        """Whether it stands in line."""
        return self._intake is not None and not self._intake.is_over

    @property
    def handed_out(self) -> int:
        """Deliveries in the application's hands."""
        return len(self._out)

    @property
    def in_hand(self) -> int:
        """Deliveries that are not settled."""
        return len(self._intake.open) if self._intake is not None and not self._intake.is_over else 0

    @property
    def parked(self) -> int:
        """Of those, what waits for a retry or behind one."""
        return self._backlog.parked

    @property
    def next_due(self) -> datetime | None:
        """When the next key goes on."""
        return self._backlog.next_due

    @property
    def since(self) -> float | None:
        """When its oldest delivery came, of the loop's clock."""
        if self._intake is None or self._intake.is_over:
            return None
        oldest = next(iter(self._intake.open.values()), None)
        return None if oldest is None else oldest.since

    async def look(self) -> None:
        """Stands in line again where the broker has forgotten that it did."""
        intake = self._intake
        if intake is not None and not self.leaving and await intake.is_dry(self._queue, self._control):
            intake.lose("the broker has messages and delivers none")

    async def fence(self) -> None:
        """Returns when everything has come that the broker sent before."""
        if self._intake is not None:
            await self._intake.fence()
        if self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading], timeout=1)

    def _reset(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        self._raw.clear()
        self._backlog.clear()
        self._out.clear()
        self._marks.clear()
        self._state = LaneState()
        self._loaded = self._unsaved = False
        self._window = None
        self._suspect = None
        self._empty.set()
        self._trials.end(self)

    async def drained(self) -> None:
        """Returns when nothing is handed out any more."""
        while self._out:
            self._empty.clear()
            await self._empty.wait()

    async def finish(self) -> None:
        """Leaves the lane: what was not handed out goes back to its place uncounted, then the next in line has it.

        Who is cancelled here does not cancel it.
        """
        async with self._opening:
            pass  # Nothing can close a channel that is being opened.
        intake = self._intake
        if intake is None or intake.is_over:
            self._reset()
            return
        known = self._finishing.get(intake)
        if known is None:
            known = self._finishing[intake] = self._loop.create_task(self._finish(intake))
            known.add_done_callback(lambda _: self._finishing.pop(intake, None))
        await asyncio.shield(known)

    async def _finish(self, intake: Intake) -> None:
        """It may be lost meanwhile, and even opened again: then there is nothing to be left any more."""
        if intake.open:
            with suppress(AccessDenied, Disconnected):
                await intake.settled_down(self._queue, self._control)
        if intake is self._intake and (intake.open or self._unsaved):
            await self._note_releases(intake)
        if intake is not self._intake:
            return
        lost = list(self._out.values())
        await intake.close()
        if intake is not self._intake:
            return
        self._intake = None
        self._reset()
        if lost:
            self._ended(self, lost, "")

    async def _note_releases(self, intake: Intake) -> None:
        if not self._loaded:
            try:
                state = await self._store.load()
            except (AccessDenied, Disconnected, *DROPPED) as error:
                BROKER_TROUBLE.log(log, "%s: what is given back will count as lost: %s", self._queue, error)
                return
            if intake is not self._intake:
                return
            self._state = state
            self._enter_raw()
        releases = self._state.releases
        for lease in intake.open.values():
            if id(lease) not in self._out:
                mark = self._marks.get(lease.tag, lease.message.id)
                releases[mark] = releases.get(mark, 0) + 1
        if not await self._store.save() and intake is self._intake:
            BROKER_TROUBLE.log(
                log, "%s: what is given back will count as lost: its state could not be written", self._queue
            )

    def lose(self) -> None:
        """Its connection is gone."""
        if self._intake is not None:
            self._intake.lose("the connection broke")

    def _over(self, intake: Intake, reason: str) -> None:
        if intake is not self._intake:
            return
        for lease in intake.open.values():
            self._spared.note(lease)
        intake.open.clear()
        lost = list(self._out.values())
        self._intake = None
        self._reset()
        self._ended(self, lost, reason)

    # -- what comes -------------------------------------------------------------------------------------------------

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        if intake is not self._intake:
            return
        self._raw.extend(run)
        if self._loaded:
            self._enter_raw()
            self._ready()
        else:
            self.look_again()

    def look_again(self) -> None:
        """Begins with what came, unless that is under way: it may have come while the lane was still being opened."""
        intake = self._intake
        idle = not self._loaded and (self._loading is None or self._loading.done()) and not self.leaving
        if self._raw and intake is not None and idle and not self.unwanted(self):
            self._loading = self._loop.create_task(self._load(intake))

    async def _load(self, intake: Intake) -> None:
        """The lane is ours: reads what its last owner has left behind."""
        while True:
            try:
                state = await self._store.load()
                break
            except (AccessDenied, Disconnected, *DROPPED) as error:
                BROKER_TROUBLE.log(log, "%s: its state cannot be read: %s", self._queue, error)
                await asyncio.sleep(AGAIN)
        if intake is not self._intake or intake.is_over:
            return
        self._state = state
        self._enter_raw()
        first = self._backlog.first
        if first is not None and first.counts.losses > 0:
            await self._suspect_first(first)
        self._enter_raw()  # What came meanwhile: nothing more may come.
        self._loaded = True
        self._ready()

    async def _suspect_first(self, first: Lease) -> None:
        """Its last owner was lost with this message in hand: it will be handed out alone."""
        mark = self._marks[first.tag]
        alone = self._state.alone
        trial = 0
        if alone is not None and alone.mark == mark:
            lost = await self._lost(first.copy)
            spared = sum(alone.returns <= returns < first.returns for returns in lost)
            # Owners that died before they said that it is in hand alone had not begun with it.
            trial = alone.trial + min(1, max(0, first.counts.losses - alone.losses - spared))
        first.counts = msgspec.structs.replace(first.counts, trial=trial)
        self._window = 1
        self._suspect = first

    @property
    def blame(self) -> int:
        """Of the message that is to be handed out alone."""
        return (self._suspect.counts.trial or 0) if self._suspect is not None else 0

    def begin(self) -> None:
        """Its turn has come."""
        first = self._suspect
        if first is None or first.state is not Held.OPEN or self.leaving or not self._backlog.has(first):
            self._trials.end(self)
        else:
            self._beginning = self._loop.create_task(self._begin_alone(first))

    async def _begin_alone(self, first: Lease) -> None:
        """Says that it is in hand alone, and hands it out at once."""
        trial = first.counts.trial or 0
        self._state.alone = Alone(self._marks[first.tag], first.counts.losses, trial, first.returns)
        try:
            while not await self._store.save():  # noqa: ASYNC110 (it is tried again)
                await asyncio.sleep(AGAIN)
            self.give(self)
        finally:
            if not self._out:
                self._trials.end(self)
                if self._spare():
                    await self._store.save()

    def _spare(self) -> bool:
        """What was said to be in hand alone is not, after all: who dies now does not die of it. Earlier deaths stay."""
        alone = self._state.alone
        if alone is not None:
            self._state.alone = Alone(alone.mark, alone.losses + 1, alone.trial, alone.returns)
        return alone is not None

    def take_suspect(self) -> Fetched | None:
        """The message that is to be handed out alone, if it may be: others may lie before it by now."""
        first = self._suspect
        if first is None or not self._loaded or self.leaving or self._out or not self._backlog.pull(first):
            return None
        self._suspect = None
        return self._handed(first)

    def _enter_raw(self) -> None:
        raw, self._raw = self._raw, []
        for incoming, lease in raw:
            self._enter(incoming, lease)

    def _enter(self, incoming: Incoming, lease: Lease) -> None:
        self._position += 1
        lease.lane, lease.position = self.number, self._position
        mark = mark_of(incoming)
        self._marks[lease.tag] = mark
        if incoming.returns:
            spared = self._spared.of(lease)
            losses = lease.base.losses + max(0, incoming.returns - self._state.releases.get(mark, 0))
            if spared is not None and not spared.fetched:
                losses = spared.losses
            lease.counts = msgspec.structs.replace(lease.counts, losses=losses)
        waits = self._state.waiting.get(mark)
        if waits is not None:
            errors = (*lease.counts.errors, waits.error) if waits.error else lease.counts.errors
            lease.counts = msgspec.structs.replace(lease.counts, failures=waits.failures, errors=errors)
            self._backlog.wait(_key(lease), lease, moment(waits.due))
        else:
            self._backlog.add(lease)

    # -- handing out ------------------------------------------------------------------------------------------------

    def take(self) -> Fetched | None:
        """The next delivery; None while there is none to be had."""
        if not self._loaded or self.leaving:
            return None
        if self._window is not None and len(self._out) >= self._window:
            return None
        if self._suspect is not None:
            self._trials.offer(self)
            return None
        lease = self._backlog.take()
        return None if lease is None else self._handed(lease)

    def _handed(self, lease: Lease) -> Fetched:
        self._out[id(lease)] = lease
        counts = lease.counts
        return Fetched(lease.message, lease, counts.failures, counts.losses, counts.trial, self.number, lease.position)

    def _back(self, lease: Lease, again: Lease | None = None) -> None:
        """A delivery is not handed out any more. It may have to lie in its place `again`."""
        if self._out.pop(id(lease), None) is None:
            return
        if again is not None and self._backlog.put_back(again):
            self._acquit(again)
        if not self._out:
            self._empty.set()
            self._trials.end(self)
        # Only now, when all of its key lies in its place: that may be handed out at once.
        self._backlog.returned(lease)

    def _stood(self) -> None:
        """A message that was in hand has killed nobody: a later loss is not its fault, and more may be in hand."""
        if self._window is None:
            return
        self._state.alone = None
        self._window = self._window * 2 if self._window < FULL else None

    # -- settling ---------------------------------------------------------------------------------------------------

    def done(self, leases: Sequence[Lease]) -> None:
        """Deliveries have left the lane."""
        if self._intake is not None:
            self._intake.ack(leases)
        for lease in leases:
            self._back(lease)
            if self._state.forget(self._marks.pop(lease.tag, lease.message.id)):
                self._unsaved = True
            self._spared.settled(lease)
            self._stood()

    def release(self, lease: Lease) -> Settled:
        """A delivery was not started."""
        if id(lease) in self._out:
            self._back(lease, lease.again())
        return lease.settled(Decision.RELEASE, Settled.DONE)

    def _acquit(self, lease: Lease) -> None:
        """A message that was in hand alone comes back by itself: it waits for another trial, and nobody dies of it."""
        alone = self._state.alone
        if alone is not None and alone.mark == self._marks.get(lease.tag):
            self._spare()
            self._suspect = lease
            self._acquitting = self._loop.create_task(self._store.save())

    def hold(self, lease: Lease, settlement: Settlement) -> None:
        """A delivery failed: its key waits until its time."""
        mark, key = self._marks.get(lease.tag, lease.message.id), _key(lease)
        if self._backlog.is_held(key, lease):
            return  # It is settled again, since it could not be stored.
        self._stood()
        again = lease.again()
        again.counts = failed(lease.counts, settlement, 1)
        due = settlement.at or self._now()
        self._state.waiting[mark] = Waits(again.counts.failures, micros(due), settlement.error[:ERROR])
        self._backlog.hold(key, again, lease, due)
        self._back(lease)

    async def save(self) -> bool:
        """Writes down which keys wait; whether that is stored."""
        return self._loaded and await self._store.save()

    def held(self, lease: Lease) -> None:
        """What `hold` said is stored."""
        self._backlog.held(lease)


def _key(lease: Lease) -> str:
    """What waits if it fails: all of its key; of a message without one, itself."""
    return lease.message.key or f"\0{lease.position}"


def _wanted(lane: Lane) -> bool:
    """Nobody says that it is another's."""
    return False


def _nothing(lane: Lane) -> None:
    """Nobody wants it at once."""
