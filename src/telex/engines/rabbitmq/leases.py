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
        "answer", "counts", "decision", "fetched", "intake", "lane", "message", "position", "since", "state", "tag",
    )  # fmt: skip

    def __init__(self, intake: Intake, tag: int, message: Message, counts: Counts, since: float) -> None:
        self.intake = intake
        self.tag = tag
        self.message = message
        self.counts = counts
        self.since = since
        self.fetched = False
        self.state = Held.OPEN
        self.decision: Decision | None = None
        self.answer: Settled | None = None
        self.lane = 0
        self.position = 0

    def again(self) -> Lease:
        """The same delivery in new hands."""
        lease = Lease(self.intake, self.tag, self.message, self.counts, self.since)
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

    The broker counts them as failed. What no handler has seen was not started, so that it is no loss; and what was in a
    handler's hands did not kill its process, so that it is no reason for a suspicion.
    """

    def __init__(self) -> None:
        self._losses: OrderedDict[str, int] = OrderedDict()
        self._trials: OrderedDict[str, int] = OrderedDict()

    def note(self, lease: Lease) -> None:
        """A delivery was lost with its connection."""
        id = lease.message.id
        if not lease.fetched:
            _count(self._losses, id)
        _count(self._trials, id)

    def of(self, id: str) -> tuple[int, int]:
        """(losses, losses on trial) that do not count."""
        return self._losses.get(id, 0), self._trials.get(id, 0)

    def forget(self, id: str) -> None:
        """It is settled: a copy has a count of its own."""
        if self._trials:
            self._losses.pop(id, None)
            self._trials.pop(id, None)


def _count(counts: OrderedDict[str, int], id: str) -> None:
    counts[id] = counts.pop(id, 0) + 1
    if len(counts) > MOST_SPARED:
        counts.popitem(last=False)
