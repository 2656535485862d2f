"""Looking at what a channel keeps, without taking it."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Mapping
from itertools import islice

import apsw
import msgspec

from ...engine import Browsed
from ...errors import ConfigError, StoreDamaged
from ...message import Message
from . import frame
from .rows import rows
from .schema import SEQUENCE_BITS
from .topology import first_at

BYTES = 64 * 1024 * 1024
"""Bodies in one answer, at most: a look must not fill the memory of who looks."""


def browse(db: apsw.Connection, channel: str, since: int | None, limit: int, after: str | None = None) -> Browsed:
    """Messages of a channel, oldest first; damaged ones are passed over. Delayed sends are not shown before their time.

    Args:
        db: In a transaction; nothing is written.
        channel: Its name; one that does not exist keeps nothing.
        since: Only those stored at or after this wall time in microseconds; None: all that is kept.
        limit: Most messages.
        after: `Browsed.after` of an earlier look: goes on there, whatever ``since`` says.

    Raises:
        ConfigError: ``after`` does not come from an earlier look.
    """
    streams = db.execute("SELECT no FROM stream WHERE channel = (SELECT id FROM channel WHERE name = ?)", (channel,))
    known = None if after is None else _parse(after)
    places = {no: _first(db, no, since) if known is None else known.get(no, 0) for (no,) in rows(streams)}
    lanes = [_runs(db, no, first) for no, first in places.items()]
    found: list[Message] = []
    size = 0
    for _, pos, message in islice(heapq.merge(*lanes, key=lambda entry: entry[:2]), max(0, limit)):
        size += len(message.body)
        if size > BYTES and found:
            break
        found.append(message)
        stream = pos >> SEQUENCE_BITS
        places[stream] = pos - (stream << SEQUENCE_BITS) + 1
    for lane in lanes:
        lane.close()
    return Browsed(found, msgspec.json.encode(places).decode())


def _first(db: apsw.Connection, stream: int, since: int | None) -> int:
    return 0 if since is None else first_at(db, stream, since)


def _parse(after: str) -> Mapping[int, int]:
    try:
        return msgspec.json.decode(after, type=dict[int, int])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"browse(after={after[:40]!r}): give what an earlier look answered") from error


def _runs(db: apsw.Connection, stream: int, first: int) -> Generator[tuple[int, int, Message], None, None]:
    """(stored at, position, message) of one stream, read run by run as they are asked for."""
    low, high = stream << SEQUENCE_BITS, (stream + 1) << SEQUENCE_BITS
    pos = low + first
    begin = _run_of(db, low, pos)
    while True:
        found = rows(
            db.execute(
                "SELECT pos, count, at, data FROM log WHERE pos >= ? AND pos < ? ORDER BY pos LIMIT 1", (begin, high)
            )
        )
        if not found:
            return
        at_pos, count, at, data = found[0]
        for index, message in enumerate(_open(data, count)):
            if message is not None and at_pos + index >= pos:
                yield at, at_pos + index, message
        begin = at_pos + count


def _run_of(db: apsw.Connection, low: int, pos: int) -> int:
    """Where the run begins that holds a position: a look may have ended inside of one."""
    found = rows(db.execute("SELECT pos FROM log WHERE pos <= ? AND pos >= ? ORDER BY pos DESC LIMIT 1", (pos, low)))
    return int(found[0][0]) if found else pos


def _open(data: bytes, count: int) -> list[Message | None]:
    try:
        return list(frame.decode(data))
    except StoreDamaged:
        return [_one(data, index) for index in range(count)]


def _one(data: bytes, index: int) -> Message | None:
    try:
        return frame.decode(data, index, 1)[0]
    except StoreDamaged:
        return None
