"""A store without an engine around it: tables, and the few steps that tests of single modules need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import apsw

from telex.engine import Channel, ChannelKind, Source, SourceKind
from telex.engines.embedded import schema, topology
from telex.engines.embedded.append import Tail, append
from telex.engines.embedded.frame import encode
from telex.message import Message

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


def at(microseconds: int) -> datetime:
    """Wall-clock microseconds as a datetime."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


class Kit:
    """A store in a file or in memory, and its topology."""

    def __init__(self, path: str = ":memory:") -> None:
        self.db = apsw.Connection(path)
        self.topology = topology.Topology()
        with self.write():
            schema.create(self.db)

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """A write transaction."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")
        self.topology.refresh(self.db)

    def channel(
        self,
        name: str,
        kind: ChannelKind = ChannelKind.TOPIC,
        *,
        lanes: int = 1,
        history: timedelta | None = None,
    ) -> tuple[int, ...]:
        """Makes a channel; its streams."""
        with self.write() as db:
            topology.create_channel(db, Channel(name, kind, lanes > 1, lanes, history))
        return self.topology.channels[name].streams

    def group(self, topic: str, group: str, *, ordered: bool = False) -> tuple[Source, int]:
        """Makes a group that begins with all there is; it and its id."""
        source = Source(topic, SourceKind.GROUP, group, ordered)
        with self.write() as db:
            return source, topology.create_source(db, source, "all")

    def queue(self, name: str) -> tuple[Source, int]:
        """Makes a queue; its source and that one's id."""
        self.channel(name, ChannelKind.QUEUE)
        source = Source(name, SourceKind.QUEUE)
        row = self.topology.source(source)
        assert row is not None
        return source, row.id

    def put(self, stream: int, *ids: str, when: int = NOW, body: bytes = b"{}", key: str | None = None) -> int:
        """Stores messages as one run; the position of the first."""
        messages = [message(id, body=body, key=key) for id in ids]
        with self.write() as db:
            return append(db, Tail(), stream, messages, when)

    def claim(self, source: int, stream: int, count: int) -> int:
        """Moves a cursor, as a claim that was settled at once; the first sequence."""
        with self.write() as db:
            row = self.one("SELECT next FROM cursor WHERE source = ? AND stream = ?", source, stream)
            db.execute("UPDATE cursor SET next = next + ? WHERE source = ? AND stream = ?", (count, source, stream))
        return int(str(row[0]))

    def span(self, source: int, stream: int, first: int, count: int, owner: int | None = 1, done: bytes = b"") -> None:
        """Makes a range."""
        with self.write() as db:
            db.execute(
                "INSERT INTO span(source, stream, first, count, done, owner, token) VALUES (?,?,?,?,?,?,1)",
                (source, stream, first, count, done or None, owner),
            )

    def item(
        self,
        source: int,
        pos: int,
        *,
        key: str | None = None,
        state: str = "wait",
        due: int | None = 0,
        owner: int | None = None,
    ) -> None:
        """Makes an exception."""
        with self.write() as db:
            db.execute(
                "INSERT INTO item(source, pos, key, state, due, owner) VALUES (?,?,?,?,?,?)",
                (source, pos, key, state, due, owner),
            )

    def bury(self, source: int, *ids: str, when: int = NOW, errors: str | None = None, redrives: int = 0) -> None:
        """Makes dead letters."""
        with self.write() as db:
            db.executemany(
                "INSERT INTO dead(source, id, key, reason, text, cause, at, failures, redrives, errors, frame)"
                " VALUES (?,?,'k','rejected','no','ValueError|place',?,3,?,?,?)",
                [(source, id, when, redrives, errors, encode(message(id, key="k"))) for id in ids],
            )

    def one(self, sql: str, *values: object) -> Sequence[object]:
        """The only row of a query."""
        (row,) = self.all(sql, *values)
        return row

    def all(self, sql: str, *values: object) -> list[Sequence[object]]:
        """All rows of a query."""
        return list(self.db.execute(sql, values))


def message(id: str, *, body: bytes = b"{}", key: str | None = None) -> Message:
    """A message with this id."""
    return Message(id=id, channel="t", body=body, time=at(NOW), key=key)
