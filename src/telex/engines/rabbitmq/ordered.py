"""Consuming an ordered source: its lanes, shared with the other processes, handed over without breaking the order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import cast

from ...engine import Decision, Fetched, Settled, Settlement
from ...errors import AccessDenied, ConfigError, Disconnected
from ...events import BROKER_TROUBLE
from .control import Differs
from .errands import Errands
from .intake import PREFETCH
from .lane import Lane
from .leases import Held, Lease
from .link import DROPPED, Link
from .members import Members
from .outbound import all_stored
from .publisher import Posting, Publisher
from .reader import FIRST_PAUSE, LONGEST_HOLD, LONGEST_PAUSE, Give, Tell
from .settling import TIMEOUT, Settling

log = logging.getLogger("telex.rabbitmq")

BOUNCES = 3
"""How often a lane is left for the one it belongs to, before it is kept for a while."""
CALM = 10.0
"""Seconds after which it may be left again."""
LOOK = 5.0


def _unheard(keys: Sequence[str]) -> None:
    """Nobody waits for that."""


class OrderedReader:
    """Reads one ordered source for one consumer. Lives on the engine's loop.

    Members share: lane i belongs to the (i mod n)-th of those that have joined. The broker gives a lane to whoever has
    stood in line longest; who gets one that is not its own leaves it and stands at the end of the line.

    Args:
        source: Its text form.
        lanes: Its lanes.
        settling: For what an ordered source settles as any other.
        window: Most deliveries handed out.
        hold: Seconds a delivery may stay unsettled.
        give: Takes deliveries to the application.
        tell: Tells it which are lost.
        recall: Asks it for what it has not fetched of a lane.
        wanted: Whether the application fetches at all.
        remake: Makes the queues again if they are gone.
    """

    def __init__(
        self,
        *,
        source: str,
        make: Callable[[Callable[[], None], Callable[[Lane, Sequence[Lease], str], None]], Sequence[Lane]],
        members: Members,
        settling: Settling,
        publisher: Publisher,
        window: int,
        hold: float | None,
        give: Give,
        tell: Tell,
        recall: Callable[[int], None],
        wanted: Callable[[], bool],
        remake: Callable[[], Awaitable[None]],
    ) -> None:
        self._source = source
        self._lanes = make(self.hand_out, self._lane_ended)
        for lane in self._lanes:
            lane.unwanted = self._bounced
            lane.give = self._begin
        self._members = members
        self.settling = settling
        self._publisher = publisher
        self._window = window
        self._hold = min(hold or LONGEST_HOLD, LONGEST_HOLD)
        self._give = give
        self._tell = tell
        self._recall = recall
        self._wanted = wanted
        self._remake = remake
        self._link: Link | None = None
        self._want = 0
        self._turn = 0
        self._stopped = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._errands = Errands()
        """What is being done with lanes: opened, left."""
        self._joined = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(LOOK, self._look)
        self._calm = self._loop.time()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        blocked = [str(lane.number) for lane in self._lanes if lane.in_hand >= PREFETCH and lane.parked]
        if blocked:
            return f"{self._source}: lane blocked ({', '.join(blocked)}): {PREFETCH} messages wait behind failed ones"
        return self._problem or self.settling.problem

    @property
    def in_hand(self) -> int:
        """Deliveries that are not settled."""
        return sum(lane.in_hand for lane in self._lanes)

    @property
    def parked(self) -> int:
        """Of those, what waits for a retry or behind one."""
        return sum(lane.parked for lane in self._lanes)

    @property
    def next_due(self) -> datetime | None:
        """When the next key goes on."""
        return min((due for lane in self._lanes if (due := lane.next_due) is not None), default=None)

    async def fence(self) -> None:
        """Returns when everything has come that the broker sent before."""
        await asyncio.gather(*(lane.fence() for lane in self._lanes))

    # -- life -------------------------------------------------------------------------------------------------------

    async def up(self, link: Link) -> None:
        """Stands in line for every lane, then says so."""
        self._link = link
        if self._stopped:
            return
        await asyncio.gather(*(self._open(lane, link) for lane in self._lanes))
        self._share()

    async def join(self) -> None:
        """Shares the lanes from now on."""
        self._joined = True
        await self._members.join(self._source, self._share)
        self._share()

    def down(self) -> None:
        """Everything in hand is lost."""
        self._link = None
        self._errands.cancel()
        for lane in self._lanes:
            lane.lose()

    async def stop(self) -> None:
        """Hands out no more; each lane passes on when what is handed out of it is settled."""
        if self._stopped:
            return
        self._stopped = True
        self._errands.cancel()
        for lane in self._lanes:
            lane.leaving = False  # Whoever was about to leave it was stopped just now.
            self._leave(lane)
        await self._members.leave(self._source, self._share)

    async def close(self) -> None:
        """Ends; what is handed out comes back as a loss."""
        await self.stop()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._errands.cancel()
        await asyncio.gather(*(lane.finish() for lane in self._lanes))

    async def _open(self, lane: Lane, link: Link) -> None:
        try:
            await lane.open(link, min(self._window, PREFETCH))
        except (Disconnected, *DROPPED) as error:
            if not link.is_open:
                raise
            self._problem = f"{self._source}: lane {lane.number} cannot be consumed: {error}"
            self._errands.run(self._open_again(lane, link))
        else:
            self._problem = None

    async def _open_again(self, lane: Lane, link: Link) -> None:
        pause = FIRST_PAUSE
        while link.is_open and not self._stopped:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            with suppress(AccessDenied, ConfigError, Differs, Disconnected):
                await self._remake()
            try:
                await lane.open(link, min(self._window, PREFETCH))
            except (Disconnected, *DROPPED) as error:
                self._problem = f"{self._source}: lane {lane.number} cannot be consumed: {error}"
            else:
                self._problem = None
                return

    def _lane_ended(self, lane: Lane, lost: Sequence[Lease], reason: str) -> None:
        if lost:
            self._tell(lost)
        link = self._link
        if reason and link is not None and link.is_open and not self._stopped:
            self._problem = f"{self._source}: lane {lane.number} cannot be consumed: {reason}"
            BROKER_TROUBLE.log(log, "%s; trying again", self._problem)
            self._errands.run(self._open_again(lane, link))

    # -- sharing ----------------------------------------------------------------------------------------------------

    def _share(self) -> None:
        """The members have changed: leaves the lanes of others."""
        if not self._joined:
            return
        sharing = self._members.sharing(self._source)
        for lane in self._lanes:
            lane.mine = not sharing or sharing[lane.number % len(sharing)] == self._members.me
            lane.bounces = 0
            if not lane.mine and lane.is_open and not lane.leaving and not self._stopped:
                self._leave(lane)
        self.hand_out()

    def _leave(self, lane: Lane) -> None:
        """Lets a lane go once nothing of it is handed out; stands in line again, unless it has stopped."""
        if lane.leaving or not lane.is_open:
            return
        lane.leaving = True
        if lane.handed_out:
            self._recall(lane.number)
        self._errands.run(self._left(lane))

    async def _left(self, lane: Lane) -> None:
        await lane.drained()
        if not lane.leaving:  # It was lost meanwhile, and is stood in line for again.
            return
        await lane.finish()
        link = self._link
        if link is not None and link.is_open and not self._stopped:
            await self._open(lane, link)

    def _bounced(self, lane: Lane) -> bool:
        """Whether a lane that is another's is left now, rather than worked on."""
        if lane.mine or lane.bounces >= BOUNCES:
            return False
        lane.bounces += 1
        self._leave(lane)
        return True

    def _look(self) -> None:
        """Lets lanes go that are held too long for the broker; stands in line for them again."""
        self._timer = self._loop.call_later(LOOK, self._look)
        now = self._loop.time()
        if now - self._calm > CALM:
            self._calm = now
            for lane in self._lanes:
                lane.bounces = 0
        for lane in self._lanes:
            lane.look_again()
            since = lane.since
            if since is None:
                if lane.mine and not self._stopped:
                    self._errands.run(lane.look())
                continue
            if now - since > self._hold:
                BROKER_TROUBLE.log(log, "%s: lane %d was let go after %g s", self._source, lane.number, self._hold)
                self._errands.run(self._let_go(lane))
            elif now - since > self._hold / 2 and not lane.leaving:
                self._leave(lane)

    async def _let_go(self, lane: Lane) -> None:
        await lane.finish()
        link = self._link
        if link is not None and link.is_open and not self._stopped:
            await self._open(lane, link)

    # -- handing out ------------------------------------------------------------------------------------------------

    def ask(self, most: int) -> None:
        """The application wants so many."""
        self._want = most
        self.hand_out()

    def hand_out(self) -> None:
        """Gives what is wanted and may be given, one of each lane in turn."""
        if not self._want or not self._wanted():
            return
        room = min(self._want, self._window - sum(lane.handed_out for lane in self._lanes))
        given: list[Fetched] = []
        lanes = [lane for lane in self._lanes if lane.in_hand and not lane.leaving and not self._bounced(lane)]
        self._turn += 1
        shift = self._turn % len(lanes) if lanes else 0
        lanes = lanes[shift:] + lanes[:shift]
        while lanes and len(given) < room:
            left: list[Lane] = []
            for lane in lanes:
                fetched = lane.take() if len(given) < room else None
                if fetched is not None:
                    given.append(fetched)
                    left.append(lane)
            lanes = left
        if given:
            self._want = 0
            self._give(given)

    def _begin(self, lane: Lane) -> None:
        """What is in hand alone was wanted, and waits for nothing more: as short as can be, since a death is blamed."""
        fetched = lane.take_suspect() if self._wanted() else None
        if fetched is not None:
            self._give([fetched])

    # -- settling ---------------------------------------------------------------------------------------------------

    async def carry_out(
        self, batch: Sequence[Settlement], written: Callable[[Sequence[str]], None] = _unheard
    ) -> Sequence[Settled]:
        """Settles a batch; answers per item. Says of which keys a retry is stored before it gives any of them again."""
        answers: list[Settled | None] = [None] * len(batch)
        done: dict[int, list[Lease]] = {}
        postings: dict[int, list[Posting]] = {}
        retried: dict[int, list[int]] = {}
        for index, settlement in enumerate(batch):
            lease, decision = settlement.lease, settlement.decision
            assert isinstance(lease, Lease)
            if lease.state is not Held.OPEN:
                same = lease.state is Held.SETTLED and lease.decision is decision and lease.answer is not None
                answers[index] = lease.answer if same else Settled.LOST
            elif decision is Decision.RETRY:
                self._lanes[lease.lane].hold(lease, settlement)
                retried.setdefault(lease.lane, []).append(index)
            elif (decision is Decision.ACCEPT or decision is Decision.DISCARD) and not settlement.emit:
                done.setdefault(lease.lane, []).append(lease)
                answers[index] = lease.settled(decision, Settled.SENT)
        for index, settlement in enumerate(batch):
            lease = settlement.lease
            assert isinstance(lease, Lease)
            if answers[index] is None and settlement.decision in (Decision.RELEASE, Decision.TRIAL):
                answers[index] = self._lanes[lease.lane].release(lease)
        for number, leases in done.items():
            self._lanes[number].done(leases)
        for index, settlement in enumerate(batch):
            if answers[index] is None and settlement.decision is not Decision.RETRY:
                plan = await self.settling.plan(settlement)
                if plan.refused:
                    answers[index] = Settled.FAILED
                else:
                    postings[index] = plan.postings
        await asyncio.gather(self._store(batch, postings, answers), self._save(batch, retried, answers, written))
        self.hand_out()
        return [answer or Settled.FAILED for answer in answers]

    async def _store(
        self, batch: Sequence[Settlement], postings: dict[int, list[Posting]], answers: list[Settled | None]
    ) -> None:
        """Emissions and dead letters, then what they belong to leaves its lane."""
        if not postings:
            return
        flat = [posting for each in postings.values() for posting in each]
        outcomes = await self._publisher.store(flat, self._loop.time() + TIMEOUT)
        position = 0
        for index, each in postings.items():
            mine = outcomes[position : position + len(each)]
            position += len(each)
            lease = batch[index].lease
            assert isinstance(lease, Lease)
            if lease.state is not Held.OPEN:
                answers[index] = Settled.LOST
            elif all_stored(mine):
                answers[index] = lease.settled(batch[index].decision, Settled.SENT)
                self._lanes[lease.lane].done([lease])
                self.settling.problem = None
            else:
                self.settling.note(mine)
                answers[index] = Settled.FAILED

    async def _save(
        self,
        batch: Sequence[Settlement],
        retried: dict[int, list[int]],
        answers: list[Settled | None],
        written: Callable[[Sequence[str]], None],
    ) -> None:
        """Which keys wait is written down, lane by lane."""

        async def save(number: int, indexes: Sequence[int]) -> None:
            lane = self._lanes[number]
            left = any(cast(Lease, batch[index].lease).state is Held.OPEN for index in indexes)
            stored = left and await lane.save()
            held: list[Lease] = []
            for index in indexes:
                lease = batch[index].lease
                assert isinstance(lease, Lease)
                if lease.state is not Held.OPEN:
                    answers[index] = Settled.LOST
                elif stored:
                    answers[index] = lease.settled(Decision.RETRY, Settled.DONE)
                    held.append(lease)
                else:
                    answers[index] = Settled.FAILED
            written([lease.message.key for lease in held if lease.message.key is not None])
            for lease in held:
                lane.held(lease)

        if retried:
            await asyncio.gather(*(save(number, indexes) for number, indexes in retried.items()))
