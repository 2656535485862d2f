"""Replay: a slice of the past becomes ranges without an owner, which consumers claim beside live traffic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from ...engine import Source
from ...errors import StoreDamaged
from .append import Tail, append_to_source, read
from .rows import rows
from .schema import SEQUENCE_BITS, SEQUENCE_MASK
from .topology import private_stream

SPAN = 1000
"""Most messages in one range."""
STEP = 64_000
"""Messages after which one step ends, so that the writer is not kept from publishers."""
ORDERED_STEP = 2_000
"""The same where messages are copied."""


@dataclass(slots=True)
class _Pieces:
    """Ranges of one stream to hand out again, in order.

    Attributes:
        taken: (first, end) of what is in somebody's hand, waits by itself or was replayed already, in order.
        found: What is left.
    """

    taken: Sequence[tuple[int, int]]
    found: list[tuple[int, int]] = field(default_factory=list)

    def add(self, first: int, end: int) -> None:
        """Takes in the part of a range that is free, joined to the last piece if it goes on from there."""
        for begin, stop in self.taken[bisect_right(self.taken, first, key=lambda piece: piece[1]) :]:
            if begin >= end:
                break
            self._join(first, begin)
            first = max(first, stop)
        self._join(first, end)

    def _join(self, first: int, end: int) -> None:
        while first < end:
            begin = first
            if self.found and self.found[-1][1] == first and first - self.found[-1][0] < SPAN:
                begin, _ = self.found.pop()
            stop = min(end, begin + SPAN)
            self.found.append((begin, stop))
            first = stop


def replay(
    db: apsw.Connection, source: Source, since: int, until: int, token: str | None, dry_run: bool, now: int
) -> tuple[int, str | None]:
    """Hands out again what was stored from ``since`` to before ``until`` and has been claimed since.

    What nobody has claimed yet, what is in hand and what waits for a retry is left out: it comes anyway. Replaying an
    unordered slice again before it was handed out adds nothing. For an ordered source, whose lanes go forward only,
    the messages are copied to its private stream.

    Args:
        db: Inside a write transaction.
        source: Who gets it.
        since: Wall time in microseconds.
        until: Wall time in microseconds.
        token: Where the last step ended.
        dry_run: Only count.
        now: Wall time in microseconds.

    Returns:
        Messages handed out in this step, and the token to go on; None at the end.
    """
    known = rows(
        db.execute("SELECT id, ordered FROM source WHERE grp = ? AND pattern = ?", (source.group or "", source.channel))
    )
    if not known:
        return 0, None
    id, ordered = known[0]
    start, count, room = int(token or 0), 0, ORDERED_STEP if ordered else STEP
    cursors = db.execute(
        "SELECT c.stream, c.next FROM cursor c JOIN stream s ON s.no = c.stream"
        " WHERE c.source = ? AND s.channel > 0 AND c.stream >= ? ORDER BY c.stream",
        (id, start >> SEQUENCE_BITS),
    )
    for stream, next in rows(cursors):
        first = start & SEQUENCE_MASK if stream == start >> SEQUENCE_BITS else 0
        pieces = _Pieces(_taken(db, id, stream, next))
        scanned, end = _scan(db, stream, (first, next), (since, until), room, pieces)
        room -= scanned
        count += sum(stop - first for first, stop in pieces.found)
        if not dry_run:
            _copy(db, id, stream, pieces.found, now) if ordered else _hand_out(db, id, stream, pieces.found)
        if end is not None:
            return count, str(stream << SEQUENCE_BITS | end)
    return count, None


def _scan(
    db: apsw.Connection,
    stream: int,
    bounds: tuple[int, int],
    times: tuple[int, int],
    room: int,
    pieces: _Pieces,
) -> tuple[int, int | None]:
    """Collects a stream's pieces; messages looked at, and where to go on if the room was not enough."""
    base, scanned = stream << SEQUENCE_BITS, 0
    cursor = db.execute(
        "SELECT pos, count FROM log WHERE pos >= ? AND pos < ? AND at >= ? AND at < ? ORDER BY pos",
        (_run_of(db, base, bounds[0]), base + bounds[1], *times),
    )
    try:
        for pos, held in cursor:
            first, last = max(pos - base, bounds[0]), min(pos - base + held, bounds[1])
            if scanned >= room:
                return scanned, first
            scanned += max(0, last - first)
            pieces.add(first, last)
    finally:
        cursor.close()
    return scanned, None


def _hand_out(db: apsw.Connection, source: int, stream: int, pieces: Sequence[tuple[int, int]]) -> None:
    db.executemany(
        "INSERT INTO span(source, stream, first, count) VALUES (?, ?, ?, ?)",
        [(source, stream, first, stop - first) for first, stop in pieces],
    )


def _copy(db: apsw.Connection, source: int, stream: int, pieces: Sequence[tuple[int, int]], now: int) -> None:
    """Damaged messages are passed over: they became dead letters when they were first handed out."""
    private, tail = private_stream(db, source), Tail()
    for first, stop in pieces:
        found = read(db, tail, stream, first, stop - first)
        messages = [message for message in found if not isinstance(message, StoreDamaged)]
        if messages:
            append_to_source(db, tail, source, private, messages, now)


def _run_of(db: apsw.Connection, base: int, first: int) -> int:
    """The position of the run that holds a sequence, or of where it would be."""
    found = rows(
        db.execute("SELECT pos FROM log WHERE pos <= ? AND pos >= ? ORDER BY pos DESC LIMIT 1", (base + first, base))
    )
    return int(found[0][0]) if found else base + first


def _taken(db: apsw.Connection, source: int, stream: int, end: int) -> list[tuple[int, int]]:
    """Ranges and single messages below the cursor that are not settled, in order and without overlaps."""
    base = stream << SEQUENCE_BITS
    cursor = db.execute(
        "SELECT first, first + count FROM span WHERE source = ?1 AND stream = ?2 AND first < ?3"
        " UNION ALL SELECT pos - ?4, pos - ?4 + 1 FROM item WHERE source = ?1 AND pos >= ?4 AND pos < ?4 + ?3"
        " ORDER BY 1, 2",
        (source, stream, end, base),
    )
    merged: list[tuple[int, int]] = []
    for first, stop in cursor:
        if merged and first < merged[-1][1]:  # A message that left its range, which is still held.
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((first, stop))
    return merged
