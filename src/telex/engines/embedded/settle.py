"""Carrying out decisions: marks in claimed ranges, and rows for what is not simply done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import apsw
import msgspec

from ...deadreason import DeadReason
from ...engine import Decision, Outgoing, Settled, Settlement
from . import frame
from .lanes import Held, held_key
from .leases import Lease, Span
from .rows import rows as fetch

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HISTORY = 50
"""Attempts kept with a message: the newest."""

Emit = Callable[[Sequence[Outgoing]], None]
Refuse = Callable[[Sequence[Outgoing]], str]
"""Why some of these cannot be stored at all; empty if they can."""


class Settling:
    """The settlements of one transaction.

    Attributes:
        touched: Leases that it answers.
        spans: Ranges that it changed.
        lost: Leases that turned out to be somebody else's.
    """

    def __init__(self) -> None:
        self.touched: list[Lease] = []
        self.spans: set[Span] = set()
        self.lost: list[Lease] = []

    def commit(self) -> None:
        """The transaction was committed."""
        for span in self.spans:
            span.commit()
        for lease in self.touched:
            lease.holder.live.discard(lease)

    def roll_back(self) -> None:
        """The transaction was rolled back: everything touched is in hand as before."""
        for span in self.spans:
            span.roll_back()
        for lease in self.touched:
            lease.decision = lease.answer = None


def micros(at: datetime) -> int:
    """An instant in microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND


def settle(
    db: apsw.Connection, work: Settling, batch: Sequence[Settlement], now: int, emit: Emit, refuse: Refuse
) -> None:
    """Carries out decisions; the answers are in the leases. Emissions of what is not ours any more are dropped.

    A message whose emissions cannot be stored, since their channel is another one by now, becomes a dead letter: it is
    there to be sent again once they can.
    """
    marks: dict[Span, list[tuple[Lease, Settlement]]] = {}
    for settlement in batch:
        lease = settlement.lease
        assert isinstance(lease, Lease)
        if lease.decision is not None:
            continue
        lease.decision = settlement.decision
        work.touched.append(lease)
        if settlement.emit and (why := refuse(settlement.emit)):
            settlement = _refused(settlement, why)
        span = lease.span
        if span is None:
            _settle_item(db, work, lease, settlement, now, emit)
        elif span in marks:
            marks[span].append((lease, settlement))
        else:
            marks[span] = [(lease, settlement)]
    for span, pairs in marks.items():
        work.spans.add(span)
        _settle_span(db, work, span, pairs, now, emit)


def _refused(settlement: Settlement, why: str) -> Settlement:
    reason, cause = DeadReason.REJECTED.value, "UnknownChannel|emission"
    return Settlement(settlement.lease, Decision.DEAD, reason=reason, text=why, cause=cause)


def answer(settlement: Settlement) -> Settled:
    """What became of a settlement: the same decision again gets the same answer."""
    lease = settlement.lease
    assert isinstance(lease, Lease)
    if lease.answer is None:
        return Settled.FAILED
    return lease.answer if lease.decision is settlement.decision else Settled.LOST


def lose(db: apsw.Connection, work: Settling, leases: Iterable[Lease]) -> None:
    """Lets go of what was in hand too long: it comes back as a loss."""
    for lease in leases:
        lease.decision, lease.answer = Decision.RELEASE, Settled.LOST
        work.touched.append(lease)
        losses, trial = lease.losses + 1, None if lease.trial is None else lease.trial + 1
        if lease.span is not None:
            work.spans.add(lease.span)
            lease.span.mark(lease.pos)
            if _write(db, lease.span):
                _to_item(db, lease, 0, lease.failures, losses, trial, "")
        else:
            _update(db, lease, 0, lease.failures, losses, trial, "")
        _leave(lease)


def _settle_span(
    db: apsw.Connection, work: Settling, span: Span, pairs: list[tuple[Lease, Settlement]], now: int, emit: Emit
) -> None:
    for lease, _ in pairs:
        span.mark(lease.pos)
    ours = _write(db, span)
    for lease, settlement in pairs:
        _leave(lease)
        if not ours:
            lease.answer = Settled.LOST
            work.lost.append(lease)
            continue
        lease.answer = Settled.DONE
        match settlement.decision:
            case Decision.ACCEPT | Decision.DISCARD:
                if settlement.emit:
                    emit(settlement.emit)
            case Decision.RETRY:
                assert settlement.at is not None
                due = micros(settlement.at)
                _to_item(db, lease, due, lease.failures + 1, lease.losses, lease.trial, settlement.error)
            case Decision.RELEASE:
                _to_item(db, lease, 0, lease.failures, lease.losses, lease.trial, "")
            case Decision.TRIAL:
                _to_item(db, lease, 0, lease.failures, lease.losses, 0, "")
            case Decision.DEAD:
                _bury(db, lease, settlement, None, now)


def _write(db: apsw.Connection, span: Span) -> bool:
    """Writes the marks of a range; False if it is not ours any more."""
    key = (span.source, span.stream, span.first, span.token)
    if span.left:
        db.execute(
            "UPDATE span SET done = ?5 WHERE source = ?1 AND stream = ?2 AND first = ?3 AND token = ?4",
            (*key, bytes(span.staged or span.done)),
        )
    else:
        db.execute("DELETE FROM span WHERE source = ?1 AND stream = ?2 AND first = ?3 AND token = ?4", key)
    return db.changes() == 1


def _settle_item(
    db: apsw.Connection, work: Settling, lease: Lease, settlement: Settlement, now: int, emit: Emit
) -> None:
    if _carry_out(db, lease, settlement, now):
        lease.answer = Settled.DONE
        if settlement.emit:
            emit(settlement.emit)
    else:
        lease.answer = Settled.LOST
        work.lost.append(lease)
    _leave(lease)


def _carry_out(db: apsw.Connection, lease: Lease, settlement: Settlement, now: int) -> bool:
    key = (lease.holder.source_id, lease.pos, lease.token)
    match settlement.decision:
        case Decision.ACCEPT | Decision.DISCARD:
            db.execute("DELETE FROM item WHERE source = ? AND pos = ? AND token = ?", key)
            if db.changes() != 1:
                return False
            _drop(lease)
            return True
        case Decision.DEAD:
            rows = fetch(
                db.execute("DELETE FROM item WHERE source = ? AND pos = ? AND token = ? RETURNING errors", key)
            )
            if not rows:
                return False
            _bury(db, lease, settlement, rows[0][0], now)
            _drop(lease)
            return True
        case Decision.RETRY:
            assert settlement.at is not None
            due = micros(settlement.at)
            return _update(db, lease, due, lease.failures + 1, lease.losses, lease.trial, settlement.error)
        case Decision.RELEASE:
            return _update(db, lease, 0, lease.failures, lease.losses, lease.trial, "")
        case Decision.TRIAL:
            return _update(db, lease, 0, lease.failures, lease.losses, 0, "")


def _to_item(
    db: apsw.Connection, lease: Lease, due: int, failures: int, losses: int, trial: int | None, error: str
) -> None:
    """A message leaves its range and becomes a row. One that is there already is another copy of it, and pending."""
    db.execute(
        "INSERT INTO item(source, pos, key, state, due, failures, losses, trial, redrives, errors)"
        " VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
        (
            lease.holder.source_id,
            lease.pos,
            lease.message.key,
            _state(lease, trial),
            due,
            failures,
            losses,
            trial,
            lease.redrives,
            _with(None, error),
        ),
    )
    if lease.lane is not None:
        key = held_key(lease.message.key, lease.pos)
        lease.lane.hold(key, Held(lease.pos, due, failures, losses, trial, lease.redrives))


def _update(
    db: apsw.Connection, lease: Lease, due: int, failures: int, losses: int, trial: int | None, error: str
) -> bool:
    key = (lease.holder.source_id, lease.pos, lease.token)
    rows = fetch(db.execute("SELECT errors FROM item WHERE source = ? AND pos = ? AND token = ?", key))
    if not rows:
        return False
    db.execute(
        "UPDATE item SET state = ?, due = ?, failures = ?, losses = ?, trial = ?, errors = ?, owner = NULL,"
        " token = NULL WHERE source = ? AND pos = ?",
        (_state(lease, trial), due, failures, losses, trial, _with(rows[0][0], error), *key[:2]),
    )
    if lease.lane is not None:
        held = Held(lease.pos, due, failures, losses, trial, lease.redrives)
        lease.lane.hold(held_key(lease.message.key, lease.pos), held)
    return True


def _bury(db: apsw.Connection, lease: Lease, settlement: Settlement, errors: str | None, now: int) -> None:
    message = lease.message
    db.execute(
        "INSERT INTO dead(source, id, key, reason, text, cause, at, failures, redrives, errors, frame)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (
            lease.holder.source_id,
            message.id,
            message.key,
            settlement.reason,
            settlement.text,
            settlement.cause,
            now,
            lease.failures,
            lease.redrives,
            _with(errors, settlement.error),
            frame.encode(message),
        ),
    )


def _state(lease: Lease, trial: int | None) -> str:
    if lease.lane is not None:
        return "parked"
    return "wait" if trial is None else "trial"


def _drop(lease: Lease) -> None:
    if lease.lane is not None:
        lease.lane.drop(held_key(lease.message.key, lease.pos), lease.pos)


def _leave(lease: Lease) -> None:
    if lease.lane is not None:
        lease.lane.gave_back(held_key(lease.message.key, lease.pos))


def _with(errors: str | None, error: str) -> str | None:
    """A history with one more attempt: a JSON list of texts."""
    if not error:
        return errors
    attempts = msgspec.json.decode(errors, type=list[str]) if errors else []
    return msgspec.json.encode([*attempts, error][-HISTORY:]).decode()
