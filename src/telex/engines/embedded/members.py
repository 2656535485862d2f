"""Who has the store open: a row, a kernel lock and a bell each.

How the engine uses it (all on the writer thread; functions that take ``db`` run inside its write transaction):

    member = members.join(db, place, boot, now, deadline)    # first thing after the schema
    ...
    roster.refresh(db)                              # once in each write transaction: who is there
    COMMIT
    roster.ring(member.bell)                        # after a commit that others may have waited for

    sleeping:                                       # the order matters: flag, look, sleep
        member.asleep = True
        if nothing new (PRAGMA data_version, own queue):
            member.bell.wait(min(member.bell.interval, time to the earliest due))
        member.asleep = False

    each second:
        if not members.renew(db, member, now, deadline): rejoin (somebody took us for dead; every lease is lost)
        for dead in roster.dead():                  # a second at most after a process died
            take over its spans, lanes and items; then
            forget it (expire.py)
        COMMIT
        roster.clean(...)                           # deletes the files of the forgotten

Whatever wants the writer thread calls ``member.bell.ring()``; one that does not sleep is woken in vain at its next
sleep, once. A free lock means dead, at once; a stopped process keeps its lock, and is told by its deadline.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

import apsw

from .platform import Bell, FileLock, LocalBell, Place, Sleep, SocketBell, is_free


class Member:
    """This process as a member of a store (of one opening of it: two applications are two members).

    Attributes:
        id: Never used again for another.
        bell: What the writer thread sleeps on.
    """

    def __init__(self, id: int, bell: Bell, lock: FileLock | None = None, sleep: Sleep | None = None) -> None:
        self.id = id
        self.bell = bell
        self._lock = lock
        self._sleep = sleep

    @property
    def asleep(self) -> bool:
        """Whether others must ring before we look again; set just before the last look, unset after waking."""
        return self._sleep is not None and self._sleep.asleep

    @asleep.setter
    def asleep(self, value: bool) -> None:
        if self._sleep is not None:
            self._sleep.asleep = value

    def close(self) -> None:
        """Ends lock and bell: from now on the others see us dead. Idempotent."""
        self.bell.close()
        if self._sleep is not None:
            self._sleep.close()
            self._sleep = None
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._lock.path)
            self._lock.close()
            self._lock = None


def join(db: apsw.Connection, place: Place | None, boot: str, now: int, deadline: int = 0) -> Member:
    """Becomes a member. If the transaction is rolled back, `Member.close` what was returned.

    Args:
        db: Inside a write transaction.
        place: Where the store is; None for memory.
        boot: `boot_id()`.
        now: Wall time in microseconds, for people.
        deadline: Monotonic microseconds until which its leases hold without `renew`; 0: not yet judged by time.
    """
    known = db.execute("SELECT v FROM meta WHERE k = 'member'").fetchone()
    id = int(known[0]) + 1 if known else 1
    db.execute("INSERT INTO meta(k, v) VALUES('member', ?1) ON CONFLICT(k) DO UPDATE SET v = ?1", (id,))
    member = Member(id, LocalBell(interval=1.0)) if place is None else _embody(place, id)
    try:
        db.execute(
            "INSERT INTO member(id, boot, bell, seen, deadline) VALUES(?, ?, ?, ?, ?)",
            (id, boot, member.bell.address, now, deadline),
        )
    except BaseException:
        member.close()
        raise
    return member


def _embody(place: Place, id: int) -> Member:
    lock = place.member_lock(id)
    try:
        lock.acquire()
        sleep = None if place.portable else Sleep(lock.path)
        return Member(id, place.bell(id), lock, sleep)
    except BaseException:
        lock.close()
        raise


def renew(db: apsw.Connection, member: Member, now: int, deadline: int) -> bool:
    """Makes our leases hold until then; False if somebody took us for dead and forgot us: then every one is lost."""
    db.execute("UPDATE member SET seen = ?, deadline = ? WHERE id = ?", (now, deadline, member.id))
    return db.changes() == 1


@dataclass(slots=True)
class _Peer:
    bell: str
    sleep: Sleep | None


@dataclass(slots=True)
class Roster:
    """The other members, as this process last saw them. Belongs to the writer thread.

    Attributes:
        place: Where the store is; None for memory, where there are no others to ring or to judge.
        me: Our own number.
    """

    place: Place | None
    me: int
    _peers: dict[int, _Peer] = field(default_factory=dict)

    def refresh(self, db: apsw.Connection) -> None:
        """Reads who is there: some 10 us, so do it in every write transaction."""
        if self.place is None:
            return
        rows = {id: bell for id, bell in db.execute("SELECT id, bell FROM member") if id != self.me}
        for gone in self._peers.keys() - rows.keys():
            self._drop(gone)
        for new in rows.keys() - self._peers.keys():
            self._peers[new] = _Peer(rows[new] or "", self._sleep(new))

    def ring(self, bell: Bell) -> int:
        """Wakes those who sleep; how many. After the commit, not before: they would look too early."""
        if not isinstance(bell, SocketBell):
            return 0
        rung = 0
        for peer in self._peers.values():
            if peer.bell and (peer.sleep is None or peer.sleep.asleep):
                bell.ring_other(peer.bell)
                rung += 1
        return rung

    def dead(self) -> list[int]:
        """Members whose lock is free: they are gone, whatever their process number says. 5 us a member."""
        place = self.place
        if place is None:
            return []
        return [id for id in self._peers if is_free(place.lock_path(id))]

    def clean(self, id: int) -> None:
        """Deletes the files of a member that was forgotten, after that commit."""
        peer = self._peers.get(id)
        if self.place is not None:
            self.place.clean(id, peer.bell if peer else "")
        self._drop(id)

    def close(self) -> None:
        """Ends the mappings. Idempotent."""
        for id in list(self._peers):
            self._drop(id)

    def _sleep(self, id: int) -> Sleep | None:
        assert self.place is not None
        try:
            return Sleep(self.place.lock_path(id))
        except OSError:
            return None

    def _drop(self, id: int) -> None:
        peer = self._peers.pop(id, None)
        if peer is not None and peer.sleep is not None:
            peer.sleep.close()
