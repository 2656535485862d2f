"""What operators need, on the embedded engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

import apsw

from ...clock import Clock
from ...engine import Browsed, Decide, Source, SourceStats, Swept
from . import backup, browse, deadletters, removal, replay, stats
from .settle import micros

T = TypeVar("T")


class Call(Protocol):
    """Runs a function on the writer's thread, in a write transaction, and wakes consumers after its commit.

    An exception of the function rolls back, and is raised here.
    """

    def __call__(self, work: Callable[[apsw.Connection], T]) -> Awaitable[T]: ...


class EmbeddedAdmin:
    """The `Admin` of an embedded store. Every method is one transaction, except where it says otherwise.

    Args:
        call: The writer's.
        clock: For the present.
        path: The store; None for one in memory.
    """

    def __init__(self, call: Call, clock: Clock, path: str | None) -> None:
        self._call = call
        self._clock = clock
        self._path = path

    async def sources(self) -> Sequence[Source]:
        return await self._call(stats.sources)

    async def stats(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        return await self._call(lambda db: stats.stats(db, sources, self._now()))

    async def sweep(self, source: Source, decide: Decide, after: str | None, limit: int, hold: float) -> Swept:
        """Nothing is hidden while it is looked at, so ``hold`` has no meaning here."""
        verdicts: deadletters.Verdicts = {}
        return await self._call(lambda db: deadletters.sweep(db, source, decide, after, limit, self._now(), verdicts))

    async def replay(
        self, source: Source, since: datetime, until: datetime, token: str | None, dry_run: bool
    ) -> tuple[int, str | None]:
        first, last = micros(since), micros(until)
        return await self._call(lambda db: replay.replay(db, source, first, last, token, dry_run))

    async def browse(self, channel: str, since: datetime | None, limit: int, after: str | None = None) -> Browsed:
        first = None if since is None else micros(since)
        return await self._call(lambda db: browse.browse(db, channel, first, limit, after))

    async def purge(self, source: Source) -> int | None:
        return await self._call(lambda db: removal.purge(db, source, self._now()))

    async def remove(self, source: Source) -> None:
        """Takes several transactions where there are many dead letters; until the last the source exists."""
        while not await self._call(lambda db: removal.remove_step(db, source)):
            pass

    async def backup(self, path: str) -> int:
        """Of a file on a thread and a connection of its own: publishers do not wait. Of memory on the writer's thread.

        Raises:
            ConfigError: The file exists, or its directory does not.
            AccessDenied: The directory cannot be written.
            StoreDamaged: The store is damaged.
            Disconnected: The disk is full or broken.
        """
        if self._path is None:
            return await self._call(lambda db: backup.backup(db, path))
        return await asyncio.to_thread(backup.backup, self._path, path)

    def _now(self) -> int:
        return micros(self._clock.now())
