"""A disk that writes down what is done to it, or fails on request: a SQLite VFS, so that nothing needs root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import apsw

Kind = Literal["write", "sync", "truncate", "delete", "note"]


class Op(NamedTuple):
    """One thing that was done to the disk, or noted between two.

    Attributes:
        kind: What.
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
        ops: What was done, in order.
        fault: Asked before each write and sync (kind, suffix); raises what the disk is to answer.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.ops: list[Op] = []
        self.fault: Callable[[Kind, str], None] | None = None
        self.vfs_name = f"disk-{id(self)}"
        super().__init__(self.vfs_name, base="", makedefault=True)

    def note(self, text: str) -> None:
        """Writes down something that happened meanwhile."""
        self.ops.append(Op("note", text))

    def done(self, kind: Kind, path: str, offset: int = 0, data: bytes = b"") -> None:
        """Asks for the fault, then writes the operation down."""
        name = path.removeprefix(self.store)
        if self.fault is not None:
            self.fault(kind, name)
        self.ops.append(Op(kind, name, offset, data))

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        return _File(self, path, name, flags) if path.startswith(self.store) else super().xOpen(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.ops.append(Op("delete", filename.removeprefix(self.store)))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        data = bytes(data)
        self._disk.done("write", self._path, offset, data)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        """Not passed on: what the disk keeps in a power cut is decided when the record is replayed."""
        self._disk.done("sync", self._path)

    def xTruncate(self, newsize: int) -> None:
        self._disk.done("truncate", self._path, newsize)
        super().xTruncate(newsize)


@contextmanager
def disk(store: str) -> Iterator[Disk]:
    """A disk for everything that opens this store meanwhile."""
    made = Disk(store)
    try:
        yield made
    finally:
        made.unregister()
