"""Opening the store's file, refusing what cannot work, and noticing when it is taken away.

What is right about owner and mode, and why:

- A new store gets mode 0600: messages are private, and who can write the file can have any message handled. SQLite
  gives ``-wal`` and ``-shm`` the mode and owner of the store, and `Place` does the same for lock files and bells.
- A store that everybody may write is refused: anybody could put messages, or a damaged file, into it.
- A store of another user is refused unless its group may write it: then somebody meant it to be shared. Otherwise each
  of the two would make files beside it that the other cannot open. Root may open any; what it creates it hands to
  the store's owner.

A file is never opened here except by SQLite (or when it is created): closing any other descriptor of it would
silently end the locks that this process holds on it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

import apsw

from ...errors import AccessDenied, ConfigError, Disconnected, StoreDamaged, TelexError, Unsupported
from .mounts import network_filesystem
from .platform import Place
from .rows import rows
from .schema import APPLICATION_ID, VERSION

CHECKED_BYTES = 16 * 1024 * 1024
"""Stores up to this size are checked whole when they are opened (some 30 ms); larger ones by ``telex doctor``."""
BUSY_MS = 5000


def locate(path: str, *, portable: bool = False) -> Place:
    """Finds a store's place, and creates the (empty) file if there is none.

    Raises:
        ConfigError: The path is a directory, or its directory does not exist.
        Unsupported: It lies on a network file system.
        AccessDenied: Owner, mode or rights forbid it.
        Disconnected: The disk is full or broken.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    if os.path.isdir(real):
        raise ConfigError(f"{path} is a directory: write the path of a file in it, such as {path}/telex.db")
    if not os.path.isdir(folder):
        raise ConfigError(f"{path}: the directory {folder} does not exist: create it, or correct the path")
    kind = network_filesystem(folder)
    if kind is not None:
        raise Unsupported(
            "a store on a network file system",
            "embedded",
            f"{real} lies on {kind}, where file locks and shared memory do not hold between hosts",
            "put the file on a local disk, or use a broker to reach it from several hosts",
        )
    if not os.path.exists(real):
        _create(real)
    mode = _check_rights(real, folder)
    return Place(real, mode, portable)


def _create(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return  # Another process was faster; it wrote nothing yet that a second opener could disturb.
    except PermissionError as error:
        raise AccessDenied(
            f"{path} cannot be created: this user may not write in its directory; "
            "give the right to write there, or choose another path"
        ) from error
    except OSError as error:
        raise Disconnected(f"{path} cannot be created: {error.strerror}") from error
    try:
        os.fchmod(fd, 0o600)
        os.fsync(fd)
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # Some file systems cannot; SQLite does the same.
            os.fsync(parent)
        os.close(parent)
    finally:
        os.close(fd)


def _check_rights(path: str, folder: str) -> int:
    """The mode for files beside the store."""
    found = os.stat(path)
    mode, me = stat.S_IMODE(found.st_mode), os.geteuid()
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is not a regular file: write the path of a file, or of one to be created")
    if mode & stat.S_IWOTH:
        raise AccessDenied(
            f"{path} has mode {mode:o}: everybody may write it, and so have any message handled; run chmod o-w {path}"
        )
    if me not in (0, found.st_uid) and not mode & stat.S_IWGRP:
        raise AccessDenied(
            f"{path} belongs to user {found.st_uid} and this is user {me}: a store is for one user, or for a group "
            f"that may write it (chmod 660 {path}); run as that user, or choose another path"
        )
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise AccessDenied(
            f"{path} (mode {mode:o}) cannot be written by user {me}: a store must be; run chmod u+rw {path}"
        )
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise AccessDenied(f"{folder} cannot be written by user {me}: SQLite keeps its journal there, beside {path}")
    if found.st_size == 0 and found.st_uid == me and mode != 0o600 and not mode & stat.S_IWGRP:
        os.chmod(path, 0o600)  # An empty file, from touch or mkstemp: it becomes a store now.
        return 0o600
    return mode & 0o660


def connect(place: Place) -> apsw.Connection:
    """Opens the file, and checks it before anything is written to it; then turns on the write-ahead log.

    The caller holds the writer lock, so that two processes do not change the mode of a new file at once. The
    connection may be used by any one thread at a time. Pragmas and the schema are the caller's.

    Raises:
        StoreDamaged: It is damaged, cut short, not SQLite's, another program's, or of a newer Telex.
        AccessDenied: It cannot be read or written.
        Disconnected: It cannot be locked, or the disk fails.
    """
    db: apsw.Connection | None = None
    try:
        db = apsw.Connection(place.path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
        db.set_busy_timeout(BUSY_MS)
        _check_maker(db, place.path)
        _check_whole(db, place.path)
        mode = db.pragma("journal_mode", "wal")
        if mode != "wal":
            raise Disconnected(
                f"{place.path}: SQLite stays in journal mode {mode}: its file system does not allow a WAL"
            )
        return db
    except apsw.Error as error:
        _close(db)
        raise explain(error, place.path) from error
    except BaseException:
        _close(db)
        raise


def _close(db: apsw.Connection | None) -> None:
    if db is not None:
        db.close(True)


def _check_maker(db: apsw.Connection, path: str) -> None:
    application, version = db.pragma("application_id"), db.pragma("user_version")
    tables = rows(db.execute("SELECT count(*) FROM sqlite_master"))[0][0]
    if not tables and not application:
        return
    if application != APPLICATION_ID:
        raise StoreDamaged(
            f"{path} is a SQLite database of another program (application id {application}): choose another path"
        )
    if isinstance(version, int) and version > VERSION:
        raise StoreDamaged(
            f"{path} was written by a newer Telex (schema {version}; this one knows {VERSION}): upgrade Telex here too"
        )


def _check_whole(db: apsw.Connection, path: str) -> None:
    wal = path + "-wal"
    size = os.stat(path).st_size
    if not os.path.exists(wal) or os.stat(wal).st_size == 0:
        needed = int(str(db.pragma("page_count"))) * int(str(db.pragma("page_size")))
        if size < needed:
            raise StoreDamaged(f"{path} is cut short: it has {size} bytes and should have {needed}; restore a backup")
    if size <= CHECKED_BYTES:
        problems = check(db)
        if problems:
            raise StoreDamaged(f"{path} is damaged ({problems[0]}): restore a backup; `telex doctor` tells more")


def check(db: apsw.Connection) -> list[str]:
    """SQLite's findings about a damaged file, a line each; nothing if it is whole. Reads all of it."""
    found = [line for row in db.execute("PRAGMA quick_check(10)") for line in str(row[0]).splitlines()]
    return [] if found == ["ok"] else [line for line in found if not line.startswith("***")]


def explain(error: apsw.Error, path: str) -> TelexError:
    """SQLite's error as ours, with what to do."""
    if isinstance(error, apsw.NotADBError):
        return StoreDamaged(
            f"{path} is not a SQLite database: choose another path, or restore a backup if it was a store"
        )
    if isinstance(error, apsw.CorruptError):
        return StoreDamaged(f"{path} is damaged ({error}): restore a backup; `telex doctor` tells more")
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHORT_READ:
        return StoreDamaged(f"{path}, or its -wal file, was cut short while it was open: restore a backup")
    if isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError)):
        return AccessDenied(
            f"{path} cannot be written ({error}): check owner and mode of the file and of its directory"
        )
    if isinstance(error, apsw.CantOpenError):
        return AccessDenied(
            f"{path} cannot be opened ({error}): check owner and mode of it, its -wal and its -shm file"
        )
    if isinstance(error, apsw.FullError):
        return Disconnected(f"{path}: the disk is full ({error}): make room")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return Disconnected(f"{path} is locked by a process that does not let go ({error}): see who has it open")
    return Disconnected(f"{path} cannot be used: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Watch:
    """Notices that a file was deleted or replaced while it is open; what is written then would go nowhere.

    Look at it every second or so: a look is three `stat` calls, some 5 us.
    """

    path: str
    _seen: tuple[tuple[str, tuple[int, int]], ...]

    @classmethod
    def begin(cls, path: str) -> Watch:
        """Remembers which files these are. After the first write, when all of them exist."""
        seen = ((name, _identity(name)) for name in (path, path + "-wal", path + "-shm"))
        return cls(path, tuple((name, identity) for name, identity in seen if identity is not None))

    def check(self) -> None:
        """Does nothing while all is well.

        Raises:
            StoreDamaged: The store, or its write-ahead log, is not the file any more that was opened.
        """
        for name, identity in self._seen:
            now = _identity(name)
            if now != identity:
                what = "deleted" if now is None else "replaced by another file"
                raise StoreDamaged(
                    f"{name} was {what} while it was open: nothing can be stored any more; stop every process that "
                    f"uses {self.path}, put the right file back, and start again"
                )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
