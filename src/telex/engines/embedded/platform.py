"""Everything that depends on the operating system: locks, bells, the boot, forks; file systems are in mounts.py.

Linux and macOS. ``portable=True`` uses only what every Unix has: no sockets, no shared memory; members then look for
news every 50 ms instead of being woken. Tests force it.

Files beside a store ``telex.db`` (all with its owner and at most its mode, see `Place`):

    telex.db-writer            `FileLock`: whoever holds it may write; the others queue in the kernel
    telex.db-members/7.lock    `FileLock`, held by member 7 while it lives; its first byte is 1 while the member sleeps
    telex.db-members/7.bell    socket of member 7; in the runtime directory where this path would be too long
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import select
import socket
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...errors import AccessDenied, Closed, ConfigError

SOCKET_PATH = 100
"""Longest path of a socket in bytes: 104 on macOS and 108 on Linux, the terminator included."""
POLL = 0.05
"""Seconds between two looks where nothing can wake a sleeper."""
AWAKEN = 1.0
"""Seconds between two looks where a bell wakes: for news whose bell was lost."""


class FileLock:
    """A lock of the kernel on a file: it ends with the process that holds it, however that ends.

    Uses ``flock``: unlike a record lock it also holds between two openers in one process, and closing another
    descriptor of the file does not end it. A forked child closes its copy at once, so that it cannot hold its
    parent's lock beyond the parent's life.
    """

    def __init__(self, path: str, mode: int = 0o600) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        found = os.fstat(self.fd)
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(self.fd, mode)  # The umask may have taken away what the store's other users need.
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(after_in_child=lambda: _call(forget))

    def acquire(self, timeout: float | None = None) -> bool:
        """Takes the lock; whether it did.

        Args:
            timeout: Seconds. None waits in the kernel, first come first served; 0 only tries; any other value looks
                again and again and so is overtaken by those who wait in the kernel.
        """
        if _flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
        if timeout is None:
            return _flock(self.fd, fcntl.LOCK_EX)
        end, pause = time.monotonic() + timeout, 0.001
        while time.monotonic() < end:
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
            if _flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return True
        return False

    def release(self) -> None:
        """Gives the lock up."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the file, and so gives the lock up. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _forget(self) -> None:
        self.close()


def is_free(path: str) -> bool:
    """Whether nobody holds the `FileLock` of this path; true if there is no such file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        return _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # Shared: two who ask at once do not see each other.
    finally:
        os.close(fd)


def _flock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _call(reference: Callable[[], Callable[[], object] | None]) -> None:
    method = reference()
    if method is not None:
        method()


class Sleep:
    """The byte in a member's lock file that tells the others whether it sleeps and must be rung for.

    It opens the file anew: a mapping keeps its descriptor, and a forked child, which shares it, would hold the lock.

    Raises:
        OSError: The file is not there.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_size < 1:
                os.ftruncate(fd, 1)
            self._map = mmap.mmap(fd, 1)
        finally:
            os.close(fd)

    @property
    def asleep(self) -> bool:
        return self._map[0] != 0

    @asleep.setter
    def asleep(self, value: bool) -> None:
        self._map[0] = value

    def close(self) -> None:
        """Ends the mapping."""
        self._map.close()


class Bell(Protocol):
    """What the writer thread sleeps on. One waits, any thread rings."""

    address: str
    """Where others ring; empty if they cannot."""
    interval: float
    """Longest time, in seconds, that one should wait before looking for oneself."""

    def wait(self, timeout: float) -> bool:
        """Sleeps until rung, at most ``timeout`` seconds; whether it was rung. Takes all rings so far at once."""
        ...

    def ring(self) -> None:
        """Wakes the waiting thread of this process. From any thread."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class SocketBell:
    """A bell that other processes can ring: a datagram socket.

    A pair of sockets without a name is for this process, whatever becomes of the file that the others ring at.
    """

    interval = AWAKEN

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self._inside, self._outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._poll = select.poll()
        for heard in (self._socket, self._inside):
            heard.setblocking(False)
            self._poll.register(heard, select.POLLIN)
        self._outside.setblocking(False)

    def wait(self, timeout: float) -> bool:
        if not self._poll.poll(max(0.0, timeout) * 1000):
            return False
        rung = False
        for heard in (self._socket, self._inside):
            with contextlib.suppress(BlockingIOError):
                while heard.recv(16):
                    rung = True
        return rung

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # Full: it rings already. Closed: nobody sleeps any more.
            self._outside.send(b"!")

    def ring_other(self, address: str) -> None:
        """Rings another member's bell; one that is gone or has been rung often enough is no error."""
        with contextlib.suppress(OSError):
            self._socket.sendto(b"!", address)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            for end in (self._socket, self._inside, self._outside):
                end.close()
            with contextlib.suppress(OSError):
                os.unlink(self.address)


class LocalBell:
    """A bell for this process alone: for stores in memory, and where there are no sockets."""

    address = ""

    def __init__(self, interval: float = POLL) -> None:
        self.interval = interval
        self._event = threading.Event()

    def wait(self, timeout: float) -> bool:
        rung = self._event.wait(max(0.0, timeout))
        self._event.clear()
        return rung

    def ring(self) -> None:
        self._event.set()

    def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Place:
    """The files beside a store.

    Attributes:
        path: The store, absolute and without symbolic links: two names of one store meet in the same files.
        mode: The store's mode without execution and other users: what files beside it are created with.
        portable: Do without sockets and shared memory.
    """

    path: str
    mode: int = 0o600
    portable: bool = False

    @property
    def members(self) -> str:
        """The directory of the members' files."""
        return self.path + "-members"

    def lock_path(self, member: int) -> str:
        """The lock file of a member."""
        return os.path.join(self.members, f"{member}.lock")

    def writer_lock(self) -> FileLock:
        """The lock on which writers queue; not taken yet."""
        lock = FileLock(self.path + "-writer", self.mode)
        self._adopt(lock.path)
        return lock

    def member_lock(self, member: int) -> FileLock:
        """The lock of a member; not taken yet."""
        self._directory(self.members)
        lock = FileLock(self.lock_path(member), self.mode)
        self._adopt(lock.path)
        return lock

    def bell(self, member: int) -> Bell:
        """The bell of a member: a socket if this can be had."""
        if not self.portable and hasattr(socket, "AF_UNIX"):
            with contextlib.suppress(OSError):
                path = os.path.join(self._bells(), f"{member}.bell")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                bell = SocketBell(path)
                os.chmod(path, self.mode)
                self._adopt(path)
                return bell
        return LocalBell()

    def clean(self, member: int, bell: str) -> None:
        """Deletes the files of a member that is dead and forgotten."""
        for path in (self.lock_path(member), bell):
            if path:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _bells(self) -> str:
        """Beside the store, so that containers that share a volume reach each other; else a private directory."""
        if len(os.fsencode(self.members)) + 26 <= SOCKET_PATH:  # "/", 19 digits and ".bell"
            self._directory(self.members)
            return self.members
        name = "telex-" + hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        if runtime and os.access(runtime, os.W_OK):
            path = os.path.join(runtime, name)
        else:
            path = os.path.join(tempfile.gettempdir(), f"{name}-{os.getuid()}")
        self._directory(path, private=True)
        return path

    def _directory(self, path: str, *, private: bool = False) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            if not private:
                os.chmod(path, self.mode | (self.mode & 0o444) >> 2)
            self._adopt(path)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IWOTH or (private and found.st_uid != os.getuid()):
            raise AccessDenied(f"{path}: it must be a directory that only the store's users can write; remove it")

    def _adopt(self, path: str) -> None:
        """What root creates belongs to the store's owner, or the owner's own processes could not open it."""
        if os.geteuid() == 0:
            owner = os.stat(self.path)
            with contextlib.suppress(OSError):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def boot_id() -> str:
    """What is different after each start of the machine, so that monotonic times of another boot are known as such.

    Where the system does not say, a constant: then the members' locks, which no boot survives, tell the dead.
    """
    if sys.platform == "darwin":
        return _sysctl("kern.bootsessionuuid") or "unknown"
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def _sysctl(name: str) -> str:
    """A text of the macOS kernel, or nothing."""
    size, buffer = ctypes.c_size_t(128), ctypes.create_string_buffer(128)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, 0)
    except AttributeError:
        return ""
    return "" if failed else buffer.value.decode("ascii", "replace")


class OpenFiles:
    """The stores that this process has open, and those that a process it was forked from had open at that moment.

    SQLite remembers in static memory which files a process has locked. A fork copies that memory, but the kernel gives
    the child none of the locks: the child would work without any, and what it commits is lost when its parent closes
    (seen, with two connections and five lines). Nothing mends that from outside SQLite, so such a file is refused.
    """

    def __init__(self) -> None:
        self._open: Counter[tuple[int, int]] = Counter()
        self._inherited: dict[tuple[int, int], int] = {}
        self._pid = 0
        self._lock = threading.Lock()

    def begin(self, path: str) -> OpenFile:
        """A store is about to be opened.

        Raises:
            ConfigError: This process inherited it.
        """
        found = os.stat(path)
        file = (found.st_dev, found.st_ino)
        with self._lock:
            if not self._pid:
                os.register_at_fork(after_in_child=self._forked)
            self._pid = os.getpid()
            if (parent := self._inherited.get(file)) is not None:
                raise ConfigError(
                    f"{path} was open in process {parent} when process {os.getpid()} was forked from it, and SQLite's "
                    "locks do not survive that: what is written here could be lost. Close the application before the "
                    "fork (telex.sync.Client does), or start the process another way (multiprocessing: 'spawn')"
                )
            self._open[file] += 1
        return OpenFile(self, file)

    def end(self, file: tuple[int, int]) -> None:
        """A connection to it is closed."""
        with self._lock:
            self._open[file] -= 1
            if self._open[file] <= 0:
                del self._open[file]

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._inherited |= dict.fromkeys(self._open, self._pid)
        self._open.clear()


class OpenFile:
    """One store that is open."""

    def __init__(self, files: OpenFiles, file: tuple[int, int]) -> None:
        self._files = files
        self._file = file

    def close(self) -> None:
        """Its connection is closed."""
        self._files.end(self._file)


OPEN_FILES = OpenFiles()
"""As static as what SQLite remembers."""


class ForkGuard:
    """Notices that a store is used by a fork of the process that opened it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        return os.getpid() != self._pid

    def check(self, what: str) -> None:
        """Does nothing in the process that opened it.

        Raises:
            Closed: This is a fork: its threads are gone and SQLite's locks are not its own.
        """
        if self.forked:
            raise Closed(
                f"{what} was opened by process {self._pid} and is used by its fork {os.getpid()}: "
                "a connection does not survive a fork; open the application in the child, after the fork"
            )
