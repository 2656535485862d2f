"""Opening a store: a file that processes share, or memory."""

from __future__ import annotations

from random import Random

import apsw

from ...clock import Clock, Seconds, seconds
from ...errors import Disconnected
from . import files, members, schema
from .claim import tokens
from .files import Watch
from .members import Member, Roster
from .platform import OPEN_FILES, FileLock, OpenFile, Place, boot_id
from .retention import Room, Trimmer
from .settle import micros
from .store import Store

CACHE_KIB = 32 * 1024
JOURNAL_BYTES = 64 * 1024 * 1024
OPEN_WAIT = 20.0
"""Seconds to wait for the other writers when a store is opened."""

Opened = tuple[Store, FileLock | None, Watch | None]


def open_store(
    path: str | None,
    *,
    retention: Seconds,
    lease: Seconds,
    max_bytes: int | None,
    clock: Clock,
    random: Random,
    portable: bool = False,
) -> Opened:
    """Opens a store, and makes it if there is none; on the thread that will use it.

    Args:
        path: The file; None for memory.
        retention: How long settled messages are kept on channels without a history of their own.
        lease: Seconds after which a stopped process loses what it has in hand.
        max_bytes: Size at which publishing fails; None: as the disk allows.
        clock: Where time comes from.
        random: For tokens.
        portable: As in `Place`.

    Raises:
        StoreDamaged, AccessDenied, Disconnected, ConfigError, Unsupported: As in `files`.
    """
    place = None if path is None else files.locate(path, portable=portable)
    lock = None if place is None else place.writer_lock()
    db: apsw.Connection | None = None
    file: OpenFile | None = None
    try:
        if lock is not None and not lock.acquire(OPEN_WAIT):
            raise Disconnected(f"{path} is held by a process that does not let go: see who has it open")
        if place is not None:
            file = OPEN_FILES.begin(place.path)
        db = apsw.Connection(":memory:") if place is None else files.connect(place)
        _set_up(db)
        boot = boot_id()
        member = _join(db, place, boot, clock)
        room = Room(None if place is None else place.path, max_bytes)
        room.look(db)
        store = Store(
            db,
            clock,
            member,
            Roster(place, member.id),
            boot=boot,
            lease=seconds(lease),
            trimmer=Trimmer(int(seconds(retention) * 1e6)),
            room=room,
            token=tokens(random.getrandbits(61)),
        )
        store.file = file
        if lock is not None:
            lock.release()
        return store, lock, None if place is None else Watch.begin(place.path)
    except BaseException as error:
        if db is not None:
            db.close(True)
        if file is not None:
            file.close()
        if lock is not None:
            lock.close()
        if isinstance(error, apsw.Error):
            raise files.explain(error, path or "memory") from error
        raise


def _set_up(db: apsw.Connection) -> None:
    for pragma in (
        f"cache_size=-{CACHE_KIB}",
        f"journal_size_limit={JOURNAL_BYTES}",
        "temp_store=MEMORY",
        "synchronous=FULL",
    ):
        db.execute(f"PRAGMA {pragma}")


def _join(db: apsw.Connection, place: Place | None, boot: str, clock: Clock) -> Member:
    member: Member | None = None
    db.execute("BEGIN IMMEDIATE")
    try:
        schema.create(db)
        member = members.join(db, place, boot, micros(clock.now()))
        db.execute("COMMIT")
    except BaseException:
        if member is not None:
            member.close()
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return member
