"""Replay: a slice of the past becomes ranges without an owner, which consumers claim beside live traffic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import apsw

from ...engine import Source
from ...errors import ConfigError
from .rows import rows
from .schema import SEQUENCE_BITS, SEQUENCE_MASK

SPAN = 1000
"""Most messages in one range."""
STEP = 64_000
"""Messages after which one step ends, so that the writer is not kept from publishers."""


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
    db: apsw.Connection, source: Source, since: int, until: int, token: str | None, dry_run: bool
) -> tuple[int, str | None]:
    """Hands out again what was stored from ``since`` to before ``until`` and has been claimed since.

    What nobody has claimed yet, what is in hand and what waits for a retry is left out: it comes anyway; and so does
    what was replayed before and not handed out yet. On an ordered source it comes beside the lanes.

    Args:
        db: Inside a write transaction.
        source: Who gets it.
        since: Wall time in microseconds.
        until: Wall time in microseconds.
        token: Where the last step ended.
        dry_run: Only count.

    Returns:
        Messages handed out in this step, and the token to go on; None at the end.

    Raises:
        ConfigError: ``token`` does not come from an earlier step.
    """
    known = rows(
        db.execute("SELECT id FROM source WHERE grp = ? AND pattern = ?", (source.group or "", source.channel))
    )
    if not known:
        return 0, None
    id, start, count, room = known[0][0], _parse(token), 0, STEP
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
            _hand_out(db, id, stream, pieces.found)
        if end is not None:
            return count, str(stream << SEQUENCE_BITS | end)
    return count, None


def _parse(token: str | None) -> int:
    if token is None:
        return 0
    if not token.isascii() or not token.isdigit():
        raise ConfigError(f"replay token {token[:40]!r}: give what an earlier step answered")
    return int(token)


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
    for first, stop in pieces:
        while first < stop:
            db.execute(
                "INSERT INTO span(source, stream, first, count) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (source, stream, first, stop - first),
            )
            if db.changes():
                break
            # A range that is still held begins here, at a message that is settled: this one needs a row of its own.
            db.execute(
                "INSERT INTO item(source, pos, state, due) VALUES (?, ?, 'wait', 0)",
                (source, stream << SEQUENCE_BITS | first),
            )
            first += 1


def _run_of(db: apsw.Connection, base: int, first: int) -> int:
    """The position of the run that holds a sequence, or of where it would be."""
    found = rows(
        db.execute("SELECT pos FROM log WHERE pos <= ? AND pos >= ? ORDER BY pos DESC LIMIT 1", (base + first, base))
    )
    return int(found[0][0]) if found else base + first


def _taken(db: apsw.Connection, source: int, stream: int, end: int) -> list[tuple[int, int]]:
    """What is below the cursor and not settled: ranges in order and without overlaps."""
    base = stream << SEQUENCE_BITS
    found: list[tuple[int, int]] = []
    spans = db.execute(
        "SELECT first, count, done FROM span WHERE source = ? AND stream = ? AND first < ?", (source, stream, end)
    )
    for first, count, done in spans:
        found += [(first + begin, first + stop) for begin, stop in _unmarked(count, done)]
    items = db.execute(
        "SELECT pos - ?1 FROM item WHERE source = ?2 AND pos >= ?1 AND pos < ?1 + ?3", (base, source, end)
    )
    found += [(pos, pos + 1) for (pos,) in items]
    found.sort()
    merged: list[tuple[int, int]] = []
    for first, stop in found:
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((first, stop))
    return merged


def _unmarked(count: int, done: bytes | None) -> Iterator[tuple[int, int]]:
    """The stretches of a range that are not settled."""
    if not done:
        yield 0, count
        return
    begin = None
    for index in range(count):
        if done[index >> 3] >> (index & 7) & 1:
            if begin is not None:
                yield begin, index
            begin = None
        elif begin is None:
            begin = index
    if begin is not None:
        yield begin, count
