"""Looking at what a channel keeps, without taking it."""

from __future__ import annotations

import heapq
from collections.abc import Generator
from itertools import islice

import apsw

from ...errors import StoreDamaged
from ...message import Message
from . import frame
from .rows import rows
from .schema import SEQUENCE_BITS
from .topology import first_at

BYTES = 64 * 1024 * 1024
"""Bodies in one answer, at most: a look must not fill the memory of who looks."""


def browse(db: apsw.Connection, channel: str, since: int | None, limit: int) -> list[Message]:
    """Messages of a channel, oldest first; damaged ones are passed over. Delayed sends are not shown before their time.

    Args:
        db: In a transaction; nothing is written.
        channel: Its name; one that does not exist keeps nothing.
        since: Only those stored at or after this wall time in microseconds; None: all that is kept.
        limit: Most messages.
    """
    streams = db.execute("SELECT no FROM stream WHERE channel = (SELECT id FROM channel WHERE name = ?)", (channel,))
    lanes = [_runs(db, no, since) for (no,) in rows(streams)]
    found: list[Message] = []
    size = 0
    for _, _, message in islice(heapq.merge(*lanes, key=lambda entry: entry[:2]), max(0, limit)):
        size += len(message.body)
        if size > BYTES and found:
            break
        found.append(message)
    for lane in lanes:
        lane.close()
    return found


def _runs(db: apsw.Connection, stream: int, since: int | None) -> Generator[tuple[int, int, Message], None, None]:
    """(stored at, position, message) of one stream, read run by run as they are asked for."""
    low, high = stream << SEQUENCE_BITS, (stream + 1) << SEQUENCE_BITS
    pos = low if since is None else low + first_at(db, stream, since)
    while True:
        found = rows(
            db.execute(
                "SELECT pos, count, at, data FROM log WHERE pos >= ? AND pos < ? ORDER BY pos LIMIT 1", (pos, high)
            )
        )
        if not found:
            return
        first, count, at, data = found[0]
        for index, message in enumerate(_open(data, count)):
            if message is not None:
                yield at, first + index, message
        pos = first + count


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
