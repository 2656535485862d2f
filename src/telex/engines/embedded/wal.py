"""The write-ahead log: moved into the store here, because SQLite tells nobody when its own way of doing it fails.

Two failures must be known. A disk that is full: once the log was moved it is written again from its beginning, which
takes no room, so that settlements go on. A sync that failed: the system then takes pages for written that are not on
the disk (Linux marks them clean), and what is synced behind such a hole is lost in a power cut; the log must be moved,
and the store synced, before anything else is promised.
"""

from __future__ import annotations

import apsw

from ...errors import Disconnected

CHECKPOINT_PAGES = 4000
"""Pages after which the log is moved into the store: 16 MiB."""


class Wal:
    """The log of one connection. Belongs to the writer's thread, outside transactions.

    Attributes:
        doubtful: A sync failed: some of the log may not be on the disk.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._limit = CHECKPOINT_PAGES
        self._pages = 0
        self.doubtful = False
        db.set_wal_hook(self._grew)  # Instead of SQLite's own.

    def _grew(self, db: apsw.Connection, name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def failed(self, error: BaseException) -> None:
        """A transaction failed: finds out whether the log can still be trusted."""
        if isinstance(error, apsw.IOError):
            self.doubtful = True

    def tidy(self, *, now: bool = False) -> None:
        """Moves the log if it is long, or ``now``; as much of it as no reader needs.

        Raises:
            apsw.Error: It cannot be moved. Nothing is lost: it goes on growing.
        """
        if now or self._pages >= self._limit:
            self._move()

    def mend(self) -> None:
        """After a failed sync: nothing may be promised before the store has all there is.

        Raises:
            apsw.Error: The disk still fails.
            Disconnected: Somebody reads an old state, which keeps the log; it will be tried again.
        """
        if self.doubtful and self._move():
            self.doubtful = False
        elif self.doubtful:
            raise Disconnected("a sync failed, and the log cannot be moved into the store while somebody reads it")

    def _move(self) -> bool:
        """Whether all of it was moved."""
        try:
            pages, moved = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.IOError:
            self.doubtful = True
            raise
        self._pages = 0 if moved >= pages else self._pages
        return moved >= pages
