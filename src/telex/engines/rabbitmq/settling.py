"""Carrying out decisions: emissions first, then the copy, then the acknowledgement; each confirmed before the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random

import msgspec

from ...engine import Decision, Outgoing, Settled, Settlement, Stored
from ...errors import AccessDenied, ConfigError, Disconnected, InvalidMessage, UnknownChannel
from .codec import Counts, Death
from .control import Differs
from .leases import Held, Lease, Spared
from .link import DROPPED
from .outbound import Outbound, all_stored
from .publisher import Outcome, Posting, Publisher
from .waiting import Waiting

TIMEOUT = 15.0
"""Seconds for the copies of a batch to be confirmed; then the core tries again."""
REFUSED = (AccessDenied, ConfigError, Differs, Disconnected, InvalidMessage, UnknownChannel, *DROPPED)


class Plan(msgspec.Struct):
    """What one settlement needs before its acknowledgement."""

    postings: list[Posting]
    refused: bool = False
    due: datetime | None = None


class Settling:
    """Settles the leases of one unordered source.

    Args:
        source: Its text form.
        queue: Its queue.
        trial: Its trial queue.
    """

    def __init__(
        self,
        source: str,
        queue: str,
        trial: str,
        outbound: Outbound,
        publisher: Publisher,
        waiting: Waiting,
        spared: Spared,
        now: Callable[[], datetime],
        random: Random,
    ) -> None:
        self._random = random
        self._source = source
        self._queue = queue
        self._trial = trial
        self._outbound = outbound
        self._publisher = publisher
        self._waiting = waiting
        self._spared = spared
        self._now = now
        self.nack_is_free = False
        self.problem: str | None = None

    async def carry_out(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """Settles a batch; answers per item."""
        answers: list[Settled | None] = [None] * len(batch)
        accepted: list[Lease] = []
        released: list[Lease] = []
        plans: dict[int, Plan] = {}
        for index, settlement in enumerate(batch):
            lease = settlement.lease
            assert isinstance(lease, Lease)
            decision = settlement.decision
            if lease.state is not Held.OPEN:
                same = lease.state is Held.SETTLED and lease.decision is decision and lease.answer is not None
                answers[index] = lease.answer if same else Settled.LOST
            elif decision is Decision.ACCEPT or decision is Decision.DISCARD:
                if settlement.emit:
                    plans[index] = await self.plan(settlement)
                else:
                    accepted.append(lease)
                    answers[index] = lease.settled(decision, Settled.SENT)
            elif decision is Decision.RELEASE and self.nack_is_free:
                released.append(lease)
                answers[index] = lease.settled(decision, Settled.SENT)
            else:
                plans[index] = await self.plan(settlement)
        self._settle(accepted)
        for lease in released:
            lease.intake.give_back([lease], counted=False)
        if plans:
            await self._confirmed(batch, plans, answers)
        return [answer or Settled.FAILED for answer in answers]

    def _settle(self, leases: Sequence[Lease]) -> None:
        """Acknowledges; the leases of one channel together."""
        if not leases:
            return
        intakes = {id(lease.intake): lease.intake for lease in leases}
        for intake in intakes.values():
            intake.ack([lease for lease in leases if lease.intake is intake] if len(intakes) > 1 else leases)
        for lease in leases:
            self._spared.settled(lease)

    async def _confirmed(
        self, batch: Sequence[Settlement], plans: dict[int, Plan], answers: list[Settled | None]
    ) -> None:
        """Stores what must be stored first, then acknowledges what was stored in full."""
        postings = [posting for plan in plans.values() if not plan.refused for posting in plan.postings]
        outcomes = await self._publisher.store(postings, asyncio.get_running_loop().time() + TIMEOUT)
        position = 0
        done: list[Lease] = []
        for index, plan in plans.items():
            lease, decision = batch[index].lease, batch[index].decision
            assert isinstance(lease, Lease)
            if plan.refused:
                answers[index] = Settled.FAILED if lease.state is Held.OPEN else Settled.LOST
                continue
            mine = outcomes[position : position + len(plan.postings)]
            position += len(plan.postings)
            if lease.state is Held.LOST:
                answers[index] = Settled.LOST
            elif all_stored(mine):
                done.append(lease)
                answers[index] = lease.settled(decision, Settled.SENT)
                if plan.due is not None:
                    self._waiting.add(self._source, plan.due)
            else:
                self.note(mine)
                answers[index] = Settled.FAILED
        if done:
            self.problem = None
        self._settle(done)

    async def plan(self, settlement: Settlement) -> Plan:
        """What must be stored before a delivery is acknowledged."""
        lease = settlement.lease
        assert isinstance(lease, Lease)
        if settlement.decision is Decision.ACCEPT or settlement.decision is Decision.DISCARD:
            return await self._emissions(settlement.emit)
        return await self._copy(settlement, lease)

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Remembers why something was not stored."""
        causes = [str(cause) for _, cause in outcomes if cause is not None]
        self.problem = f"{self._source}: what must be kept cannot be stored: {causes[0] if causes else 'no confirm'}"

    async def _emissions(self, emit: Sequence[Outgoing]) -> Plan:
        plan = Plan([])
        made: Posting | Outcome
        for outgoing in emit:
            try:
                made = await self._outbound.posting(outgoing)
            except REFUSED as error:
                made = (Stored.NO, error)
            if isinstance(made, Posting):
                plan.postings.append(made)
            elif not isinstance(outgoing.to, str):  # An answer for an address that is none has nobody to go to.
                plan.refused = True
                self.note([made])
        return plan

    async def _copy(self, settlement: Settlement, lease: Lease) -> Plan:
        """The copy a settlement leaves."""
        try:
            posting, due = await self._made(settlement, lease)
        except REFUSED as error:
            self.problem = f"{self._source}: what must be kept cannot be stored: {error}"
            return Plan([], refused=True)
        return Plan([posting], due=due)

    async def _made(self, settlement: Settlement, lease: Lease) -> tuple[Posting, datetime | None]:
        message, counts, decision = lease.message, lease.counts, settlement.decision
        if counts.trial is not None or decision is Decision.TRIAL:
            counts = _with(counts, trial=counts.trial or 0, copy=f"{self._random.getrandbits(48):012x}")
        queue = self._queue if counts.trial is None else self._trial
        if decision is Decision.RELEASE or decision is Decision.TRIAL:
            return self._outbound.to_queue(queue, message, counts), None
        if decision is Decision.DEAD:
            return self._outbound.letter(
                self._queue, message, failed(counts, settlement, 0), death(settlement, self._now())
            ), None
        at = settlement.at or self._now()
        posting = await self._outbound.later(queue, message, failed(counts, settlement, 1), at)
        return posting, at if posting.exchange else None


def failed(counts: Counts, settlement: Settlement, failures: int) -> Counts:
    """What is known after an attempt that failed."""
    errors = (*counts.errors, settlement.error) if settlement.error else counts.errors
    return _with(counts, failures=counts.failures + failures, errors=errors)


def death(settlement: Settlement, now: datetime) -> Death:
    """Why a message dies."""
    return Death(settlement.reason, settlement.text, settlement.cause, now)


def _with(counts: Counts, **changes: object) -> Counts:
    return msgspec.structs.replace(counts, **changes)
