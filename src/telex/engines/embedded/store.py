"""One open store and its transactions: everything that one commit makes true happens here, in this order.

settle, publish, delayed sends that are due, administration, give up the dead, hand out. Used on the writer's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import apsw

from ...clock import Clock
from ...engine import Outgoing, Stored
from ...errors import PublishFailed
from ...events import EMISSION_REFUSED, LATE, MEMBER_LOST, NOT_EMITTED, SOURCE_REMOVED, qualified, words
from . import lanes, members, settle
from .append import Tail
from .broadcast import Listener
from .claim import Claiming
from .collect import Collecting, Mailbox, Outcome
from .expire import expire_consumer, expire_member, stopped_members
from .inbox import Inbox
from .lanes import NEVER
from .leases import Holder, Lease
from .logs import UNHEARD
from .members import Member, Roster
from .platform import FileLock, OpenFile
from .retention import RUNS, Room, Trimmer
from .rows import rows as fetch
from .settle import Settling, micros
from .topology import Topology
from .work import Call, Done, Work

log = logging.getLogger("telex.embedded")

HOUSEKEEPING = 1.0
"""Seconds between two looks at who is dead, what may be trimmed and how much room is left."""
GRACE = 0.3
"""Seconds that a process whose deadline has passed gets to say that it is here."""
LEAVE = 2.0
"""Seconds to wait for the other writers at the end."""
PER_MESSAGE = 100
"""Bytes that a message takes besides its body, at the least."""


class Store:
    """The state of one process in one store.

    Attributes:
        holders: Its consumers.
        inboxes: Its inboxes by address. Loops change them while the thread goes over them: replaced as a whole, never
            changed.
        listeners: Its broadcast consumers; like ``inboxes``.
        problems: What is wrong, by kind.
    """

    def __init__(
        self,
        db: apsw.Connection,
        clock: Clock,
        member: Member,
        roster: Roster,
        *,
        boot: str,
        lease: float,
        trimmer: Trimmer,
        room: Room,
        token: Callable[[], int],
    ) -> None:
        self.db = db
        self.clock = clock
        self.member = member
        self.roster = roster
        self.topology = Topology()
        self.tail = Tail()
        self.holders: list[Holder] = []
        self.inboxes: dict[str, Inbox] = {}
        self.listeners: list[Listener] = []
        self.trials: set[Lease] = set()
        self.problems: dict[str, str] = {}
        self.full = False
        self.file: OpenFile | None = None
        self._readers = threading.Lock()
        self._boot = boot
        self._lease = lease
        self._trimmer = trimmer
        self._room = room
        self._token = token
        self._next_house = 0.0
        self._dead: list[int] = []
        self._behind = False
        self._late: dict[int, float] = {}
        self._members: tuple[int, int, float] = (0, 0, 0)
        self._closing: list[Holder] = []
        self._evicted: list[tuple[Holder, set[Lease]]] = []
        self._known = -1
        self._turn = 0
        self._crowd: object = None

    @property
    def full_text(self) -> str:
        """What to say while publishers are refused."""
        return self._room.refusal()

    @property
    def pressed(self) -> bool:
        """Whether room is short."""
        return self._room.pressed

    def measure(self) -> None:
        """Finds out how much room there is, when there was less than was thought."""
        self._room.look(self.db)

    @property
    def suspects(self) -> bool:
        """Whether a process seems to have stopped, and should be looked at again soon."""
        return bool(self._late)

    # -- from any thread --------------------------------------------------------------------------------------------

    def add_inbox(self, inbox: Inbox) -> None:
        """Hands replies to an inbox from the next transaction on."""
        with self._readers:
            self.inboxes = {**self.inboxes, inbox.address: inbox}

    def drop_inbox(self, inbox: Inbox) -> None:
        """Hands nothing to an inbox any more. Idempotent."""
        with self._readers:
            self.inboxes = {address: known for address, known in self.inboxes.items() if known is not inbox}

    def add_listener(self, listener: Listener) -> None:
        """Lets a broadcast consumer read along, unless it left meanwhile. Idempotent."""
        with self._readers:
            if not listener.left and listener not in self.listeners:
                self.listeners = [*self.listeners, listener]

    def drop_listener(self, listener: Listener) -> None:
        """Ends a broadcast consumer for good, also one that has not begun. Idempotent."""
        with self._readers:
            listener.left = True
            self.listeners = [known for known in self.listeners if known is not listener]

    # -- one transaction --------------------------------------------------------------------------------------------

    def run(self, work: Work) -> Done:
        """Does the work inside the transaction that the caller began; `commit` or `roll_back` must follow."""
        self._settling = Settling()
        self._done = Done()
        self._now = micros(self.clock.now())
        self._monotonic = self.clock.monotonic()
        self._changes = self.db.total_changes()
        self._evicted = []
        self._check_member()
        self.topology.refresh(self.db)
        mailboxes: dict[str, Mailbox] = dict(self.inboxes)
        self._collecting = Collecting(self.db, self.topology, self.tail, self._now, mailboxes)
        for job in work.settles:
            settle.settle(self.db, self._settling, job.batch, self._now, self._emit, self._refuse)
        for publish in work.publishes:
            publish.outcomes = self._publish_all(publish.batch)
        if self._collecting.move_due():
            self._done.again = True
        self._collecting.flush()
        for call in work.calls:
            self._call(call)
        if self._late or self._monotonic >= self._next_house:
            self._keep_house()
        elif self._behind:
            self._trim()
        # Once: a consumer that closes while this transaction is under way ends with the next one.
        self._closing = [holder for holder in self.holders if holder.closing]
        for holder in self._closing:
            expire_consumer(self.db, self.tail, holder.id)
        if self.topology.version != self._known:
            self._find_sources()
        if work.claim:
            self._claim()
        self._done.wrote = self.db.total_changes() != self._changes
        return self._done

    def commit(self, work: Work) -> None:
        """The transaction was committed."""
        for job in work.settles:  # First: whatever failed below, these are done.
            job.answers = [settle.answer(settlement) for settlement in job.batch]
        self._settling.commit()
        self.tail.commit()
        self._collecting.commit()
        self.trials.difference_update(self._settling.touched)
        self._done.lost += self._settling.lost
        for holder, given in self._done.given:
            for fetched in given:
                lease = fetched.lease
                assert isinstance(lease, Lease)
                holder.live.add(lease)
                if lease.trial is not None:
                    self.trials.add(lease)
            holder.want = 0
        for inbox in self.inboxes.values():
            inbox.commit()
        for listener in self.listeners:
            listener.commit()
        for holder in self._closing:
            self.trials -= holder.live
            self.holders.remove(holder)
        for dead in self._dead:
            self.roster.clean(dead)
        self._dead = []

    def roll_back(self) -> None:
        """The transaction was rolled back, or its commit failed."""
        self._settling.roll_back()
        self.tail.roll_back()
        self.topology.forget()
        for holder, leases in self._evicted:
            holder.live |= leases
            self.trials |= {lease for lease in leases if lease.trial is not None}
        self._known = -1
        for inbox in self.inboxes.values():
            inbox.roll_back()
        for listener in self.listeners:
            listener.roll_back()
        for holder in self.holders:
            if holder.id and not fetch(self.db.execute("SELECT 1 FROM consumer WHERE id = ?", (holder.id,))):
                holder.id = 0
            if holder.source.ordered:
                lanes.reload(self.db, holder)
        self._dead = []
        self._late = {}  # Whoever is late could not write either: all get their time again once it can be written.

    def leave(self, lock: FileLock | None) -> None:
        """Ends the membership, in a transaction of its own; nothing of this process is in hand afterwards."""
        if lock is not None:
            lock.acquire(LEAVE)
        self.db.execute("BEGIN IMMEDIATE")
        try:
            expire_member(self.db, self.tail, self.member.id)
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- questions before a transaction -----------------------------------------------------------------------------

    def rest(self) -> float:
        """Seconds until there is something to do by itself, at most the time to the next housekeeping."""
        now = micros(self.clock.now())
        monotonic = self.clock.monotonic()
        wait = min(max(0.0, self._next_house - monotonic), GRACE / 4 if self._late else HOUSEKEEPING)
        due = fetch(self.db.execute("SELECT min(due) FROM later"))[0][0]
        for holder in self.holders:
            if holder.room <= 0:
                continue
            for state in ("wait", "trial"):
                if state == "trial" and self.trials:
                    continue
                first = fetch(
                    self.db.execute(
                        "SELECT min(due) FROM item WHERE source = ? AND state = ?", (holder.source_id, state)
                    )
                )[0][0]
                due = _earlier(due, first)
            if holder.source.ordered:
                wait = min(wait, max(0.0, holder.look - monotonic))
                for lane in holder.lanes.values():
                    if lane.next_due > now:
                        due = _earlier(due, lane.next_due)
        if due is not None and due < NEVER:
            wait = min(wait, max(0.0, (due - now) / 1e6))
        return wait

    # -- parts ------------------------------------------------------------------------------------------------------

    def _emit(self, batch: Sequence[Outgoing]) -> None:
        for outgoing in batch:
            stored, error = self._collecting.add(outgoing)
            if stored is Stored.NO:
                id, why = outgoing.message.id, error or PublishFailed("")
                with UNHEARD:
                    NOT_EMITTED.log(
                        log, "message %s was not emitted (%s)", id, words(why), message_id=id, error=qualified(why)
                    )

    def _refuse(self, batch: Sequence[Outgoing]) -> str:
        for outgoing in batch:
            error = self._collecting.refusal(outgoing)
            if error is not None:
                with UNHEARD:
                    EMISSION_REFUSED.log(
                        log,
                        "message %s cannot be emitted (%s); what emits it becomes a dead letter",
                        outgoing.message.id,
                        error,
                        message_id=outgoing.message.id,
                        error=qualified(error),
                    )
                return f"its emission cannot be stored: {error}"
        return ""

    def _publish_all(self, batch: Sequence[Outgoing]) -> Sequence[Outcome]:
        size = sum([len(outgoing.message.body) for outgoing in batch]) + PER_MESSAGE * len(batch)
        if self._room.take(size):
            return self._collecting.add_all(batch)
        return [self._publish(outgoing) for outgoing in batch]

    def _publish(self, outgoing: Outgoing) -> Outcome:
        if not self._room.take(len(outgoing.message.body) + PER_MESSAGE):
            self.full = True
            return Stored.NO, PublishFailed(self._room.refusal(), id=outgoing.message.id)
        return self._collecting.add(outgoing)

    def _call(self, call: Call) -> None:
        call.result = call.error = None  # It may have run before, in a transaction that was rolled back.
        self.db.execute("SAVEPOINT call")
        try:
            call.result = call.function(self.db)
        except Exception as error:
            call.error = error
            self.db.execute("ROLLBACK TO call")
        self.db.execute("RELEASE call")
        self.topology.refresh(self.db)

    def _claim(self) -> None:
        claiming = Claiming(
            self.db,
            self.tail,
            now=self._now,
            since=self._monotonic,
            token=self._token(),
            trials=not (self.trials - set(self._settling.touched)),
        )
        self._turn += 1
        if any(holder.source.ordered for holder in self.holders):
            self._watch_consumers()
        claiming.holders = [holder for holder in self._in_turn() if self._is_ready(holder)]
        for holder in claiming.holders:
            claiming.claim(holder)
        self._done.given = claiming.given
        self._done.again = self._done.again or claiming.more
        for inbox in self.inboxes.values():
            inbox.claim(self.db)
        for listener in self.listeners:
            listener.read(self.db, self.topology, self.tail)

    def _is_ready(self, holder: Holder) -> bool:
        """Whether it is a consumer, and knows its lanes."""
        if not holder.id:  # It lost all it had, and is a consumer again once it wants something.
            if holder.room <= 0 or not holder.source_id:
                return False
            holder.id = self.register(holder.source_id)
        if holder.source.ordered and self._monotonic >= holder.look and not holder.closing:
            lanes.look(self.db, holder, self._monotonic)
        return True

    def _watch_consumers(self) -> None:
        """Lanes are shared anew as soon as a consumer comes, goes or begins to."""
        crowd = fetch(self.db.execute("SELECT count(*), max(id), total(stopping) FROM consumer"))[0]
        if crowd != self._crowd:
            self._crowd = crowd
            for holder in self.holders:
                holder.look = 0.0

    def _in_turn(self) -> list[Holder]:
        """The consumers, another one first each time: there is one trial in hand for all of them."""
        first = self._turn % len(self.holders) if self.holders else 0
        return [*self.holders[first:], *self.holders[:first]]

    def _check_member(self) -> None:
        """Becomes a member again if the others took us for dead: a stopped process that goes on."""
        me = (self.member.id,)
        there = fetch(self.db.execute("SELECT count(*), max(id), total(id = ?) FROM member", me))[0]
        if there != self._members:
            self.roster.refresh(self.db)
            self._members = there
        if there[2]:
            return
        with UNHEARD:
            LATE.log(
                log,
                "this process was stopped for longer than its lease of %g s: others took its messages",
                self._lease,
                lease=self._lease,
            )
        self.db.execute(
            "INSERT INTO member(id, boot, bell, seen) VALUES (?,?,?,?)",
            (self.member.id, self._boot, self.member.bell.address, self._now),
        )
        self._next_house = 0.0
        for holder in self.holders:
            self._evict(holder)

    def _find_sources(self) -> None:
        """Channels or sources changed: a source may have been removed, and perhaps made again with another number."""
        for holder in self.holders:
            row = self.topology.source(holder.source)
            if row is not None:
                self.problems.pop(f"source {holder.source}", None)
            if holder.source_id == (row.id if row is not None else 0):
                continue
            self._evict(holder)
            holder.source_id = row.id if row is not None else 0
            if row is None:
                text = f"{holder.source} was removed while it is consumed here: nothing comes until it is made again"
                with UNHEARD:
                    SOURCE_REMOVED.log(log, "%s", text, source=str(holder.source))
                self.problems[f"source {holder.source}"] = text
        self._known = self.topology.version

    def _evict(self, holder: Holder) -> None:
        """All that a consumer had in hand is somebody else's, or gone."""
        self._evicted.append((holder, holder.live))
        self._done.lost += holder.live
        self.trials -= holder.live
        holder.live = set()
        holder.lanes = {}
        holder.look = 0.0
        holder.id = 0

    def register(self, source: int) -> int:
        """Makes the row of a consumer; returns its id."""
        self.db.execute("INSERT INTO consumer(member, source) VALUES (?,?)", (self.member.id, source))
        return self.db.last_insert_rowid()

    def _keep_house(self) -> None:
        """Says that we are here, first; then gives up the dead, and trims."""
        self._next_house = self._monotonic + min(HOUSEKEEPING, self._lease / 3)
        deadline = int((self._monotonic + self._lease) * 1e6)
        members.renew(self.db, self.member, self._now, deadline)
        self._changes += 1  # That alone is no news for the others.
        self.roster.refresh(self.db)
        dead = self.roster.dead()
        for id in {*dead, *self._stopped()}:
            back = expire_member(self.db, self.tail, id)
            text = "process %d of this store ended or stopped: %d messages come back"
            with UNHEARD:
                MEMBER_LOST.log(log, text, id, back, member=id, messages=back)
        self._dead = list(dead)
        for holder in self.holders:
            self._let_go(holder)
        self.db.execute("DELETE FROM inbox WHERE expires < ?", (self._now,))
        self._room.look(self.db)
        if self.full and not self._room.pressed:
            self.full = False
        self._trim()

    def _stopped(self) -> list[int]:
        """Processes that let their deadline pass and had the time to notice: we may have been stopped together, as when
        the machine slept, and who wakes first must not take from the others. This is about their speed in real time,
        so no clock that tests move by hand will do."""
        late = stopped_members(self.db, self.member.id, self._boot, int(self._monotonic * 1e6))
        now = time.monotonic()
        self._late = {id: self._late.get(id, now) for id in late}
        if late:
            self.roster.ring(self.member.bell)
        return [id for id, since in self._late.items() if now - since >= GRACE]

    def _trim(self) -> None:
        """Deletes settled history: a step each second, or with each commit while there is more of it than that."""
        self._behind = self._trimmer.step(self.db, self._now, pressed=self._room.pressed) >= RUNS
        self._done.again = self._done.again or self._behind

    def _let_go(self, holder: Holder) -> None:
        most = holder.max_hold
        if most is not None:
            old = [lease for lease in holder.live if lease.decision is None and self._monotonic - lease.since > most]
            settle.lose(self.db, self._settling, old)
            self._done.lost += old


def _earlier(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
