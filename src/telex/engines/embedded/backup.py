"""A consistent copy of the store while everything runs."""

from __future__ import annotations

import contextlib
import os

import apsw

from ...errors import AccessDenied, ConfigError, Disconnected, StoreDamaged
from . import files


def backup(source: str | apsw.Connection, path: str) -> int:
    """Copies a store into a new file of mode 0600; its size in bytes.

    The copy is one moment of the store: one read transaction, which keeps neither publishers nor consumers waiting
    (the write-ahead log grows meanwhile). It is written under another name, checked, flushed, and only then gets its
    own: whatever bears the name is whole. A store opened from it takes up where it was; messages in hand at that
    moment come back as losses.

    Args:
        source: Path of the store, or the connection of one in memory. On a thread that may take its time.
        path: The new file.

    Raises:
        ConfigError: The file exists, or its directory does not.
        AccessDenied: The directory cannot be written.
        StoreDamaged: The store is damaged.
        Disconnected: The disk is full or broken.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise ConfigError(f"backup({path!r}): write the path of a new file")
    path = os.fspath(path)
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already: a backup never overwrites a file; choose another name")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ConfigError(f"{path}: the directory {folder} does not exist: create it, or correct the path")
    partial = f"{path}.{os.getpid()}.partial"
    try:
        return _write(source, path, partial)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename or path} exists already: choose another name") from error
    except PermissionError as error:
        raise AccessDenied(f"{path} cannot be written: this user may not write in {folder}") from error
    except OSError as error:
        raise Disconnected(f"{path} cannot be written: {error.strerror}") from error
    except apsw.Error as error:
        raise files.explain(error, path) from error


def _write(source: str | apsw.Connection, path: str, partial: str) -> int:
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        _copy(source, partial)
        size = os.stat(partial).st_size
        os.link(partial, path)  # Fails if the name was taken meanwhile; a rename would overwrite it.
    finally:
        for name in (partial, partial + "-journal", partial + "-wal", partial + "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # Some file systems cannot.
            os.fsync(folder)
    finally:
        os.close(folder)
    return size


def _copy(source: str | apsw.Connection, partial: str) -> None:
    if isinstance(source, str):
        _copy_file(source, partial)
    else:
        _copy_memory(source, partial)
    copy = apsw.Connection(partial, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        problems = files.check(copy)
    finally:
        copy.close(True)
    if problems:
        raise StoreDamaged(f"the store is damaged ({problems[0]}), so it was not copied: see `telex doctor`")


def _copy_file(source: str, partial: str) -> None:
    db = apsw.Connection(source, flags=apsw.SQLITE_OPEN_READWRITE)
    copy = apsw.Connection(partial, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(files.BUSY_MS)
        copy.pragma("synchronous", "full")
        with copy.backup("main", db, "main") as step:
            step.step(-1)
    finally:
        copy.close(True)
        db.close(True)


def _copy_memory(source: apsw.Connection, partial: str) -> None:
    """All at once: SQLite's stepwise copy refuses a connection that is in a write transaction."""
    with open(partial, "wb") as file:
        file.write(source.serialize("main"))
        file.flush()
        os.fsync(file.fileno())
