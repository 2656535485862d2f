"""The right to settle a delivery, and what is remembered of deliveries that were lost without anybody's fault."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ...engine import Decision, Settled
from ...message import Message
from .codec import Counts

if TYPE_CHECKING:
    from .intake import Intake

MOST_SPARED = 50_000
"""Copies of messages, of about 600 bytes each."""


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

    @property
    def epoch(self) -> object:
        """What comes over one channel is in order; what was in hand when it is lost comes again over another."""
        return self.intake

    @property
    def copy(self) -> str:
        """What tells this copy of the message from others: the same id may lie in several queues, and come again."""
        base = self.base
        known = base.copy or f"{base.failures} {base.losses} {base.trial} {base.redrives}"
        return f"{self.intake.queue} {self.message.id} {known}"

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


class Last(NamedTuple):
    """The last delivery of a copy that was lost here.

    Attributes:
        returns: How often the broker had taken the copy back before.
        fetched: Whether a handler may have seen it.
        losses: As they were known.
    """

    returns: int
    fetched: bool
    losses: int


class Harmless:
    """Deliveries of one copy that killed nobody."""

    __slots__ = ("last", "returns")

    def __init__(self) -> None:
        self.last: Last | None = None
        self.returns: set[int] = set()


class Spared:
    """Deliveries that this process lost with its connection, or settled, and did not die of.

    The broker counts them as failed. One that comes straight back to this process was with nobody else: what no handler
    has seen was not started, so that it is no loss; and what was in a handler's hands did not kill its process, so that
    it is no reason for a suspicion.
    """

    def __init__(self) -> None:
        self._copies: OrderedDict[str, Harmless] = OrderedDict()

    def note(self, lease: Lease) -> None:
        """A delivery was lost with its connection."""
        harmless = self._of(lease.copy)
        harmless.last = Last(lease.returns, lease.fetched, lease.counts.losses)
        harmless.returns.add(lease.returns)

    def settled(self, lease: Lease) -> None:
        """A delivery has its outcome. Nothing says that the acknowledgement arrived: it may come back, as may those
        that were lost before. Only of who is on trial, or was lost, is that worth remembering."""
        if lease.base.trial is None and (not self._copies or lease.copy not in self._copies):
            return
        harmless = self._of(lease.copy)
        harmless.last = None
        harmless.returns.add(lease.returns)

    def _of(self, copy: str) -> Harmless:
        harmless = self._copies.pop(copy, None) or Harmless()
        self._copies[copy] = harmless
        if len(self._copies) > MOST_SPARED:
            self._copies.popitem(last=False)
        return harmless

    def lost(self, copy: str) -> frozenset[int]:
        """Which deliveries of a copy killed nobody, by how often the broker had taken it back before."""
        harmless = self._copies.get(copy)
        return frozenset() if harmless is None else frozenset(harmless.returns)

    def of(self, lease: Lease) -> Last | None:
        """The delivery that was lost here, if this is the very next one."""
        harmless = self._copies.get(lease.copy) if self._copies else None
        last = None if harmless is None else harmless.last
        return last if last is not None and last.returns + 1 == lease.returns else None
