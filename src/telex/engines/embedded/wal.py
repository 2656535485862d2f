"""The write-ahead log: moved into the store here, because SQLite tells nobody when its own way of doing it fails.

Two failures must be known. A disk that is full: once the log was moved it is written again from its beginning, which
takes no room, so that settlements go on. A sync that failed: the system then takes pages for written that are not on
the disk (Linux marks them clean and reports the error once), and whatever is synced behind such a hole would be lost
in a power cut; the log must be written again, whole, before anything else is promised.
"""

from __future__ import annotations

import os

import apsw

from ...errors import Disconnected

CHECKPOINT_PAGES = 4000
"""Pages after which the log is moved into the store: 16 MiB."""
CHUNK = 1024 * 1024


class Wal:
    """The log of one connection. Belongs to the writer's thread, outside transactions.

    Attributes:
        doubtful: The disk failed: some of the log may not be on it.
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
        if not now and self._pages < self._limit:
            return
        try:
            pages, moved = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.IOError:
            self.doubtful = True
            raise
        if moved >= pages:
            self._pages = 0

    def mend(self) -> None:
        """After the disk failed: writes the log again, so that it is whole, before anything is promised.

        Moving it into the store instead would not do: a power cut in the middle of that needs the log.

        Raises:
            Disconnected: The disk still fails.
            apsw.Error: The same, or somebody holds the store.
        """
        if not self.doubtful:
            return
        path = self._db.filename + "-wal"
        self._db.execute("BEGIN IMMEDIATE")  # Nobody cuts or restarts the log meanwhile.
        try:
            if os.path.exists(path):
                _write_again(path)
        except OSError as error:
            raise Disconnected(f"{path}: the disk failed and cannot take it again: {error.strerror}") from error
        finally:
            self._db.execute("ROLLBACK")
        self.doubtful = False


def _write_again(path: str) -> None:
    """Closing this descriptor ends no lock: SQLite has none on this file."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        offset = 0
        while data := os.pread(fd, CHUNK, offset):
            os.pwrite(fd, data, offset)
            offset += len(data)
        os.fsync(fd)
    finally:
        os.close(fd)
