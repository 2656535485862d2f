"""Replay: a slice of the past becomes ranges without an owner, which consumers claim beside live traffic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import apsw

from ...engine import Source
from .rows import rows
from .schema import SEQUENCE_BITS, SEQUENCE_MASK

SPAN = 1000
"""Most messages in one range."""
STEP = 64_000
"""Messages after which one step ends, so that the writer is not kept from publishers."""


@dataclass(slots=True)
class _Slice:
    """The part of one stream that is handed out again.

    Attributes:
        taken: (first, end) of ranges in somebody's hand, or replayed already: they are left out, in order.
        items: Messages that wait as found of their own: they come anyway, and are left out too.
    """

    source: int
    stream: int
    taken: Sequence[tuple[int, int]] = ()
    items: Sequence[int] = ()
    spans: list[tuple[int, int]] = field(default_factory=list)

    def free(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The pieces of a range that no other range covers."""
        for begin, stop in self.taken:
            if stop <= first:
                continue
            if begin >= end:
                break
            if begin > first:
                yield first, begin
            first = max(first, stop)
        if first < end:
            yield first, end

    def add(self, first: int, end: int) -> None:
        """A piece to hand out: joined to the last one if it goes on from there."""
        while first < end:
            if self.spans and self.spans[-1][1] == first and first - self.spans[-1][0] < SPAN:
                begin, _ = self.spans.pop()
            else:
                begin = first
            stop = min(end, begin + SPAN)
            self.spans.append((begin, stop))
            first = stop


def replay(
    db: apsw.Connection, source: Source, since: int, until: int, token: str | None, dry_run: bool
) -> tuple[int, str | None]:
    """Hands out again what was stored from ``since`` to before ``until`` and has been claimed since.

    What nobody has claimed yet, what is in hand and what waits for a retry is left out: it comes anyway. So replaying
    the same slice twice, or going on with an old token, hands out nothing twice at the same time.

    Args:
        db: Inside a write transaction.
        source: Who gets it.
        since: Wall time in microseconds.
        until: Wall time in microseconds.
        token: Where the last step ended.
        dry_run: Only count.

    Returns:
        Messages handed out in this step, and the token to go on; None at the end.
    """
    found = db.execute("SELECT id FROM source WHERE grp = ? AND pattern = ?", (source.group or "", source.channel))
    known = rows(found)
    if not known:
        return 0, None
    id, start, count = int(known[0][0]), int(token or 0), 0
    cursors = db.execute(
        "SELECT c.stream, c.next FROM cursor c JOIN stream s ON s.no = c.stream"
        " WHERE c.source = ? AND s.channel > 0 AND c.stream >= ? ORDER BY c.stream",
        (id, start >> SEQUENCE_BITS),
    )
    for stream, next in rows(cursors):
        first = start & SEQUENCE_MASK if stream == start >> SEQUENCE_BITS else 0
        handed, end = _stream(db, id, stream, (first, next), (since, until), STEP - count, dry_run)
        count += handed
        if end is not None:
            return count, str(stream << SEQUENCE_BITS | end)
    return count, None


def _stream(
    db: apsw.Connection,
    source: int,
    stream: int,
    bounds: tuple[int, int],
    times: tuple[int, int],
    room: int,
    dry_run: bool,
) -> tuple[int, int | None]:
    """Messages handed out of one stream, and where to go on if the step ended in it."""
    base = stream << SEQUENCE_BITS
    part = _Slice(source, stream, _taken(db, source, stream, bounds[1]), _items(db, source, base, bounds))
    scanned, end = 0, None
    found = db.execute(
        "SELECT pos, count FROM log WHERE pos >= ? AND pos < ? AND at >= ? AND at < ? ORDER BY pos",
        (_run_of(db, base, bounds[0]), base + bounds[1], *times),
    )
    for pos, held in found:
        first, last = max(pos - base, bounds[0]), min(pos - base + held, bounds[1])
        if scanned >= room:
            end = first
            break
        scanned += max(0, last - first)
        for piece in part.free(first, last):
            part.add(*piece)
    found.close()
    left = [(first, stop, _done(part.items, first, stop)) for first, stop in part.spans]
    whole = [(first, stop, done) for first, stop, done in left if _open(done, stop - first)]
    if not dry_run:
        db.executemany(
            "INSERT INTO span(source, stream, first, count, done) VALUES (?, ?, ?, ?, ?)",
            [(source, stream, first, stop - first, done) for first, stop, done in whole],
        )
    return sum(_open(done, stop - first) for first, stop, done in whole), end


def _run_of(db: apsw.Connection, base: int, first: int) -> int:
    """The position of the run that holds a sequence, or of where it would be."""
    found = rows(db.execute(
        "SELECT pos FROM log WHERE pos <= ? AND pos >= ? ORDER BY pos DESC LIMIT 1", (base + first, base)
    ))
    return int(found[0][0]) if found else base + first


def _taken(db: apsw.Connection, source: int, stream: int, end: int) -> Sequence[tuple[int, int]]:
    found = db.execute(
        "SELECT first, first + count FROM span WHERE source = ? AND stream = ? AND first < ? ORDER BY first",
        (source, stream, end),
    )
    return rows(found)


def _items(db: apsw.Connection, source: int, base: int, bounds: tuple[int, int]) -> Sequence[int]:
    found = db.execute(
        "SELECT pos - ? FROM item WHERE source = ? AND pos >= ? AND pos < ?",
        (base, source, base + bounds[0], base + bounds[1]),
    )
    return [row[0] for row in found]


def _done(items: Sequence[int], first: int, end: int) -> bytes | None:
    """The marks of a range whose waiting messages are left out."""
    inside = [item - first for item in items if first <= item < end]
    if not inside:
        return None
    done = bytearray((end - first + 7) // 8)
    for index in inside:
        done[index >> 3] |= 1 << (index & 7)
    return bytes(done)


def _open(done: bytes | None, count: int) -> int:
    return count - sum(byte.bit_count() for byte in done or b"")
