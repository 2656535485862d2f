"""Taking over what a consumer had in hand when it ended: all of it comes back as a loss."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from ...errors import StoreDamaged
from .append import Tail, read
from .lanes import SUSPECT
from .rows import rows as fetch
from .schema import SEQUENCE_BITS


def expire_consumer(db: apsw.Connection, tail: Tail, consumer: int) -> int:
    """Gives back all that a consumer owned and removes it; how many messages come back."""
    back = 0
    for in_lane, *span in fetch(
        db.execute(
            "SELECT s.ordered AND NOT loose, source, stream, first, count, done FROM span"
            " JOIN source s ON s.id = source WHERE owner = ?",
            (consumer,),
        )
    ):
        back += _to_items(db, tail, "parked" if in_lane else "wait", *span)
    db.execute("DELETE FROM span WHERE owner = ?", (consumer,))
    # On trial, who was lost more often waits longer: a restart must not meet the same innocent each time.
    db.execute(
        "UPDATE item SET due = ifnull(trial + 1, 0), losses = losses + 1, trial = trial + 1, owner = NULL, token = NULL"
        " WHERE owner = ?",
        (consumer,),
    )
    back += db.changes()
    # Redriven and replayed messages of ordered sources have no lane that restarts slowly: they go on trial here.
    db.execute(
        "UPDATE item SET state = 'trial', trial = 0 WHERE state = 'wait' AND owner IS NULL AND trial IS NULL"
        " AND losses >= ? AND source = (SELECT source FROM consumer JOIN source s ON s.id = source"
        " WHERE consumer.id = ? AND s.ordered)",
        (SUSPECT, consumer),
    )
    db.execute("UPDATE cursor SET owner = NULL, lost = ? WHERE owner = ?", (int(back > 0), consumer))
    db.execute("DELETE FROM consumer WHERE id = ?", (consumer,))
    return back


def expire_member(db: apsw.Connection, tail: Tail, member: int) -> int:
    """Gives back all that a process owned and forgets it; how many messages come back."""
    consumers = fetch(db.execute("SELECT id FROM consumer WHERE member = ?", (member,)))
    back = sum(expire_consumer(db, tail, consumer) for (consumer,) in consumers)
    db.execute("DELETE FROM member WHERE id = ?", (member,))
    return back


def stopped_members(db: apsw.Connection, me: int, boot: str, now: int) -> Sequence[int]:
    """Processes that are alive, perhaps, and did not say so in time: stopped, or starved."""
    rows = fetch(
        db.execute(
            "SELECT id FROM member WHERE id <> ? AND boot = ? AND deadline > 0 AND deadline < ?", (me, boot, now)
        )
    )
    return [id for (id,) in rows]


def _to_items(
    db: apsw.Connection, tail: Tail, state: str, source: int, stream: int, first: int, count: int, done: bytes | None
) -> int:
    """The unsettled rest of a range, as rows."""
    rest = [i for i in range(count) if not done or not done[i >> 3] >> (i & 7) & 1]
    messages = read(db, tail, stream, first, count)
    base = stream << SEQUENCE_BITS | first
    rows = []
    for i in rest:
        message = messages[i]
        key = None if isinstance(message, StoreDamaged) else message.key
        rows.append((source, base + i, key, state))
    db.executemany(
        "INSERT INTO item(source, pos, key, state, due, losses) VALUES (?,?,?,?,0,1) ON CONFLICT DO NOTHING", rows
    )
    return len(rows)
