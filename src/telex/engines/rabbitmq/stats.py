"""How sources stand: what the broker says about queues, and what processes say about what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from ...engine import Source, SourceStats
from .catalog import Catalog
from .control import Control
from .ladder import Ladder
from .members import Holding, Members
from .names import Names
from .sweep import Sweeper
from .waiting import Waiting


class Holder(Protocol):
    """A consumer of this process, as far as counting goes."""

    @property
    def in_hand(self) -> int: ...

    @property
    def parked(self) -> int:
        """Of those, what waits to keep order."""
        ...

    @property
    def next_due(self) -> datetime | None: ...

    async def fence(self) -> None: ...


class Statistics:
    """Counts."""

    def __init__(
        self,
        names: Names,
        catalog: Catalog,
        control: Control,
        retries: Ladder,
        waiting: Waiting,
        sweeper: Sweeper,
        members: Members,
        holders: Callable[[str], Sequence[Holder]],
    ) -> None:
        self._names = names
        self._catalog = catalog
        self._control = control
        self._retries = retries
        self._waiting = waiting
        self._sweeper = sweeper
        self._members = members
        self._holders = holders

    async def of(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        """The state of each, same length and order."""
        counted = [await self._ready(source) for source in sources]
        others: Sequence[Mapping[str, Holding]] = []
        silent = 0
        if sources and any(
            consumers > len(self._holders(str(s))) for s, (_, consumers) in zip(sources, counted, strict=True)
        ):
            others, silent = await self._members.ask()
        mine = await self.holdings([str(source) for source in sources])
        unknown = await self._unknown(others)
        found: list[SourceStats] = []
        for source, (ready, consumers) in zip(sources, counted, strict=True):
            holdings = [mine[str(source)], *(other[str(source)] for other in others if str(source) in other)]
            # What was in hand when it was counted may have come back before who had it was asked.
            again, _ = await self._ready(source)
            found.append(await self._one(source, max(ready, again), consumers, holdings, unknown, silent))
        return found

    async def holdings(self, sources: Sequence[str]) -> dict[str, Holding]:
        """What this process holds of each."""
        found: dict[str, Holding] = {}
        for source in sources:
            held = parked = 0
            due: list[datetime] = []
            for holder in self._holders(source):
                await holder.fence()
                held += holder.in_hand
                parked += holder.parked
                if holder.next_due is not None:
                    due.append(holder.next_due)
            waiting, next_retry = self._waiting.of(source)
            if next_retry is not None:
                due.append(next_retry)
            found[source] = Holding(held - parked, parked + waiting, min(due, default=None), waiting)
        return found

    async def _unknown(self, others: Sequence[Mapping[str, Holding]]) -> int:
        """Retries on the ladder that no living process knows of: those of processes that have ended."""
        depth = await self._retries.depth()
        if not depth:
            return 0
        if not others and self._members.are_others:
            others, _ = await self._members.ask()
        known = self._waiting.total() + sum(h.waiting for other in others for h in other.values())
        return max(0, depth - known)

    async def _ready(self, source: Source) -> tuple[int, int]:
        """(ready, consumers)."""
        name = self._names.queue(source)
        record = self._catalog.sources.get(str(source))
        if source.ordered:
            lanes = record.lanes if record is not None else 1
            depths = [await self._control.depth(self._names.lane(name, lane)) for lane in range(lanes)]
            there = [depth for depth in depths if depth is not None]
            return sum(d.ready for d in there), await self._members.count(str(source))
        queue = await self._control.depth(name)
        trial = await self._control.depth(self._names.trial(name))
        ready = sum(d.ready for d in (queue, trial) if d is not None)
        return ready, queue.consumers if queue is not None else 0

    async def _one(
        self, source: Source, ready: int, consumers: int, holdings: Sequence[Holding], unknown: int, silent: int
    ) -> SourceStats:
        dead = await self._control.depth(self._names.dead(self._names.queue(source)))
        due = [holding.next_retry for holding in holdings if holding.next_retry is not None]
        return SourceStats(
            source=str(source),
            ready=ready,
            delayed=None,
            retrying=sum(holding.retrying for holding in holdings) + unknown,
            next_retry=min(due, default=None),
            leased=sum(holding.held for holding in holdings) + silent,  # Who does not say holds one at least.
            dead=(dead.ready if dead is not None else 0) + self._sweeper.held(source),
            oldest=None,
            consumers=consumers,
            size=None,
        )
