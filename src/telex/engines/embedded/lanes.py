"""Ordered sources: which lanes a consumer owns, and what of a lane may be handed out.

A lane is one stream. Its owner alone claims from it, in position order. A key that failed, or that was given back,
is *held*: its messages are rows in ``item``, and are handed out one at a time, in position order, each when
nothing else of the key is in hand. What comes in behind them is parked as a row as well, so that the lane flows on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import apsw

from .leases import Holder, Lease
from .rows import rows as fetch
from .schema import SEQUENCE_BITS

LOOK = 0.2
QUIET_LOOK = 1.0
"""Seconds between two looks at how the lanes are shared: while somebody waits for lanes, and otherwise."""
NEVER = 1 << 62
SUSPECT = 2
"""Losses after which a message of an ordered source is handed out alone in its lane, as others are put on trial."""


class Held:
    """A message of a held key, as its lane's owner remembers its row."""

    __slots__ = ("due", "failures", "leased", "losses", "pos", "redrives", "trial")

    def __init__(
        self, pos: int, due: int, failures: int = 0, losses: int = 0, trial: int | None = None, redrives: int = 0
    ) -> None:
        self.pos = pos
        self.due = due
        self.failures = failures
        self.losses = losses
        self.trial = trial
        self.redrives = redrives
        self.leased = False

    def __lt__(self, other: Held) -> bool:
        return self.pos < other.pos


class Lane:
    """A lane that a consumer of this process owns.

    Attributes:
        number: Its number in the channel.
        window: Most messages in hand; 1 after its last owner was lost, doubled for each that is settled.
        in_hand: Messages that are handed out and not settled.
        held: The waiting rows of each held key, in position order.
        out: How many messages of each key are in hand.
        leaving: It is given up when nothing is in hand.
        solo: What is in hand must stay alone.
        next_due: When the next held message may be handed out.
    """

    __slots__ = ("epoch", "held", "in_hand", "leaving", "most", "next_due", "number", "out", "solo", "stream", "window")

    def __init__(self, stream: int, number: int, epoch: int, window: int, most: int) -> None:
        self.stream = stream
        self.number = number
        self.epoch = epoch
        self.window = window
        self.most = most
        self.in_hand = 0
        self.held: dict[str, list[Held]] = {}
        self.out: dict[str, int] = {}
        self.leaving = False
        self.solo = False
        self.next_due = 0

    @property
    def blamed(self) -> int:
        """How often the process died while the first held message of this lane was alone in hand."""
        return max((waiting[0].trial or 0 for waiting in self.held.values()), default=0)

    def waits_alone(self, now: int) -> bool:
        """Whether its next message is a held one, which may be handed out now and must be alone."""
        free = self.window == 1 and not (self.in_hand or self.leaving or self.solo)
        return free and any(waiting[0].due <= now and not waiting[0].leased for waiting in self.held.values())

    def took(self, key: str | None) -> None:
        """A message was handed out."""
        self.in_hand += 1
        if key is not None:
            self.out[key] = self.out.get(key, 0) + 1

    def gave_back(self, key: str | None) -> None:
        """A message that was handed out is settled, in whatever way."""
        self.in_hand -= 1
        if not self.in_hand:
            self.solo = False
        if self.window < self.most:
            self.window *= 2
        if key is None:
            return
        left = self.out[key] - 1
        if left:
            self.out[key] = left
            return
        del self.out[key]
        if key in self.held:
            self.next_due = 0

    def hold(self, key: str, held: Held) -> None:
        """A message of a key becomes a waiting row."""
        waiting = self.held.setdefault(key, [])
        index = bisect_left(waiting, held)  # Behind one key that waits there may be all the others of a day.
        if index < len(waiting) and waiting[index].pos == held.pos:
            waiting[index] = held
        else:
            waiting.insert(index, held)
        self.next_due = 0

    def drop(self, key: str, pos: int) -> None:
        """The row of a held message is gone."""
        waiting = self.held.get(key)
        if waiting is None:
            return
        index = bisect_left(waiting, pos, key=lambda held: held.pos)
        if index < len(waiting) and waiting[index].pos == pos:
            del waiting[index]
        self.next_due = 0
        if not waiting:
            del self.held[key]

    def due(self, now: int) -> Iterator[tuple[str, Held]]:
        """The held messages that may be handed out now, in position order; remembers when to look again."""
        if now < self.next_due:
            return
        ready: list[tuple[int, str, Held]] = []
        soonest = NEVER
        for key, waiting in self.held.items():
            head = waiting[0]
            if head.leased or key in self.out:
                continue
            if head.due <= now:
                ready.append((head.pos, key, head))
                soonest = 0
            else:
                soonest = min(soonest, head.due)
        self.next_due = soonest
        ready.sort(key=lambda entry: entry[0])
        for _, key, head in ready:
            yield key, head


def look(db: apsw.Connection, holder: Holder, now: float) -> None:
    """Takes free lanes up to the fair share, and gives up what is above it and not in hand."""
    for lane in list(holder.lanes.values()):
        lane.leaving = holder.stopping
    if holder.stopping:  # The others need not wait for its end to share what it gives up.
        db.execute("UPDATE consumer SET stopping = 1 WHERE id = ? AND NOT stopping", (holder.id,))
    else:
        _share(db, holder)
    waits = holder.stopping or len(holder.lanes) < holder.share or any(lane.leaving for lane in holder.lanes.values())
    pause = LOOK if waits else QUIET_LOOK
    holder.look = (now // pause + 1) * pause  # All at the same instants: each look is a transaction.
    for lane in list(holder.lanes.values()):
        if lane.leaving and not lane.in_hand:
            give_up(db, holder, lane)


def _share(db: apsw.Connection, holder: Holder) -> None:
    rows = fetch(
        db.execute(
            "SELECT c.stream, s.lane, c.owner, c.epoch, c.lost FROM cursor c JOIN stream s ON s.no = c.stream"
            " WHERE c.source = ? AND s.channel > 0 ORDER BY s.lane",
            (holder.source_id,),
        )
    )
    consumers = fetch(
        db.execute("SELECT count(*) FROM consumer WHERE source = ? AND NOT stopping", (holder.source_id,))
    )[0][0]
    share = holder.share = -(-len(rows) // max(1, consumers))
    owned = sorted(holder.lanes.values(), key=lambda lane: lane.in_hand, reverse=True)
    for lane in owned[share:]:
        lane.leaving = True
    for stream, number, owner, epoch, lost in rows:
        if len(holder.lanes) >= share:
            return
        if owner is None or (owner == holder.id and stream not in holder.lanes):
            _take(db, holder, Lane(stream, number, epoch + 1, 1 if lost else holder.window, holder.window))


def _take(db: apsw.Connection, holder: Holder, lane: Lane) -> None:
    db.execute(
        "UPDATE cursor SET owner = ?, epoch = ?, lost = 0 WHERE source = ? AND stream = ?",
        (holder.id, lane.epoch, holder.source_id, lane.stream),
    )
    load(db, holder.source_id, lane)
    holder.lanes[lane.stream] = lane


def load(db: apsw.Connection, source: int, lane: Lane) -> None:
    """Reads the held keys of a lane."""
    low = lane.stream << SEQUENCE_BITS
    lane.held = {}
    lane.next_due = 0
    for pos, key, due, failures, losses, trial, redrives, leased in db.execute(
        "SELECT pos, key, due, failures, losses, trial, redrives, owner IS NOT NULL FROM item"
        " WHERE source = ? AND pos >= ? AND pos < ? AND state = 'parked' ORDER BY pos",
        (source, low, low + (1 << SEQUENCE_BITS)),
    ):
        held = Held(pos, due or 0, failures, losses, trial, redrives)
        held.leased = bool(leased)
        lane.held.setdefault(held_key(key, pos), []).append(held)


def give_up(db: apsw.Connection, holder: Holder, lane: Lane) -> None:
    """Lets another consumer take a lane."""
    db.execute(
        "UPDATE cursor SET owner = NULL WHERE source = ? AND stream = ? AND owner = ?",
        (holder.source_id, lane.stream, holder.id),
    )
    del holder.lanes[lane.stream]


def reload(db: apsw.Connection, holder: Holder) -> None:
    """Reads again what is remembered of a consumer's lanes, after a transaction was rolled back.

    The lanes it owns are those that the store says: a lane taken or given up was not.
    """
    known, holder.lanes = holder.lanes, {}
    for stream, number, epoch in fetch(
        db.execute(
            "SELECT c.stream, s.lane, c.epoch FROM cursor c JOIN stream s ON s.no = c.stream"
            " WHERE c.source = ? AND c.owner = ?",
            (holder.source_id, holder.id),
        )
    ):
        old = known.get(stream)
        lane = Lane(stream, number, epoch, old.window if old else 1, holder.window)
        load(db, holder.source_id, lane)
        holder.lanes[stream] = lane
    for lease in holder.live:
        _found(holder, lease)


def _found(holder: Holder, lease: Lease) -> None:
    lane = holder.lanes.get(lease.pos >> SEQUENCE_BITS)
    if lane is None:
        return
    lease.lane = lane
    lane.took(held_key(lease.message.key, lease.pos))


def held_key(key: str | None, pos: int) -> str:
    """What a message is held by: a message without a key has no order, and is alone with its position."""
    return f"\0{pos}" if key is None else key
