"""Handing out messages: what a consumer that waits may have now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from math import inf

import apsw

from ...deadreason import DeadReason
from ...engine import Fetched
from ...errors import StoreDamaged
from ...events import DAMAGED
from ...message import BYTES, Message
from . import frame
from .append import Stored, Tail, read, read_one
from .lanes import SUSPECT, Held, Lane, held_key
from .leases import Holder, Lease, Span
from .logs import UNHEARD
from .rows import rows as fetch
from .schema import SEQUENCE_BITS, SEQUENCE_MASK
from .settle import EPOCH, MICROSECOND

log = logging.getLogger("telex.embedded")

FOLLOWERS = 32
"""Most held messages of one key that follow its first: they take room from other keys."""
SETTLING_IN = 1.0
"""Seconds in which the consumers of a process that starts get to say what they want."""
PARKED = 4096
"""Most messages that one transaction parks behind held keys."""


class Claiming:
    """The claims of one transaction.

    Attributes:
        now: Wall time in microseconds.
        since: Monotonic time in seconds.
        token: Marks every row it writes.
        trials: Whether a trial, or what must be alone in its lane, may be handed out; False once one was: if several
            were in hand when the process is killed, all would be blamed.
        given: What each consumer gets.
        holders: All consumers that claim, for who is on trial is chosen among all.
        more: Whether there is more to do at once: what was parked or buried took room, and others may be behind it.
    """

    def __init__(self, db: apsw.Connection, tail: Tail, *, now: int, since: float, token: int, trials: bool) -> None:
        self.db = db
        self.tail = tail
        self.now = now
        self.since = since
        self.token = token
        self.trials = trials
        self.given: list[tuple[Holder, list[Fetched]]] = []
        self.holders: Sequence[Holder] = ()
        self.more = False

    def claim(self, holder: Holder) -> None:
        """Gives a consumer what there is, as much as it wants."""
        room = holder.room
        if room <= 0:
            return
        given: list[Fetched] = []
        self._items(holder, room, given)
        self._past(holder, room, given)
        if holder.source.ordered:
            self._lanes(holder, room, given)
        else:
            self._log(holder, room, given)
        if given:
            self.given.append((holder, given))

    # -- rows of their own ------------------------------------------------------------------------------------------

    def _items(self, holder: Holder, room: int, given: list[Fetched]) -> None:
        rows = self._due(holder, "wait", room)
        if self.trials and len(rows) < room:
            trial = self._due(holder, "trial", 1)
            if trial and not self._is_spared(holder, trial[0][3] or 0):
                self.trials = False
                rows += trial
        for pos, failures, losses, trial_losses, redrives in rows:
            message = read_one(self.db, self.tail, pos)
            lease = self._lease_item(holder, message, pos, failures, losses, trial_losses, redrives)
            if lease is not None:
                given.append(Fetched(lease.message, lease, failures, losses, trial_losses))

    def _is_spared(self, holder: Holder, blame: int) -> bool:
        """Whether a suspect waits since one elsewhere was blamed less: an innocent that is alone in its source must not
        be the one that each restart meets."""
        return blame > 0 and any(
            other is not holder and self._takes(other) and self._least_blame(other) < blame for other in self.holders
        )

    def _takes(self, holder: Holder) -> bool:
        """Whether it wants something, or only had no time yet to say so."""
        return holder.room > 0 or (self.since - holder.began < SETTLING_IN and not (holder.stopping or holder.live))

    def _least_blame(self, holder: Holder) -> float:
        """Of the suspects that the consumer could be given now."""
        (least,) = fetch(
            self.db.execute(
                "SELECT min(trial) FROM item WHERE source = ? AND state = 'trial' AND due <= ?",
                (holder.source_id, self.now),
            )
        )[0]
        lanes = [lane.blamed for lane in holder.lanes.values() if lane.waits_alone(self.now)]
        return min([inf if least is None else least, *lanes])

    def _due(self, holder: Holder, state: str, most: int) -> list[tuple[int, int, int, int | None, int]]:
        return fetch(
            self.db.execute(
                "SELECT pos, failures, losses, trial, redrives FROM item"
                " WHERE source = ? AND state = ? AND due <= ? ORDER BY due LIMIT ?",
                (holder.source_id, state, self.now, most),
            )
        )

    def _lease_item(
        self,
        holder: Holder,
        message: Stored,
        pos: int,
        failures: int,
        losses: int,
        trial: int | None,
        redrives: int,
    ) -> Lease | None:
        if isinstance(message, StoreDamaged):
            self._bury(holder, pos, message)
            self.db.execute("DELETE FROM item WHERE source = ? AND pos = ?", (holder.source_id, pos))
            return None
        self.db.execute(
            "UPDATE item SET due = NULL, trial = ?, owner = ?, token = ? WHERE source = ? AND pos = ?",
            (trial, holder.id, self.token, holder.source_id, pos),
        )
        lease = Lease(holder, message, pos, self.token, self.since)
        lease.failures, lease.losses, lease.trial, lease.redrives = failures, losses, trial, redrives
        return lease

    # -- ranges -----------------------------------------------------------------------------------------------------

    def _past(self, holder: Holder, room: int, given: list[Fetched]) -> None:
        """Slices of the past that wait to be handed out again."""
        while len(given) < room:
            rows = fetch(
                self.db.execute(
                    "SELECT stream, first, count FROM span WHERE source = ? AND owner IS NULL LIMIT 1",
                    (holder.source_id,),
                )
            )
            if not rows:
                return
            stream, first, held = rows[0]
            number = min(held, room - len(given))
            self.db.execute(
                "DELETE FROM span WHERE source = ? AND stream = ? AND first = ?", (holder.source_id, stream, first)
            )
            if number < held:
                self.db.execute(
                    "INSERT INTO span(source, stream, first, count) VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
                    (holder.source_id, stream, first + number, held - number),
                )
                if not self.db.changes():  # A claimed range begins there.
                    self._rows(holder, (stream << SEQUENCE_BITS) + first + number, held - number)
            self._span(holder, stream, first, number, given, loose=True)

    def _log(self, holder: Holder, room: int, given: list[Fetched]) -> None:
        rows = fetch(
            self.db.execute(
                "SELECT c.stream, c.next, s.next FROM cursor c CROSS JOIN stream s ON s.no = c.stream"
                " WHERE c.source = ? AND c.next < s.next",
                (holder.source_id,),
            )
        )
        holder.turn += 1  # Another stream begins each time, so that a busy one does not starve the others.
        for index in range(len(rows)):
            stream, first, end = rows[(index + holder.turn) % len(rows)]
            number = min(end - first, room - len(given))
            if number <= 0:
                return
            self._advance(holder, stream, first + number)
            self._span(holder, stream, first, number, given)

    def _advance(self, holder: Holder, stream: int, next: int) -> None:
        self.db.execute("UPDATE cursor SET next = ? WHERE source = ? AND stream = ?", (next, holder.source_id, stream))

    def _span(
        self, holder: Holder, stream: int, first: int, number: int, given: list[Fetched], *, loose: bool = False
    ) -> None:
        """Claims a range. One that begins where another one still lies is handed out as rows instead."""
        span = Span(holder.source_id, stream, first, number, self.token)
        messages = read(self.db, self.tail, stream, first, number)
        self.db.execute(
            "INSERT INTO span(source, stream, first, count, owner, token, loose) VALUES (?,?,?,?,?,?,?)"
            " ON CONFLICT DO NOTHING",
            (holder.source_id, stream, first, number, holder.id, self.token, loose),
        )
        if not self.db.changes():
            self._rows(holder, span.base, number)
            return
        pos, token, since = span.base, self.token, self.since
        for message in messages:
            if isinstance(message, StoreDamaged):
                self._bury(holder, pos, message)
                span.mark(pos)
            else:
                given.append(Fetched(message, Lease(holder, message, pos, token, since, span)))
            pos += 1
        self._write_marks(span)

    def _rows(self, holder: Holder, base: int, number: int) -> None:
        self.db.executemany(
            "INSERT INTO item(source, pos, key, state, due) VALUES (?,?,NULL,'wait',0) ON CONFLICT DO NOTHING",
            [(holder.source_id, base + index) for index in range(number)],
        )

    def _write_marks(self, span: Span) -> None:
        if span.staged is None:
            return
        key = (span.source, span.stream, span.first)
        if span.left:
            self.db.execute(
                "UPDATE span SET done = ?4 WHERE source = ?1 AND stream = ?2 AND first = ?3",
                (*key, bytes(span.staged)),
            )
        else:
            self.db.execute("DELETE FROM span WHERE source = ? AND stream = ? AND first = ?", key)
        span.commit()

    # -- lanes ------------------------------------------------------------------------------------------------------

    def _lanes(self, holder: Holder, room: int, given: list[Fetched]) -> None:
        holder.turn += 1
        for lane in _lanes_in_turn(holder):
            left = min(room - len(given), lane.window - lane.in_hand)
            if left <= 0 or lane.leaving or lane.solo or (lane.window == 1 and not self.trials):
                continue
            before = len(given)
            if not self._held(holder, lane, left, given):
                self._lane(holder, lane, left - (len(given) - before), given)

    def _held(self, holder: Holder, lane: Lane, room: int, given: list[Fetched]) -> bool:
        """Hands out held messages that are due; whether one of them must stay alone in the lane."""
        alone = False
        for key, held in lane.due(self.now):
            alone = lane.window == 1 or held.losses >= SUSPECT
            waits = alone and (lane.in_hand or not self.trials or self._is_spared(holder, held.trial or 0))
            if room <= 0 or waits:
                break
            if self._give_held(holder, lane, key, held, alone, given):
                if alone:
                    break
                room -= 1
                room -= self._give_followers(holder, lane, key, room, given)
        return alone

    def _give_followers(self, holder: Holder, lane: Lane, key: str, room: int, given: list[Fetched]) -> int:
        """Hands out some of what waits behind a message that goes on, lest a key that was held once stays held.

        The core runs one of a key at a time; if the first fails again it gives the others back.
        """
        before = len(given)
        for held in lane.held.get(key, ())[1 : min(room, FOLLOWERS) + 1]:
            if held.leased or held.due > self.now or held.losses >= SUSPECT:
                break
            self._give_held(holder, lane, key, held, False, given)
        return len(given) - before

    def _give_held(self, holder: Holder, lane: Lane, key: str, held: Held, alone: bool, given: list[Fetched]) -> bool:
        message = read_one(self.db, self.tail, held.pos)
        trial = (held.trial or 0) if alone else None
        lease = self._lease_item(holder, message, held.pos, held.failures, held.losses, trial, held.redrives)
        if lease is None:
            lane.drop(key, held.pos)
            return False
        held.leased = True
        self._took(lane, lease)
        lane.solo = alone
        self.trials = self.trials and not alone
        given.append(
            Fetched(lease.message, lease, held.failures, held.losses, trial, lane.number, held.pos & SEQUENCE_MASK)
        )
        return True

    def _lane(self, holder: Holder, lane: Lane, room: int, given: list[Fetched]) -> None:
        """Hands out what lies behind the cursor; messages of held keys are parked and take no room."""
        rows = fetch(
            self.db.execute(
                "SELECT c.next, s.next FROM cursor c CROSS JOIN stream s ON s.no = c.stream WHERE c.source = ?"
                " AND c.stream = ? AND c.owner = ? AND c.epoch = ?",
                (holder.source_id, lane.stream, holder.id, lane.epoch),
            )
        )
        if not rows:
            return
        first, end = rows[0]
        start, parked = first, 0
        while first < end and room > 0 and parked < PARKED:
            number = min(end - first, room)
            messages = read(self.db, self.tail, lane.stream, first, number)
            taken = self._lane_span(holder, lane, first, messages, given)
            parked += number - taken
            room -= taken
            first += number
        if parked >= PARKED:
            self.more = True
        if first > start:
            self._advance(holder, lane.stream, first)

    def _lane_span(
        self, holder: Holder, lane: Lane, first: int, messages: Sequence[Stored], given: list[Fetched]
    ) -> int:
        span = Span(holder.source_id, lane.stream, first, len(messages), self.token)
        taken = 0
        alone = lane.window == 1
        for index, message in enumerate(messages):
            pos = span.base + index
            if isinstance(message, StoreDamaged):
                self._bury(holder, pos, message)
                span.mark(pos)
                continue
            if message.key is not None and message.key in lane.held:
                self._park(holder, lane, message.key, pos)
                span.mark(pos)
                continue
            taken += 1
            lease = Lease(holder, message, pos, self.token, self.since, span)
            if alone:
                lease.trial = 0
            self._took(lane, lease)
            given.append(Fetched(message, lease, 0, 0, lease.trial, lane.number, first + index))
        if alone and taken:
            self._lease_alone(holder, given[-1])
        elif span.left:
            self.db.execute(
                "INSERT INTO span(source, stream, first, count, done, owner, token) VALUES (?,?,?,?,?,?,?)",
                (span.source, span.stream, first, span.count, span.staged, holder.id, self.token),
            )
            span.commit()
        return taken

    def _lease_alone(self, holder: Holder, fetched: Fetched) -> None:
        """What is alone in its lane gets a row, which knows that a loss counts as a trial."""
        lease = fetched.lease
        assert isinstance(lease, Lease)
        lease.span = None
        self.trials = False
        self.db.execute(
            "INSERT INTO item(source, pos, key, state, trial, owner, token) VALUES (?,?,?,'parked',0,?,?)",
            (holder.source_id, lease.pos, lease.message.key, holder.id, self.token),
        )

    def _park(self, holder: Holder, lane: Lane, key: str, pos: int) -> None:
        self.db.execute(
            "INSERT INTO item(source, pos, key, state) VALUES (?,?,?,'parked')", (holder.source_id, pos, key)
        )
        lane.hold(key, Held(pos, 0))

    def _took(self, lane: Lane, lease: Lease) -> None:
        lease.lane = lane
        lane.took(held_key(lease.message.key, lease.pos))

    # -- damage -----------------------------------------------------------------------------------------------------

    def _bury(self, holder: Holder, pos: int, error: StoreDamaged) -> None:
        """A message that cannot be read any more is not skipped in silence: its place becomes a dead letter."""
        id = f"damaged-{pos}"
        with UNHEARD:
            DAMAGED.log(
                log, "%s: %s: it becomes the dead letter %s", holder.source, error, id,
                source=str(holder.source), message_id=id,
            )  # fmt: skip
        message = Message(
            id=id,
            channel=holder.source.channel,
            body=error.raw if isinstance(error, frame.Damaged) else b"",
            time=EPOCH + self.now * MICROSECOND,
            content_type=BYTES,
        )
        self.db.execute(
            "INSERT INTO dead(source, id, reason, text, cause, at, failures, redrives, frame)"
            " VALUES (?,?,?,?,?,?,0,0,?)",
            (
                holder.source_id,
                message.id,
                DeadReason.DAMAGED.value,
                str(error),
                "StoreDamaged|",
                self.now,
                frame.encode(message),
            ),
        )
        self.more = True


def _lanes_in_turn(holder: Holder) -> list[Lane]:
    """The lanes of a consumer, another one first each time; among those on trial the ones that were blamed least."""
    lanes = list(holder.lanes.values())
    first = holder.turn % len(lanes) if lanes else 0
    lanes = [*lanes[first:], *lanes[:first]]
    if any(lane.window == 1 for lane in lanes):
        lanes.sort(key=lambda lane: lane.blamed if lane.window == 1 else 0)
    return lanes


def tokens(start: int) -> Callable[[], int]:
    """Makes tokens: different from all others of this store, since every process begins somewhere else."""
    return count(start).__next__
