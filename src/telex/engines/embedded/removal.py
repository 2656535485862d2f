"""Dropping what a source holds, and ending it."""

from __future__ import annotations

import apsw

from ...engine import Source, SourceKind
from .rows import rows
from .topology import bump

STEP = 2000
"""Dead letters deleted in one transaction."""


def purge(db: apsw.Connection, source: Source, now: int) -> int:
    """Drops what could be delivered now; how many messages.

    What is in hand, waits for its next attempt or is not due stays, and so do dead letters. On an ordered source a
    message that failed stays with all that waits behind it, also once it is due: its lane's owner keeps count of them.

    Args:
        db: Inside a write transaction.
        source: Whose messages.
        now: Wall time in microseconds.
    """
    id = _id(db, source)
    if id is None:
        return 0
    unclaimed = (
        "SELECT c.stream, s.next, s.next - c.next FROM cursor c JOIN stream s ON s.no = c.stream WHERE c.source = ?"
    )
    behind = [(stream, end, count) for stream, end, count in rows(db.execute(unclaimed, (id,))) if count > 0]
    db.executemany(
        "UPDATE cursor SET next = ? WHERE source = ? AND stream = ?", [(end, id, stream) for stream, end, _ in behind]
    )
    past = rows(db.execute("SELECT count, done FROM span WHERE source = ? AND owner IS NULL", (id,)))
    db.execute("DELETE FROM span WHERE source = ? AND owner IS NULL", (id,))
    db.execute("DELETE FROM item WHERE source = ? AND state IN ('wait', 'trial') AND due <= ?", (id, now))
    dropped: int = db.changes()
    dropped += sum(count for _, _, count in behind)
    dropped += sum(count - sum(byte.bit_count() for byte in done or b"") for count, done in past)
    return dropped


def remove_step(db: apsw.Connection, source: Source) -> bool:
    """A step of ending a source; whether it is gone. Dead letters go first, some at a time, then all else at once.

    Whoever consumes it meanwhile finds every lease lost. The log of its streams is deleted by the trimmer, in steps:
    they have no channel any more. Killed before the last step, the source exists, with the dead letters left to it.

    Args:
        db: Inside a write transaction, one for each step.
        source: A queue or procedure, whose channel goes with it, or a group.
    """
    id = _id(db, source)
    if id is None:
        return True
    db.execute("DELETE FROM dead WHERE no IN (SELECT no FROM dead WHERE source = ? ORDER BY no LIMIT ?)", (id, STEP))
    if db.changes() == STEP:
        return False
    for table in ("cursor", "span", "item", "consumer"):
        db.execute(f"DELETE FROM {table} WHERE source = ?", (id,))
    _orphan(db, -id)
    db.execute("DELETE FROM source WHERE id = ?", (id,))
    if source.kind is SourceKind.QUEUE:
        for (channel,) in rows(db.execute("SELECT id FROM channel WHERE name = ?", (source.channel,))):
            _orphan(db, channel)
            db.execute("DELETE FROM later WHERE channel = ?", (channel,))
            db.execute("DELETE FROM channel WHERE id = ?", (channel,))
    bump(db)
    return True


def _orphan(db: apsw.Connection, channel: int) -> None:
    """Leaves streams to the trimmer. The number in ``lane`` keeps (channel, lane) unique."""
    db.execute("UPDATE stream SET channel = 0, lane = no WHERE channel = ?", (channel,))


def _id(db: apsw.Connection, source: Source) -> int | None:
    found = rows(
        db.execute("SELECT id FROM source WHERE grp = ? AND pattern = ?", (source.group or "", source.channel))
    )
    return int(found[0][0]) if found else None
