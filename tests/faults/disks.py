"""A disk that writes down what is done to it, or fails on request: a SQLite VFS, so that nothing needs root."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import apsw

Kind = Literal["write", "sync", "lost", "truncate", "delete", "note"]
BLOCK = 512
SIZE = 20 * 1024 * 1024
"""What a disk that fills up says its size is."""


class Op(NamedTuple):
    """One thing that was done to the disk, or noted between two.

    Attributes:
        kind: What. ``lost``: a sync that failed; what it was to keep is not on the disk, and no later sync will write
            it, since the system takes it for written (as Linux does).
        name: ``""`` the store, else its suffix (``-wal``); the text of a note.
        offset: Of a write; the new size of a truncation.
        data: Of a write.
    """

    kind: Kind
    name: str
    offset: int = 0
    data: bytes = b""


class Disk(apsw.VFS):
    """All files of one store.

    Attributes:
        ops: What was done, in order; only while it is recorded.
        recording: Whether it is.
        fault: Asked before each write and sync (kind, suffix); raises what the disk is to answer.
        free: Bytes by which files may still grow; None: as the real disk allows. What lies on the disk may always be
            written over.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.ops: list[Op] = []
        self.recording = True
        self.fault: Callable[[Kind, str], None] | None = None
        self.free: int | None = None
        self.vfs_name = f"disk-{id(self)}"
        super().__init__(self.vfs_name, base="", makedefault=True)

    def note(self, text: str) -> None:
        """Writes down something that happened meanwhile."""
        self._record(Op("note", text))

    def done(self, kind: Kind, path: str, offset: int = 0, data: bytes = b"") -> None:
        """Asks for the fault, then writes the operation down."""
        name = path.removeprefix(self.store)
        if self.fault is not None:
            try:
                self.fault(kind, name)
            except apsw.IOError:
                if kind == "sync":
                    self._record(Op("lost", name))
                raise
        self._record(Op(kind, name, offset, data))

    def take(self, growth: int) -> None:
        """A file grows, or shrinks.

        Raises:
            apsw.FullError: There is no room.
        """
        if self.free is None:
            return
        if growth > self.free:
            raise apsw.FullError("database or disk is full")
        self.free -= growth

    def _record(self, op: Op) -> None:
        if self.recording:
            self.ops.append(op)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        return _File(self, path, name, flags) if path.startswith(self.store) else super().xOpen(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._record(Op("delete", filename.removeprefix(self.store)))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        data = bytes(data)
        if self._disk.free is not None:
            self._disk.take(max(0, offset + len(data) - self.xFileSize()))
        self._disk.done("write", self._path, offset, data)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        """Not passed on: what the disk keeps in a power cut is decided when the record is replayed."""
        self._disk.done("sync", self._path)

    def xTruncate(self, newsize: int) -> None:
        if self._disk.free is not None:
            self._disk.take(newsize - self.xFileSize())
        self._disk.done("truncate", self._path, newsize)
        super().xTruncate(newsize)


def io_error(kind: Literal["write", "sync"]) -> Exception:
    """What SQLite gets from a broken disk."""
    return apsw.exception_for(apsw.SQLITE_IOERR_WRITE if kind == "write" else apsw.SQLITE_IOERR_FSYNC)


def _answer(ask: Callable[[], None]) -> None:
    """As a system call answers."""
    try:
        ask()
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    except apsw.IOError as error:
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from error


@contextmanager
def disk(store: str) -> Iterator[Disk]:
    """A disk for everything that opens this store meanwhile."""
    made = Disk(store)
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        if made.free is None or not str(path).startswith(store):
            return real(path)
        return SimpleNamespace(f_bavail=made.free // BLOCK, f_frsize=BLOCK, f_blocks=SIZE // BLOCK)

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if (path := os.readlink(f"/proc/self/fd/{fd}")).startswith(store):
            _answer(lambda: made.done("write", path, offset, data))
        return write(fd, data, offset)

    def fsync(fd: int) -> None:
        if (path := os.readlink(f"/proc/self/fd/{fd}")).startswith(store):
            _answer(lambda: made.done("sync", path))

    write = os.pwrite
    try:
        with (
            patch.object(os, "statvfs", statvfs),
            patch.object(os, "pwrite", pwrite),
            patch.object(os, "fsync", fsync),
        ):
            yield made
    finally:
        made.unregister()
