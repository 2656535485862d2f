"""Dead letters: one pass over them, and back into their source."""

from __future__ import annotations

from typing import Literal

import apsw
import msgspec

from ...engine import Decide, Letter, Source, SourceKind, Swept
from ...errors import StoreDamaged
from ...message import BYTES, Message
from . import frame
from .rows import rows
from .schema import SEQUENCE_BITS
from .stats import instant
from .topology import private_stream

PASS_BYTES = 16 * 1024 * 1024
"""A pass ends early, rather than hold more than this in memory and the writer for long."""
FIELDS = "no, id, key, reason, text, cause, at, redrives, errors, frame"

Row = tuple[int, str, str | None, str, str, str, int, int, str | None, bytes]
Verdicts = dict[tuple[int, str, int], Literal["keep", "redrive", "discard"]]
"""What was decided, by number, id and time of death: a number may be given again once its letter is gone."""


def sweep(
    db: apsw.Connection,
    source: Source,
    decide: Decide,
    after: str | None,
    limit: int,
    now: int,
    verdicts: Verdicts | None = None,
) -> Swept:
    """One pass, oldest first; everything decided in it happens together, or not at all.

    Killed in the middle, the letters are where they were. A redriven message goes into the private stream of its source
    with the very bytes it was kept in; attempts begin again, history and the number of redrives stay with it.

    Args:
        db: Inside a write transaction.
        source: Whose letters.
        decide: Called for each; quick, and does not raise.
        after: Where the last pass ended.
        limit: Most letters to show.
        now: Wall time in microseconds.
        verdicts: What was decided in tries of this pass that were rolled back: who decides counts, so that nobody is
            asked twice about a letter.
    """
    verdicts = {} if verdicts is None else verdicts
    known = rows(
        db.execute("SELECT id FROM source WHERE grp = ? AND pattern = ?", (source.group or "", source.channel))
    )
    if not known:
        return Swept(seen=0, moved=0, uncertain=0, after=None, complete=True)
    id, last, seen, size = int(known[0][0]), int(after or 0), 0, 0
    redriven: list[Row] = []
    gone: list[tuple[int]] = []
    more = False
    cursor = db.execute(f"SELECT {FIELDS} FROM dead WHERE source = ? AND no > ? ORDER BY no", (id, last))
    for row in cursor:
        if seen >= limit or size >= PASS_BYTES:
            more = True
            break
        seen, size, last = seen + 1, size + len(row[-1]), row[0]
        verb = _verdict(verdicts, decide, source, row)
        if verb != "keep":
            gone.append((row[0],))
        if verb == "redrive":
            redriven.append(row)
    cursor.close()
    if redriven:
        _redrive(db, id, redriven, now)
    if gone:
        db.executemany("DELETE FROM dead WHERE no = ?", gone)
    return Swept(seen=seen, moved=len(gone), uncertain=0, after=str(last) if more else None, complete=True)


def _verdict(verdicts: Verdicts, decide: Decide, source: Source, row: Row) -> Literal["keep", "redrive", "discard"]:
    key = row[0], row[1], row[6]
    if key not in verdicts:
        verdicts[key] = decide(_letter(source, row))
    return verdicts[key]


def _redrive(db: apsw.Connection, source: int, letters: list[Row], now: int) -> None:
    """Each becomes a run of its own, so that its bytes and check sums are copied and not made anew."""
    stream = private_stream(db, source)
    (end,) = rows(db.execute("UPDATE stream SET next = next + ? WHERE no = ? RETURNING next", (len(letters), stream)))[
        0
    ]
    first = stream << SEQUENCE_BITS | end - len(letters)
    db.executemany(
        "INSERT INTO log(pos, count, at, data) VALUES (?, 1, ?, ?)",
        [(first + index, now, row[-1]) for index, row in enumerate(letters)],
    )
    db.executemany(
        "INSERT INTO item(source, pos, key, state, due, redrives, errors) VALUES (?, ?, ?, 'wait', 0, ?, ?)",
        [(source, first + index, row[2], row[7] + 1, row[8]) for index, row in enumerate(letters)],
    )


def _letter(source: Source, row: Row) -> Letter:
    _, id, key, reason, text, cause, at, redrives, errors, data = row
    return Letter(
        source=source,
        message=_message(source, id, key, at, data),
        reason=reason,
        text=text,
        cause=cause,
        errors=history(errors),
        at=instant(at),
        redrives=redrives,
    )


def _message(source: Source, id: str, key: str | None, at: int, data: bytes) -> Message:
    """What died; of one whose bytes are damaged, what is known about it and the bytes as they are."""
    try:
        return frame.decode(data)[0]
    except (StoreDamaged, IndexError):
        channel = source.channel if source.kind is not SourceKind.GROUP else source.channel.replace("*", "x")
        return Message(id=id, channel=channel, body=data, time=instant(at), key=key, content_type=BYTES)


def history(errors: str | None) -> tuple[str, ...]:
    """The attempts of a message, oldest first, each JSON as the core wrote it."""
    if not errors:
        return ()
    return tuple(msgspec.json.decode(errors, type=list[str]))
