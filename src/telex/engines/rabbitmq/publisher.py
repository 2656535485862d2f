"""Publishing: confirmed, mandatory, with a window; through outages, alarms and errors that close the channel."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

import msgspec
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused

from ...engine import Stored
from ...errors import AccessDenied, Disconnected, UnknownChannel
from ...events import BROKER_TROUBLE
from . import table
from .control import Control
from .exchanges import Exchanges
from .line import Line
from .link import DROPPED, Link
from .wire import publish_method

log = logging.getLogger("telex.rabbitmq")

CHANNEL = 1
"""Of the publishing connection, always: frames are composed before there is a connection."""
WINDOW = 4096
"""Most unconfirmed messages."""
WINDOW_BYTES = 32 * 1024 * 1024
"""Most unconfirmed bytes, but for one message."""
SOCKET = 4 * 1024 * 1024
"""Bytes in the socket's buffer past which writing waits."""
STUCK = 8.0
"""Seconds without a confirm after which the connection is given up, and what was written written again; twice as long
each time. A node that has just started may take a publish for a queue that has no leader yet: the channel hangs in it,
confirms nothing any more and does not even close (3.10.8, in a third of the runs with ``kill -9`` under load)."""
LONGEST_STUCK = 120.0
BLOCKED = 0.1
"""Seconds between looks whether the broker takes messages again."""
PIECE = 256 * 1024
"""Bytes written at once."""
DEFAULT = frozenset({""})

Outcome = tuple[Stored, Exception | None]
YES: Outcome = (Stored.YES, None)


class Posting(msgspec.Struct, frozen=True, gc=False):
    """One message, ready for the wire.

    Attributes:
        exchange: Where to; "" is the default exchange, where the key names a queue.
        key: The routing key.
        id: Of the message.
        content: The frames of header and body, for `CHANNEL`.
        missing: The outcome where there is no queue for it.
        once: It is not written again on another connection: by then it may be out of date.
    """

    exchange: str
    key: str
    id: str
    content: bytes
    missing: Stored = Stored.NO
    once: bool = False


class _Entry:
    """A posting under way."""

    __slots__ = ("at", "batch", "index", "posting", "returned", "written")

    def __init__(self, posting: Posting, batch: _Batch, index: int) -> None:
        self.posting = posting
        self.batch = batch
        self.index = index
        self.at = 0.0
        self.written = False
        self.returned = False

    def answer(self, outcome: Outcome) -> None:
        batch = self.batch
        if batch.outcomes[self.index] is None:
            batch.outcomes[self.index] = outcome
            batch.left -= 1
            if not batch.left and not batch.done.done():
                batch.done.set_result(None)

    @property
    def answered(self) -> bool:
        return self.batch.outcomes[self.index] is not None


class _Batch:
    """Postings that are awaited together."""

    __slots__ = ("done", "left", "outcomes")

    def __init__(self, size: int, done: asyncio.Future[None]) -> None:
        self.outcomes: list[Outcome | None] = [None] * size
        self.left = size
        self.done = done


class Publisher:
    """Publishes on a line of its own, since an alarm of the broker stops the whole connection of a publisher.

    A message that was written when the connection broke is written again on the next one, before all others: first
    copies keep their order, and what may be there twice has the same id.
    """

    def __init__(self, line: Line, control: Control) -> None:
        self._line = line
        self._control = control
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._waiting: deque[_Entry] = deque()
        self._unconfirmed: dict[int, _Entry] = {}
        self._bytes = 0
        self._tag = 0
        self._methods: dict[tuple[str, str], bytes] = {}
        self._exchanges = Exchanges(control, self._why)
        self._one_by_one = 0
        """So many messages go alone: one of them closed the channel."""
        self._mending: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._looking = False
        self._patience = STUCK
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    # -- for others -------------------------------------------------------------------------------------------------

    async def store(self, postings: Sequence[Posting], deadline: float) -> Sequence[Outcome]:
        """Stores messages; the outcome of each, by the deadline (of the loop's clock)."""
        loop = asyncio.get_running_loop()
        batch = _Batch(len(postings), loop.create_future())
        if not postings:
            return []
        # The default exchange, which has no name, is always there.
        missing = await self._exchanges.missing({posting.exchange for posting in postings} - DEFAULT, deadline)
        for index, posting in enumerate(postings):
            entry = _Entry(posting, batch, index)
            if posting.exchange in missing:
                entry.answer((Stored.NO, missing[posting.exchange]))
            else:
                self._waiting.append(entry)
        self._pump()
        timer = loop.call_at(deadline, self._expire, batch)
        try:
            await batch.done
        finally:
            timer.cancel()
        return [outcome or (Stored.UNCERTAIN, None) for outcome in batch.outcomes]

    @property
    def is_up(self) -> bool:
        """Whether anything can be written now."""
        return self._channel is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._waiting and not self._unconfirmed

    async def close(self) -> None:
        """Ends; what is under way gets its outcome at its deadline or now."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for task in (self._mending, self._draining):
            if task is not None:
                task.cancel()
        for entry in [*self._unconfirmed.values(), *self._waiting]:
            entry.answer(self._unfinished(entry, Disconnected("the engine was closed")))
        self._unconfirmed.clear()
        self._waiting.clear()

    # -- the connection ---------------------------------------------------------------------------------------------

    async def up(self, link: Link) -> None:
        """Opens its channel and writes again what was not confirmed."""
        self._one_by_one = 0
        await self._open(link)

    async def _open(self, link: Link) -> None:
        channel = await link.channel(sink=self, confirms=True, number=CHANNEL)
        channel.closing.add_done_callback(lambda closing: self._channel_closed(channel, closing))
        self._link, self._channel, self._tag = link, channel, 0
        self._requeue()
        self._pump()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(1.0, self._look_for_stuck)

    def _look_for_stuck(self) -> None:
        """Messages that the broker has forgotten are written again, on a connection that it answers on."""
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(1.0, self._look_for_stuck)
        link = self._link
        first = next(iter(self._unconfirmed.values()), None)
        if first is None:
            self._patience = STUCK
        elif link is not None and not link.is_blocked and loop.time() - first.at > self._patience:
            self._patience = min(self._patience * 2, LONGEST_STUCK)
            link.drop(f"{len(self._unconfirmed)} messages were not confirmed in time")

    def down(self) -> None:
        """Nothing can be written."""
        self._link = self._channel = None
        for entries in (self._unconfirmed.values(), self._waiting):
            for entry in list(entries):
                if entry.posting.once:
                    entry.answer(self._unfinished(entry, Disconnected("the connection broke before it was stored")))
        self._forget_answered()

    def _requeue(self) -> None:
        """What was written and not confirmed goes first, in its order."""
        entries = [entry for entry in self._unconfirmed.values() if not entry.answered]
        self._unconfirmed.clear()
        self._bytes = 0
        for entry in entries:
            entry.returned = False
        self._waiting.extendleft(reversed(entries))

    def _channel_closed(self, channel: AbstractChannel, closing: asyncio.Future[object]) -> None:
        if channel is not self._channel or self._closed:
            return
        self._channel = None
        error = None if closing.cancelled() else closing.exception()
        if self._link is not None and self._link.is_open:
            self._mending = asyncio.get_running_loop().create_task(self._mend(self._link, error))

    async def _mend(self, link: Link, error: BaseException | None) -> None:
        """Something that was published closed the channel: what is left goes one by one, so that only that suffers."""
        BROKER_TROUBLE.log(
            log, "the broker closed the channel for publishing: %s; publishing goes on on a new one", error
        )
        self._control.exchanges.clear()
        entries = [entry for entry in self._unconfirmed.values() if not entry.answered]
        if len(entries) == 1:
            entries[0].answer((Stored.NO, _refused(error)))
        self._one_by_one = len(entries) if len(entries) > 1 else 0
        try:
            await self._open(link)
        except (Disconnected, *DROPPED) as failed:
            BROKER_TROUBLE.log(log, "no new channel for publishing: %s", failed)
            if link.is_open:  # Nothing else would ever open one: where nothing is unconfirmed, nothing gets stuck.
                link.drop(f"the broker opens no new channel for publishing: {failed}")

    # -- writing ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Writes what there is room for."""
        link = self._link
        if link is None or self._channel is None or not self._waiting:
            return
        if link.is_blocked:
            self._look_later()
            return
        waiting, unconfirmed, methods = self._waiting, self._unconfirmed, self._methods
        parts: list[bytes] = []
        size = 0
        now = asyncio.get_running_loop().time()
        while waiting and self._room() and (not self._one_by_one or not unconfirmed):
            entry = waiting.popleft()
            if entry.answered:
                self._one_by_one = max(0, self._one_by_one - 1)
                continue
            posting = entry.posting
            place = (posting.exchange, posting.key)
            method = methods.get(place)
            if method is None:
                if len(methods) > 10_000:
                    methods.clear()
                method = methods[place] = publish_method(CHANNEL, *place)
            self._tag += 1
            unconfirmed[self._tag] = entry
            entry.written = True
            entry.at = now
            self._bytes += len(posting.content)
            parts += (method, posting.content)
            size += len(posting.content)
            if size > PIECE:
                link.write(b"".join(parts))
                parts, size = [], 0
                if link.backlog > SOCKET:
                    break
        if parts:
            link.write(b"".join(parts))
        if waiting and link.backlog > SOCKET and (self._draining is None or self._draining.done()):
            self._draining = asyncio.get_running_loop().create_task(self._drain(link))

    def _room(self) -> bool:
        return len(self._unconfirmed) < WINDOW and (self._bytes < WINDOW_BYTES or not self._unconfirmed)

    async def _drain(self, link: Link) -> None:
        await link.drained()
        asyncio.get_running_loop().call_soon(self._pump)

    def _expire(self, batch: _Batch) -> None:
        """The deadline of a batch has come."""
        why = Disconnected(self._why())
        for entries in (self._unconfirmed.values(), self._waiting):
            for entry in list(entries):
                if entry.batch is batch:
                    entry.answer(self._unfinished(entry, why))
        self._forget_answered()
        if not batch.done.done():
            batch.done.set_result(None)

    def _forget_answered(self) -> None:
        """Nothing is written during an outage: what nobody waits for would lie here until its end."""
        left = deque(entry for entry in self._waiting if not entry.answered)
        self._one_by_one = max(0, self._one_by_one - (len(self._waiting) - len(left)))
        self._waiting = left

    @staticmethod
    def _unfinished(entry: _Entry, why: Exception) -> Outcome:
        return (Stored.UNCERTAIN if entry.written else Stored.NO), why

    def _why(self) -> str:
        return self._line.problem or "the broker did not confirm it in time"

    def _look_later(self) -> None:
        """The broker takes nothing now."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(BLOCKED, self._look_again)

    def _look_again(self) -> None:
        self._looking = False
        self._pump()

    # -- what comes back --------------------------------------------------------------------------------------------

    def delivered(self, consumer: bytes, tag: int, exchange: bytes, key: bytes, header: bytes, body: bytes) -> None:
        """Nothing is consumed here."""

    def returned(self, code: int, exchange: bytes, key: bytes, header: bytes) -> None:
        """It had no queue; its confirm follows. The broker returns in the order of publishing."""
        try:
            id = table.properties(header).get(table.MESSAGE_ID, b"\0")[1:].decode()
            place = exchange.decode(), key.decode()
        except (table.Damaged, UnicodeDecodeError):
            return
        for entry in self._unconfirmed.values():
            posting = entry.posting
            if posting.id == id and not entry.returned and (posting.exchange, posting.key) == place:
                entry.returned = True
                return

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """The broker's word on one message, or on all up to one."""
        unconfirmed = self._unconfirmed
        if multiple:
            for earlier in list(unconfirmed):
                if earlier > tag:
                    break
                self._answer(unconfirmed.pop(earlier), stored)
        else:
            entry = unconfirmed.pop(tag, None)
            if entry is not None:
                self._answer(entry, stored)

    def _answer(self, entry: _Entry, stored: bool) -> None:
        posting = entry.posting
        self._bytes -= len(posting.content)
        if self._one_by_one:
            self._one_by_one -= 1
        if entry.returned:
            cause = UnknownChannel(f"there is no queue {posting.key!r}") if posting.missing is Stored.NO else None
            entry.answer((posting.missing, cause))
        elif stored:
            entry.answer(YES)
        else:
            entry.answer((Stored.UNCERTAIN, Disconnected("the broker could not store it in every queue")))

    def ended(self) -> None:
        """There may be room again."""
        if self._waiting:
            self._pump()


def _refused(error: BaseException | None) -> Exception:
    if isinstance(error, ChannelAccessRefused):
        return AccessDenied(f"the broker refuses to store it: {error}")
    return UnknownChannel(f"the broker refuses to store it: {error}")
