"""Trimming settled history, and keeping room on the disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import apsw

from .rows import rows
from .schema import SEQUENCE_BITS

RUNS = 64
"""Runs deleted in one step: some 16 MiB, a few milliseconds of the writer."""
LOOKS = 512
"""Runs looked at in one step."""
RESERVE = 64 * 1024 * 1024
RESERVE_SHARE = 10
"""The reserve is at most a tenth of the cap; of the disk's size where that is the cap, since what others leave free may
become too little for the settlements of a second."""


@dataclass(slots=True)
class Trimmer:
    """Goes round the log, a step at a time. Belongs to the writer thread.

    A run may go when it is older than its channel's history, is below every cursor and every range of its stream, and
    no message of it waits as a row of its own: so nothing unsettled ever goes. Dead letters own their bytes. Private
    streams keep no history. Streams without a channel are what a removed source or channel left: they go whole.

    Attributes:
        history: Microseconds for which channels without a history of their own keep what is settled.
    """

    history: int
    _pos: int = 0
    _limits: dict[int, tuple[int, int, bool]] = field(default_factory=dict)

    def step(self, db: apsw.Connection, now: int, *, pressed: bool = False) -> int:
        """Deletes at most 64 runs; how many. In any transaction of the writer, each second or so.

        Args:
            db: Inside a write transaction.
            now: Wall time in microseconds.
            pressed: Room is short: history goes, however young. Unsettled messages stay all the same.
        """
        self._limits.clear()
        gone: list[tuple[int]] = []
        for _ in range(LOOKS):
            if len(gone) >= RUNS:
                break
            found = rows(db.execute("SELECT pos, count, at FROM log WHERE pos >= ? ORDER BY pos LIMIT 1", (self._pos,)))
            if not found:
                self._pos = 0
                break
            pos, count, at = found[0]
            stream = pos >> SEQUENCE_BITS
            floor, history, orphan = self._limit(db, stream)
            if orphan:
                pass
            elif pos + count > floor or (at > now - history and not pressed):
                self._pos = (stream + 1) << SEQUENCE_BITS  # Later runs are younger and above the floor.
                continue
            elif _has_item(db, pos, count):
                self._pos = pos + count
                continue
            gone.append((pos,))
            self._pos = pos + count
        db.executemany("DELETE FROM log WHERE pos = ?", gone)
        if not self._pos:
            _drop_empty(db)
        return len(gone)

    def _limit(self, db: apsw.Connection, stream: int) -> tuple[int, int, bool]:
        """The position from which nothing may go, the history in microseconds, and whether the stream is an orphan."""
        known = self._limits.get(stream)
        if known is None:
            found = rows(
                db.execute(
                    "SELECT s.channel, s.next, c.history, (SELECT min(next) FROM cursor WHERE stream = ?1),"
                    " (SELECT min(first) FROM span WHERE stream = ?1)"
                    " FROM stream s LEFT JOIN channel c ON c.id = s.channel WHERE s.no = ?1",
                    (stream,),
                )
            )
            channel, next, history, cursor, span = found[0] if found else (0, 0, None, None, None)
            floor = min(end for end in (next, cursor, span) if end is not None)
            kept = 0 if channel < 0 else self.history if history is None else history
            known = self._limits[stream] = (stream << SEQUENCE_BITS) + floor, kept, channel == 0
        return known


def _has_item(db: apsw.Connection, pos: int, count: int) -> bool:
    return bool(rows(db.execute("SELECT 1 FROM item WHERE pos >= ? AND pos < ? LIMIT 1", (pos, pos + count))))


def _drop_empty(db: apsw.Connection) -> None:
    """Removes orphaned streams whose log is gone."""
    for (no,) in rows(db.execute("SELECT no FROM stream WHERE channel = 0")):
        low, high = no << SEQUENCE_BITS, (no + 1) << SEQUENCE_BITS
        if not rows(db.execute("SELECT 1 FROM log WHERE pos >= ? AND pos < ? LIMIT 1", (low, high))):
            db.execute("DELETE FROM stream WHERE no = ?", (no,))


@dataclass(slots=True)
class Room:
    """How much may still be stored. Belongs to the writer thread.

    Publishers stop short of the cap by the reserve, min(64 MiB, 10% of ``max_bytes`` or of the disk), which belongs to
    settlements and dead letters: a full disk must not stop what empties it.

    Attributes:
        path: The store; None: in memory, where only ``max_bytes`` counts.
        max_bytes: The cap that was asked for; None: as the disk allows.
        used: Bytes in use at the last look, free pages not counted.
        cap: Most bytes it may use, as of the last look; None: no limit.
        left: Bytes that publishers may still store until the next look; None: no limit.
        reserve: Bytes below the cap that publishers leave alone.
    """

    path: str | None
    max_bytes: int | None
    used: int = 0
    cap: int | None = None
    left: int | None = None
    reserve: int = 0

    def look(self, db: apsw.Connection) -> None:
        """Measures, each second and after a full disk: some 10 us."""
        page = _pragma(db, "page_size")
        idle = _pragma(db, "freelist_count") * page
        self.used = _pragma(db, "page_count") * page - idle
        caps = [] if self.max_bytes is None else [(self.max_bytes, self.max_bytes)]
        if self.path is not None:
            disk = os.statvfs(self.path)
            caps.append((self.used + idle + disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
        self.cap, whole = min(caps, default=(None, 0))
        self.reserve = min(RESERVE, whole // RESERVE_SHARE)
        self.left = None if self.cap is None else self.cap - self.reserve - self.used

    @property
    def pressed(self) -> bool:
        """Whether publishers are stopped, or are about to be: history should go before its time."""
        return self.left is not None and self.left < self.reserve

    def take(self, size: int) -> bool:
        """Counts bytes that a publisher wants to store; False if there is no room: the publish fails."""
        if self.left is None:
            return True
        if size > self.left:
            return False
        self.left -= size
        return True

    def refusal(self) -> str:
        """For the error of a publish that finds no room."""
        whose = "max_bytes" if self.cap is not None and self.cap == self.max_bytes else "the disk"
        return (
            f"the store is full: it uses {self.used} of the {self.cap} bytes that {whose} allows, {self.reserve} of "
            "them kept for settlements; consume, discard or remove what it holds (see `telex status`), or make room"
        )


def _pragma(db: apsw.Connection, name: str) -> int:
    return int(str(db.pragma(name)))
