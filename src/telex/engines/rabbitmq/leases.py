"""The right to settle a delivery, and what is remembered of deliveries that were lost without anybody's fault."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING

from ...engine import Decision, Settled
from ...message import Message
from .codec import Counts

if TYPE_CHECKING:
    from .intake import Intake

MOST_SPARED = 50_000


class Held(Enum):
    """Where a lease stands."""

    OPEN = 1
    SETTLED = 2
    LOST = 3


class Lease:
    """One delivery in hand. Compared by identity.

    Attributes:
        intake: The channel it came over; None on it means nobody can settle it.
        tag: Its number there.
        message: What it is.
        base: What it brought with it.
        returns: How often the broker had taken it back.
        counts: With this delivery's losses counted in.
        since: When it came, of the loop's clock.
        fetched: Whether the application has it; set on the application's thread.
        state: Whether it is still ours.
        decision: How it was settled.
        answer: What that was answered.
        lane: Ordered: its lane.
        position: Ordered: its place there.
    """

    __slots__ = (
        "answer", "base", "counts", "decision", "fetched", "intake", "lane", "message", "position", "returns", "since",
        "state", "tag",
    )  # fmt: skip

    def __init__(self, intake: Intake, tag: int, message: Message, base: Counts, returns: int, since: float) -> None:
        self.intake = intake
        self.tag = tag
        self.message = message
        self.base = base
        self.returns = returns
        self.counts = base
        self.since = since
        self.fetched = False
        self.state = Held.OPEN
        self.decision: Decision | None = None
        self.answer: Settled | None = None
        self.lane = 0
        self.position = 0

    def again(self) -> Lease:
        """The same delivery in new hands."""
        lease = Lease(self.intake, self.tag, self.message, self.base, self.returns, self.since)
        lease.counts = self.counts
        lease.lane, lease.position = self.lane, self.position
        if self.intake.open.get(self.tag) is self:
            self.intake.open[self.tag] = lease
        return lease

    def settled(self, decision: Decision, answer: Settled) -> Settled:
        """Notes the outcome."""
        self.state, self.decision, self.answer = Held.SETTLED, decision, answer
        return answer


class Spared:
    """Deliveries that this process lost with its connection, and did not die of.

    The broker counts them as failed. One that comes straight back to this process was with nobody else: what no handler
    has seen was not started, so that it is no loss; and what was in a handler's hands did not kill its process, so that
    it is no reason for a suspicion.
    """

    def __init__(self) -> None:
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._lost: dict[str, set[int]] = {}

    def note(self, lease: Lease) -> None:
        """A delivery was lost with its connection."""
        id = lease.message.id
        self._leases.pop(id, None)
        self._leases[id] = lease
        self._lost.setdefault(id, set()).add(lease.returns)
        if len(self._leases) > MOST_SPARED:
            self._lost.pop(self._leases.popitem(last=False)[0], None)

    def lost(self, id: str) -> frozenset[int]:
        """Which deliveries of a message were lost here, by how often the broker had taken it back before."""
        return frozenset(self._lost.get(id, ()))

    def of(self, id: str, base: Counts, returns: int) -> Lease | None:
        """The delivery that was lost here, if this is the very next one."""
        lease = self._leases.get(id)
        if lease is None or lease.returns + 1 != returns or lease.base != base:
            return None
        return lease

    def forget(self, id: str) -> None:
        """It is settled: a copy has a count of its own."""
        if self._leases and self._leases.pop(id, None) is not None:
            self._lost.pop(id, None)
