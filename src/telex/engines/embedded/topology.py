"""Channels, sources and streams: what exists, and making what does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import apsw

from ...engine import Channel, ChannelKind, Source, SourceKind, Start
from ...names import matches
from .rows import rows as fetch
from .schema import SEQUENCE_BITS, SEQUENCE_MASK

MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class ChannelRow:
    """A channel as it is stored.

    Attributes:
        id: Of its row.
        channel: As it was declared.
        streams: The number of each lane's stream.
        sources: Ids of the sources that get what is published to it; empty: unrouted.
    """

    id: int
    channel: Channel
    streams: tuple[int, ...]
    sources: tuple[int, ...] = ()


@dataclass(slots=True)
class SourceRow:
    """A source as it is stored.

    Attributes:
        id: Of its row.
        source: As it was declared.
    """

    id: int
    source: Source


class Topology:
    """What exists, as of one version of the store's topology. Used on the writer's thread only."""

    def __init__(self) -> None:
        self.version = -1
        self.channels: dict[str, ChannelRow] = {}
        self.by_id: dict[int, ChannelRow] = {}
        self.sources: dict[tuple[str, str], SourceRow] = {}

    def refresh(self, db: apsw.Connection) -> None:
        """Reads it again if anything changed, here or in another process. Inside a transaction."""
        version = fetch(db.execute("SELECT v FROM meta WHERE k='topology'"))[0][0]
        if version != self.version:
            self._load(db)
            self.version = version

    def forget(self) -> None:
        """Reads everything again next time: a transaction was rolled back."""
        self.version = -1

    def source(self, source: Source) -> SourceRow | None:
        """The row of a source."""
        return self.sources.get((source.group or "", source.channel))

    def _load(self, db: apsw.Connection) -> None:
        streams: dict[int, list[int]] = {}
        for no, channel in db.execute("SELECT no, channel FROM stream WHERE channel > 0 ORDER BY channel, lane"):
            streams.setdefault(channel, []).append(no)
        readers: dict[int, set[int]] = {}
        for channel, source in db.execute(
            "SELECT DISTINCT s.channel, c.source FROM cursor c JOIN stream s ON s.no = c.stream WHERE s.channel > 0"
        ):
            readers.setdefault(channel, set()).add(source)
        self.channels = {}
        for id, *fields in db.execute("SELECT id, name, kind, ordered, lanes, history FROM channel"):
            row = ChannelRow(id, _channel(fields), tuple(streams.get(id, ())), tuple(sorted(readers.get(id, ()))))
            self.channels[row.channel.name] = row
        self.by_id = {row.id: row for row in self.channels.values()}
        self.sources = {
            (group, pattern): SourceRow(id, Source(pattern, SourceKind(kind), group or None, bool(ordered)))
            for id, group, pattern, kind, ordered in db.execute("SELECT id, grp, pattern, kind, ordered FROM source")
        }


def bump(db: apsw.Connection) -> None:
    """Says that channels or sources changed: every process reads them again."""
    db.execute("UPDATE meta SET v = v + 1 WHERE k = 'topology'")


def create_channel(db: apsw.Connection, channel: Channel) -> None:
    """Makes a channel with its streams, and lets every source that wants it read it from the beginning."""
    history = None if channel.history is None else channel.history // MICROSECOND
    db.execute(
        "INSERT INTO channel(name, kind, ordered, lanes, history) VALUES (?,?,?,?,?)",
        (channel.name, channel.kind.value, channel.ordered, channel.lanes, history),
    )
    id = db.last_insert_rowid()
    db.executemany("INSERT INTO stream(channel, lane) VALUES (?,?)", [(id, lane) for lane in range(channel.lanes)])
    if channel.kind is ChannelKind.TOPIC:
        for source, pattern in fetch(db.execute("SELECT id, pattern FROM source WHERE kind = 'group'")):
            if matches(pattern, channel.name):
                _add_cursors(db, source, id, "all")
    else:
        create_source(db, Source(channel.name, SourceKind.QUEUE, None, channel.ordered), "all")
    bump(db)


def create_source(db: apsw.Connection, source: Source, start: Start) -> int:
    """Makes a source that reads every channel it matches from ``start`` on; returns its id."""
    db.execute(
        "INSERT INTO source(grp, pattern, kind, ordered) VALUES (?,?,?,?)",
        (source.group or "", source.channel, source.kind.value, source.ordered),
    )
    id = db.last_insert_rowid()
    db.execute("INSERT INTO stream(channel, lane) VALUES (?, 0)", (-id,))
    wanted = ChannelKind.TOPIC.value if source.kind is SourceKind.GROUP else None
    for channel, name, kind in fetch(db.execute("SELECT id, name, kind FROM channel")):
        if (kind == wanted or wanted is None) and matches(source.channel, name):
            _add_cursors(db, id, channel, start)
    bump(db)
    return id


def private_stream(db: apsw.Connection, source: int) -> int:
    """The number of the stream for messages that go to this source alone; they also need an ``item`` each."""
    no: int = fetch(db.execute("SELECT no FROM stream WHERE channel = ?", (-source,)))[0][0]
    return no


def streams_of(db: apsw.Connection, pattern: str) -> Sequence[tuple[int, int]]:
    """(stream, next sequence) of every topic that a pattern matches."""
    rows = db.execute(
        "SELECT c.name, s.no, s.next FROM channel c JOIN stream s ON s.channel = c.id WHERE c.kind = 'topic'"
    )
    return [(no, next) for name, no, next in rows if matches(pattern, name)]


def first_at(db: apsw.Connection, stream: int, at: int) -> int:
    """The sequence of the first run of a stream that was stored at ``at`` or later; its next one if there is none.

    Runs are searched from the newest backwards, since there is no index by time: a new group starts rarely.
    """
    low = stream << SEQUENCE_BITS
    first: int | None = None
    rows = db.execute(
        "SELECT pos, at FROM log WHERE pos >= ? AND pos <= ? ORDER BY pos DESC", (low, low | SEQUENCE_MASK)
    )
    for pos, stored in rows:
        if stored < at:
            break
        first = pos & SEQUENCE_MASK
    rows.close()
    if first is not None:
        return first
    next: int = fetch(db.execute("SELECT next FROM stream WHERE no = ?", (stream,)))[0][0]
    return next


def _add_cursors(db: apsw.Connection, source: int, channel: int, start: Start) -> None:
    for stream, next in fetch(db.execute("SELECT no, next FROM stream WHERE channel = ?", (channel,))):
        if isinstance(start, datetime):
            next = first_at(db, stream, int(start.timestamp() * 1_000_000))
        elif start == "all":
            next = _oldest(db, stream, next)
        db.execute("INSERT INTO cursor(source, stream, next) VALUES (?,?,?)", (source, stream, next))


def _oldest(db: apsw.Connection, stream: int, next: int) -> int:
    """The first sequence that is still kept: earlier runs may be gone."""
    low = stream << SEQUENCE_BITS
    rows = fetch(
        db.execute("SELECT pos FROM log WHERE pos >= ? AND pos <= ? ORDER BY pos LIMIT 1", (low, low | SEQUENCE_MASK))
    )
    return rows[0][0] & SEQUENCE_MASK if rows else next


def _channel(fields: Sequence[object]) -> Channel:
    name, kind, ordered, lanes, history = fields
    assert isinstance(name, str)
    assert isinstance(lanes, int)
    kept = None if history is None else timedelta(microseconds=int(str(history)))
    return Channel(name, ChannelKind(kind), bool(ordered), lanes, kept)
