"""What one transaction adds: publishes, emissions, delayed sends that are due, replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import apsw

from ...engine import Address, Channel, ChannelKind, Outgoing, Source, Stored
from ...errors import InvalidMessage, PublishFailed, StoreDamaged, UnknownChannel
from ...message import Message
from . import frame, topology
from .append import Tail, append, append_to_source, find, stream_for
from .lanes import NEVER
from .rows import rows as fetch
from .settle import micros
from .topology import ChannelRow, Topology

INBOX = "telex-inbox:"
"""How the address of an inbox begins."""
UNREAD = 60_000_000
"""Microseconds that a reply without expiry is kept for another process."""
EARLY = 60_000_000
"""Microseconds by which a clock may have gone back between the first try of a publish and the second."""
DUE = 1000
"""Delayed sends moved by one transaction."""

Outcome = tuple[Stored, Exception | None]
YES: Outcome = (Stored.YES, None)
UNROUTED: Outcome = (Stored.UNROUTED, None)


class Mailbox(Protocol):
    """An inbox of this process."""

    def put(self, message: Message) -> None:
        """Takes a reply; it is handed out after the commit."""
        ...


class Collecting:
    """Gathers messages by stream, so that each stream gets one row."""

    def __init__(
        self, db: apsw.Connection, known: Topology, tail: Tail, now: int, mailboxes: Mapping[str, Mailbox]
    ) -> None:
        self._db = db
        self._topology = known
        self._tail = tail
        self._now = now
        self._mailboxes = mailboxes
        self._streams: dict[int, list[Message]] = {}
        self._replies: list[tuple[Mailbox, Message]] = []

    def add(self, outgoing: Outgoing) -> Outcome:
        """Takes a message; what becomes of it if the transaction is committed."""
        to = outgoing.to
        if isinstance(to, Channel):
            return self._add_to_channel(to, outgoing)
        if isinstance(to, Source):
            return self._add_to_source(to, outgoing.message)
        return self._add_to_inbox(to, outgoing.message)

    def add_all(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        """Takes messages; most often they go to one channel, whose stream is then looked up once."""
        outcomes: list[Outcome] = []
        last: Address | None = None
        put: Callable[[Message], None] | None = None
        outcome = YES
        for outgoing in batch:
            plain = outgoing.not_before is None and not outgoing.maybe_stored
            if plain and put is not None and outgoing.to is last:
                put(outgoing.message)
            else:
                outcome = self.add(outgoing)
                last = outgoing.to
                put = self._appender(last) if plain else None
            outcomes.append(outcome)
        return outcomes

    def _appender(self, to: Address) -> Callable[[Message], None] | None:
        """What puts a message to a channel that has one stream."""
        if not isinstance(to, Channel):
            return None
        row = self._topology.channels.get(to.name)
        if row is None or len(row.streams) != 1 or row.channel.kind is not to.kind:
            return None
        return self._streams.setdefault(row.streams[0], []).append

    def refusal(self, outgoing: Outgoing) -> Exception | None:
        """Why a message to a channel or a source cannot be stored, if it cannot. Replies are another matter: whoever
        waits for one may be gone."""
        to = outgoing.to
        if isinstance(to, Channel):
            row = self._topology.channels.get(to.name)
            return None if row is None else _of_kind(row, to)
        if isinstance(to, Source) and self._topology.source(to) is None:
            return UnknownChannel(f"there is no source {to}")
        return None

    def move_due(self) -> int:
        """Lets delayed sends go whose time has come; how many."""
        rows = fetch(
            self._db.execute(
                "SELECT no, channel, frame FROM later WHERE due <= ? ORDER BY due LIMIT ?", (self._now, DUE)
            )
        )
        for no, channel, data in rows:
            row = self._topology.by_id.get(channel)
            try:
                message = frame.decode(data)[0]
            except StoreDamaged:  # Kept for whoever repairs it; it must not stop the others.
                self._db.execute("UPDATE later SET due = ? WHERE no = ?", (NEVER, no))
                continue
            if row is not None:
                self._streams.setdefault(stream_for(row, message), []).append(message)
            self._db.execute("DELETE FROM later WHERE no = ?", (no,))
        return len(rows)

    def flush(self) -> None:
        """Writes what was gathered."""
        for stream, messages in self._streams.items():
            if messages:
                append(self._db, self._tail, stream, messages, self._now)
        self._streams = {}

    def commit(self) -> None:
        """The transaction was committed."""
        for mailbox, message in self._replies:
            mailbox.put(message)

    def _add_to_channel(self, channel: Channel, outgoing: Outgoing) -> Outcome:
        row = self._topology.channels.get(channel.name) or self._create(channel)
        message = outgoing.message
        if (error := _of_kind(row, channel)) is not None:
            return Stored.NO, error
        stream = stream_for(row, message)
        if outgoing.maybe_stored and self._is_stored(row, stream, message):
            return YES
        if outgoing.not_before is not None and (due := micros(outgoing.not_before)) > self._now:
            self._db.execute(
                "INSERT INTO later(due, channel, frame) VALUES (?,?,?)", (due, row.id, frame.encode(message))
            )
            return YES
        pending = self._streams.get(stream)
        if pending is None:
            self._streams[stream] = [message]
        else:
            pending.append(message)
        return YES if row.sources else UNROUTED

    def _create(self, channel: Channel) -> ChannelRow:
        topology.create_channel(self._db, channel)
        self._topology.refresh(self._db)
        return self._topology.channels[channel.name]

    def _is_stored(self, row: ChannelRow, stream: int, message: Message) -> bool:
        if any(known.id == message.id for known in self._streams.get(stream, ())):
            return True
        if find(self._db, stream, message.id, micros(message.time) - EARLY):
            return True
        if row.channel.kind is not ChannelKind.QUEUE:
            return False
        waiting = self._db.execute("SELECT frame FROM later WHERE channel = ?", (row.id,))
        found = any(frame.decode(data)[0].id == message.id for (data,) in waiting)
        waiting.close()
        return found

    def _add_to_source(self, source: Source, message: Message) -> Outcome:
        row = self._topology.source(source)
        if row is None:
            return Stored.NO, UnknownChannel(f"there is no source {source}")
        stream = topology.private_stream(self._db, row.id)
        append_to_source(self._db, self._tail, row.id, stream, [message], self._now)
        return YES

    def _add_to_inbox(self, address: str, message: Message) -> Outcome:
        if not is_inbox(address):
            return Stored.NO, InvalidMessage(f"reply_to {address!r} is not an inbox of this store")
        mailbox = self._mailboxes.get(address)
        if mailbox is not None:
            self._replies.append((mailbox, message))
            return YES
        expires = self._now + UNREAD if message.expires is None else micros(message.expires)
        if expires <= self._now:
            return Stored.NO, PublishFailed("nobody waits for this reply any more")
        self._db.execute(
            "INSERT INTO inbox(address, expires, frame) VALUES (?,?,?)", (address, expires, frame.encode(message))
        )
        return YES


def _of_kind(row: ChannelRow, channel: Channel) -> UnknownChannel | None:
    if row.channel.kind is channel.kind:
        return None
    return UnknownChannel(f"{channel.name} is a {row.channel.kind.value} here, not a {channel.kind.value}")


def is_inbox(address: str) -> bool:
    """Whether a text is the address of an inbox."""
    rest = address.removeprefix(INBOX)
    return rest != address and 0 < len(rest) <= 64 and rest.isalnum()
