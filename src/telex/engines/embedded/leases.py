"""What this process has in hand: claimed ranges, and the right to settle each message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...engine import Decision, Settled, Source
from ...message import Message
from .schema import SEQUENCE_BITS

if TYPE_CHECKING:
    from .lanes import Lane


class Span:
    """A claimed range of one stream.

    Attributes:
        first: Sequence of the first message.
        token: Proves that the row is still the one that was written here.
        done: A bit for each settled message, as committed.
        staged: ``done`` as the transaction under way leaves it.
        left: Messages that are not settled, as the transaction under way leaves it.
    """

    __slots__ = ("base", "count", "done", "first", "left", "source", "staged", "stream", "token")

    def __init__(self, source: int, stream: int, first: int, count: int, token: int) -> None:
        self.source = source
        self.stream = stream
        self.first = first
        self.count = count
        self.token = token
        self.base = stream << SEQUENCE_BITS | first
        self.done = bytearray((count + 7) // 8)
        self.staged: bytearray | None = None
        self.left = count

    def mark(self, pos: int) -> None:
        """A message is settled in the transaction under way."""
        if self.staged is None:
            self.staged = bytearray(self.done)
        index = pos - self.base
        self.staged[index >> 3] |= 1 << (index & 7)
        self.left -= 1

    def commit(self) -> None:
        """The transaction was committed."""
        if self.staged is not None:
            self.done, self.staged = self.staged, None

    def roll_back(self) -> None:
        """The transaction was rolled back."""
        self.staged = None
        self.left = self.count - sum(byte.bit_count() for byte in self.done)


class Lease:
    """The right to settle one message.

    Attributes:
        span: The range it was claimed with; None: it is an item, a row of its own.
        pos: Its position.
        token: Proves that the item is still the one that was written here.
        trial: As in `Fetched`, but kept with the item even where nobody is told.
        lane: Ordered sources: the lane it came from.
        since: When it was handed out (monotonic seconds).
        decision: What was decided; None: it is in hand.
        answer: What became of that, for those who ask again.
    """

    __slots__ = (
        "answer",
        "decision",
        "failures",
        "holder",
        "lane",
        "losses",
        "message",
        "pos",
        "redrives",
        "since",
        "span",
        "token",
        "trial",
    )

    def __init__(
        self, holder: Holder, message: Message, pos: int, token: int, since: float, span: Span | None = None
    ) -> None:
        self.holder = holder
        self.message = message
        self.pos = pos
        self.token = token
        self.since = since
        self.span = span
        self.failures = 0
        self.losses = 0
        self.redrives = 0
        self.trial: int | None = None
        self.lane: Lane | None = None
        self.decision: Decision | None = None
        self.answer: Settled | None = None

    @property
    def epoch(self) -> object:
        """What is handed out and what is settled passes one writer: there is one epoch."""
        return self.holder


class Holder:
    """A consumer as the writer's thread knows it: who owns what is claimed.

    Attributes:
        id: Of its row in ``consumer``; 0: it has none at the moment.
        source_id: Of its source's row.
        window: Most messages in hand.
        want: How many its `fetch` waits for; set by the application's thread.
        live: What is in hand.
        lanes: Ordered sources: the lanes it owns, by stream.
        stopping: It takes nothing more; lanes go when their last message is settled.
        closing: It ends with the next transaction; what is in hand comes back.
        max_hold: Seconds that a message may stay in hand; None: for ever.
        look: Monotonic time of the next look at how lanes are shared.
        share: How many lanes it should own.
        began: Monotonic time of its beginning.
    """

    __slots__ = (
        "began",
        "closing",
        "id",
        "lanes",
        "live",
        "look",
        "max_hold",
        "share",
        "source",
        "source_id",
        "stopping",
        "turn",
        "want",
        "window",
    )

    def __init__(self, id: int, source_id: int, source: Source, window: int, max_hold: float | None = None) -> None:
        self.id = id
        self.source_id = source_id
        self.source = source
        self.window = window
        self.want = 0
        self.live: set[Lease] = set()
        self.lanes: dict[int, Lane] = {}
        self.max_hold = max_hold
        self.stopping = False
        self.closing = False
        self.look = 0.0
        self.share = 0
        self.turn = 0
        self.began = 0.0

    @property
    def room(self) -> int:
        """How many messages it may be given now."""
        return 0 if self.stopping or self.closing else min(self.want, self.window - len(self.live))
