"""The engine contract: what a broker's adapter does, and nothing else.

An engine translates. Retry policy, backoff, decoding, dispatch, concurrency, order per key, timeouts, emission,
request correlation live once, above this file. Engines never run user code, and keep connections and leases alive
on threads or on an event loop of their own, so that a handler which blocks the application's loop loses nothing.

Threads: every ``async`` method is awaited on the application's loop and must only wait there; the work happens on
the engine's side. Callbacks (`Lost`, `Decide`) may be called from any thread and return at once.

Values that cross the seam once a message are frozen msgspec Structs (0.1 to 0.2 us to make; a dataclass costs ten
times that). Deadlines are absolute ``clock.monotonic()`` seconds; instants are aware datetimes.

An engine is found by the scheme of the URL: the built-in ones in `telex.engines`, others by the entry point group
``telex.engines`` (name = scheme, value = a class of settings that satisfies `EngineSettings`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from random import Random
from typing import Literal, Protocol

import msgspec

from .clock import Clock
from .features import Features
from .message import Message

Start = Literal["new", "all"] | datetime
"""Where a new group begins: what comes after its declaration, all that is kept, or from an instant."""


class ChannelKind(Enum):
    """What a channel is."""

    TOPIC = "topic"
    QUEUE = "queue"
    PROCEDURE = "procedure"


class Channel(msgspec.Struct, frozen=True, gc=False):
    """A named stream of messages, as publishers and consumers must agree on it.

    Attributes:
        name: Words of ``[a-z0-9_]`` joined by dots, 60 bytes at most; engines map it injectively.
        kind: Topic, queue or procedure.
        ordered: Whether messages of one key keep their order.
        lanes: Units of order: a message's lane is ``crc32(key or id) % lanes``. 1 where not ordered.
        history: How long settled messages are kept for replay; None leaves it to the engine's settings.
    """

    name: str
    kind: ChannelKind
    ordered: bool = False
    lanes: int = 1
    history: timedelta | None = None


class SourceKind(Enum):
    """What a source is."""

    QUEUE = "queue"
    GROUP = "group"
    BROADCAST = "broadcast"
    INBOX = "inbox"


class Source(msgspec.Struct, frozen=True, gc=False):
    """What is consumed: the unit of cursor, lease, dead letters, pause and stats.

    Attributes:
        channel: Name of a queue, procedure or topic, or a pattern over topics (``*`` one word, ``#`` zero or more).
        kind: A queue or procedure is QUEUE; one (group, topic-or-pattern) is GROUP.
        group: The group's name; None for all other kinds.
        ordered: Whether this source keeps the order of its (ordered) channel.
    """

    channel: str
    kind: SourceKind
    group: str | None = None
    ordered: bool = False

    def __str__(self) -> str:
        return self.channel if self.group is None else f"{self.channel}/{self.group}"


Address = Channel | Source | str
"""Where a message goes: a channel; one source's copy alone; or a Telex inbox, an opaque text of the engine's."""


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message on its way in.

    Attributes:
        to: Where it goes.
        message: What goes.
        not_before: Queues only: deliver no earlier.
        maybe_stored: It was published before with outcome UNCERTAIN: an engine that can look for it, looks.
    """

    to: Address
    message: Message
    not_before: datetime | None = None
    maybe_stored: bool = False


class Stored(Enum):
    """Outcome of one publish."""

    YES = 1
    UNROUTED = 2
    """Accepted, but the topic has no group: kept nowhere it could be read from. Not an error; counted."""
    NO = 3
    """Certainly stored nowhere."""
    UNCERTAIN = 4
    """May be stored."""


class Decision(Enum):
    """What the core decided about one delivery."""

    ACCEPT = 1
    RETRY = 2
    """A failure, counted durably; deliver again at `Settlement.at`."""
    DEAD = 3
    DISCARD = 4
    RELEASE = 5
    """Not started: give it back and count nothing, if the broker lets us."""
    TRIAL = 6
    """Not started: isolate it. From now on one such message is in hand per process, and its losses count as `trial`."""


class Settled(Enum):
    """Outcome of one settlement."""

    DONE = 1
    """Confirmed by the broker: this delivery never comes back."""
    SENT = 2
    """Handed over, the broker confirms nothing: comes back only after a fault, same id."""
    HELD = 3
    """RETRY on an ordered source that cannot let a key wait by itself: failures and time are durable, the lease stays
    ours, the core runs it again at its time."""
    LOST = 4
    """Not ours any more. ACCEPT and DISCARD changed nothing; RETRY and DEAD may have left a copy, same id."""
    FAILED = 5
    """Certainly not settled, still ours: the core settles again with backoff and never runs the handler again."""
    UNKNOWN = 6
    """May or may not be settled, and the lease is gone: counted; may come back."""


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """One delivery.

    Attributes:
        message: What is delivered.
        lease: The right to settle it; opaque, compared by identity.
        failures: Attempts settled as RETRY: exact and durable. `Retry.attempts` limits these.
        losses: Deliveries that came back unsettled: durable, an upper bound, may include some never started.
        trial: Losses while alone in its window (`Retry.crashes` limits these); None when not on trial.
        lane: Order holds inside a lane. 0 where not ordered.
        position: Rises inside a lane.
        not_before: An ordered head restored after a restart that must still wait; None elsewhere.
    """

    message: Message
    lease: object
    failures: int = 0
    losses: int = 0
    trial: int | None = None
    lane: int = 0
    position: int = 0
    not_before: datetime | None = None


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """One decision, for the engine to carry out.

    Attributes:
        lease: Of the delivery.
        decision: What to do.
        at: RETRY: deliver no earlier.
        reason: DEAD: a `DeadReason` value. DISCARD: why, for the counters.
        error: RETRY and DEAD: the attempt as JSON, at most 4 KiB, opaque; appended to the message's history.
        cause: RETRY and DEAD: what dead letters are grouped by: ``error class|place``.
        text: DEAD: one line for people.
        emit: ACCEPT and DISCARD only: messages that leave with this settlement, ids already fixed.
    """

    lease: object
    decision: Decision
    at: datetime | None = None
    reason: str = ""
    error: str = ""
    cause: str = ""
    text: str = ""
    emit: Sequence[Outgoing] = ()


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer asks for.

    Attributes:
        source: What to consume. `SourceKind.INBOX` takes no declared channel.
        start: Where a source that does not exist yet begins.
        window: Most unsettled deliveries held for this consumer, buffered ones included.
        max_hold: The engine keeps a lease alive by itself until settled or this old, then lets it go; None: for ever.
    """

    source: Source
    start: Start = "new"
    window: int = 1000
    max_hold: timedelta | None = None


class Status(Enum):
    """What `plan` found out about one thing."""

    CREATE = "create"
    DIFFERS = "differs"
    EXTRA = "extra"
    UNKNOWN = "unknown"
    """It cannot be read with these rights or over this protocol."""


class Change(msgspec.Struct, frozen=True):
    """One line of a plan.

    Attributes:
        status: Only CREATE is ever applied.
        what: For people, for example ``queue emails``.
        because: For people: how it differs, or why it is unknown.
        apply: The engine's own; opaque.
    """

    status: Status
    what: str
    because: str = ""
    apply: object = None


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as the engine keeps it.

    Attributes:
        source: Where it died.
        message: Byte for byte as it was published.
        reason: A `DeadReason` value.
        text: One line for people.
        cause: What it is grouped by: ``error class|place``.
        errors: The attempts, oldest first, each JSON as given in `Settlement.error`.
        at: When it died; None where the broker does not say.
        redrives: How often it was redriven before.
    """

    source: Source
    message: Message
    reason: str
    text: str
    cause: str
    errors: Sequence[str]
    at: datetime | None
    redrives: int = 0


class Swept(msgspec.Struct, frozen=True):
    """What one pass over dead letters did.

    Attributes:
        seen: Letters shown to `Decide`.
        moved: Letters redriven or discarded; certain.
        uncertain: Letters that may have moved and may still be there, same id.
        after: Where the next pass goes on; None at the end.
        complete: False where the broker shows only a sample or a bounded window.
    """

    seen: int
    moved: int
    uncertain: int
    after: str | None
    complete: bool


class Browsed(msgspec.Struct, frozen=True):
    """A look at what a channel keeps.

    Attributes:
        messages: Oldest first.
        after: Where the next look goes on, also when nothing was there; opaque.
    """

    messages: Sequence[Message]
    after: str


class SourceStats(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one source; None in a field: unknowable on this engine.

    Attributes:
        source: Its text form, for example ``orders.placed/billing``.
        ready: Messages that could be delivered now.
        delayed: Delayed sends that are not due yet.
        retrying: Messages that wait for their next attempt, and those parked behind them to keep order.
        next_retry: When the earliest of those is due (aware, UTC).
        leased: Messages in hand somewhere.
        dead: Dead letters.
        oldest: Age of the oldest unsettled message.
        consumers: Processes that consume it now.
        size: Bytes of unsettled messages it holds.
    """

    source: str
    ready: int | None = None
    delayed: int | None = None
    retrying: int | None = None
    next_retry: datetime | None = None
    leased: int | None = None
    dead: int | None = None
    oldest: timedelta | None = None
    consumers: int | None = None
    size: int | None = None


class EngineClosed(Exception):
    """The engine or the consumer is closed. Wakes a blocked `Consumer.fetch`."""


Lost = Callable[[Sequence[object]], None]
Decide = Callable[[Letter], Literal["keep", "redrive", "discard"]]


class Consumer(Protocol):
    """One consumer of one source in this process."""

    @property
    def address(self) -> str | None:
        """Inbox only: what a request carries as `Message.reply_to`."""
        ...

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        """At most ``max`` deliveries, as soon as one is there; empty after ``wait`` seconds.

        One caller. Cancelling loses nothing: the next fetch has it. Not calling it is the pause: connection, lanes and
        leases stay, and what is buffered stays inside the window.

        Ordered sources: position order within a lane, one live owner per lane. A lane whose last owner was lost starts
        at window 1 and doubles per settled delivery. At most one trial is in hand per process.

        Raises:
            EngineClosed: `close` was called, also while waiting here.
        """
        ...

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """Settles deliveries; answers per item, same length and order, never raises per item.

        Emits, then writes the copy (retry, dead, trial), then removes; atomic if `Features.atomic`. The same lease
        with the same decision again gets the same answer. From any task of the application's loop.

        Order per key: the core never runs two of a key. With a RETRY it RELEASEs the key's unstarted successors in the
        same batch; the engine parks them by position, uncounted. After a RETRY was answered DONE, `fetch` returns
        deliveries of that key only in position order again, beginning with the retried one.
        """
        ...

    async def stop(self) -> None:
        """Takes no more, and gives back what `fetch` has not returned.

        Fetched leases stay valid and settleable; an ordered lane passes on only after its last lease is settled.
        Awaits an outstanding receive rather than dropping it.
        """
        ...

    async def close(self) -> None:
        """Ends the consumer; idempotent; what is unsettled comes back at once, as a loss."""
        ...


class Admin(Protocol):
    """What operators need. None of it takes a message away from a consumer."""

    async def sources(self) -> Sequence[Source]:
        """All sources that exist, also those without members."""
        ...

    async def stats(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        """The state of each, same length and order."""
        ...

    async def sweep(self, source: Source, decide: Decide, after: str | None, limit: int, hold: float) -> Swept:
        """One bounded pass over dead letters, oldest first where the broker knows; a decision per letter.

        Kept letters stay byte-equal. A redriven one goes to its source, not to its topic: same id, failures and losses
        from 0, history kept, `Letter.redrives` counted; the copy is confirmed, then the letter removed; killed between
        the two, both exist.
        """
        ...

    async def replay(
        self, source: Source, since: datetime, until: datetime, token: str | None, dry_run: bool
    ) -> tuple[int, str | None]:
        """Hands a slice of the past to this source only, beside live traffic: (messages, token to go on; None: all)."""
        ...

    async def browse(self, channel: str, since: datetime | None, limit: int, after: str | None = None) -> Browsed:
        """Messages that are kept, oldest first, without taking them. ``after``: only what came behind an earlier look.

        Looking again and again with the last answer's ``after`` shows each message once: time alone cannot do that,
        since many messages share an instant and the publisher's clock is not the broker's.
        """
        ...

    async def purge(self, source: Source) -> int | None:
        """Drops what is ready; how many, where the broker says."""
        ...

    async def remove(self, source: Source) -> None:
        """Ends a source, with all it holds: the only way a group ends. The channel of a queue goes with it."""
        ...

    async def backup(self, path: str) -> int:
        """Writes a consistent copy to a new file while everything runs; its size in bytes.

        Raises:
            Unsupported: The broker is backed up by its own tools.
        """
        ...


class Engine(Protocol):
    """The adapter to one broker."""

    @property
    def features(self) -> Features:
        """What it can do; final once `open` returned (broker version, rights)."""
        ...

    @property
    def admin(self) -> Admin: ...

    async def open(self, deadline: float) -> None:
        """Connects and checks.

        Raises:
            Disconnected: Not reachable by the deadline.
            AccessDenied: Credentials or rights are refused.
            StoreDamaged: The file is damaged or foreign.
            ConfigError: The URL or a setting is wrong.
        """
        ...

    async def plan(self, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        """What declaring these would do. Only reads."""
        ...

    async def apply(self, changes: Sequence[Change]) -> None:
        """Creates what `plan` said to create; alters and deletes nothing. Idempotent; concurrent callers agree."""
        ...

    async def lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        """The channels of these names as they exist, for plain names."""
        ...

    def problems(self) -> Sequence[str]:
        """What is wrong now, one line each, for health and `status`. Safe from any thread."""
        ...

    async def publish(self, batch: Sequence[Outgoing], deadline: float) -> Sequence[tuple[Stored, Exception | None]]:
        """Stores messages; answers per item, same length and order, by the deadline; never raises per item.

        Several calls may be under way. Those stored keep their order per key.
        """
        ...

    async def consume(self, subscription: Subscription, lost: Lost) -> Consumer:
        """Begins to consume. ``lost`` is told leases that are gone as soon as the engine knows."""
        ...

    async def close(self, deadline: float) -> None:
        """Flushes publishes, closes consumers; idempotent."""
        ...


class EngineSettings(Protocol):
    """Typed settings of one engine; the URL picks which of an application's settings is used."""

    @property
    def schemes(self) -> tuple[str, ...]: ...

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        """Makes the engine; no I/O.

        Raises:
            ConfigError: The URL or a setting is wrong. The text shows no password.
        """
        ...
