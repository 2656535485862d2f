"""What operators need, on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from ...engine import Browsed, Decide, Source, SourceKind, SourceStats, Swept
from ...errors import Unsupported
from ..sideloop import SideLoop
from .catalog import Catalog, Record
from .control import Control
from .declare import ENGINE
from .history import History
from .names import Names
from .stats import Statistics
from .sweep import Sweeper
from .topology import Parts, Topology
from .versions import Gates


class Tools:
    """What the admin works with, on the engine's loop; made when the engine opens."""

    def __init__(
        self,
        names: Names,
        catalog: Catalog,
        control: Control,
        topology: Topology,
        statistics: Statistics,
        sweeper: Sweeper,
        history: History,
        gates: Callable[[], Gates],
    ) -> None:
        self.names = names
        self.catalog = catalog
        self.control = control
        self.topology = topology
        self.statistics = statistics
        self.sweeper = sweeper
        self.history = history
        self.gates = gates

    async def sources(self) -> Sequence[Source]:
        """All sources."""
        await self.catalog.sync()
        return [record.source for record in self.catalog.sources.values()]

    def known(self, source: Source) -> Source:
        """The source as it was declared: who asks need not know whether it is ordered."""
        record = self.catalog.sources.get(str(source))
        return record.source if record is not None else source

    async def stats(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        """How they stand."""
        return await self.statistics.of([self.known(source) for source in sources])

    async def purge(self, source: Source) -> int:
        """Drops what is ready."""
        source = self.known(source)
        return sum([await self.control.purge(queue) for queue in self._work(source)])

    def _work(self, source: Source) -> list[str]:
        name = self.names.queue(source)
        record = self.catalog.sources.get(str(source))
        if source.ordered:
            return [self.names.lane(name, lane) for lane in range(record.lanes if record is not None else 1)]
        return [name, self.names.trial(name)]

    async def remove(self, source: Source) -> None:
        """Ends a source, with all that it holds."""
        await self.catalog.sync()
        source = self.known(source)
        record = self.catalog.sources.get(str(source))
        lanes = record.lanes if record is not None else 1
        parts: Parts = self.topology.source(source, lanes, self.gates())
        await self.topology.unmake(parts)
        gone_channel = source.channel if source.kind is SourceKind.QUEUE else None
        await self.catalog.write([Record(gone_source=str(source), gone_channel=gone_channel)])


class RabbitAdmin:
    """The `Admin` of a broker.

    Args:
        side: The engine's loop.
        tools: Of an open engine.
    """

    def __init__(self, side: Callable[[], SideLoop], tools: Callable[[], Tools]) -> None:
        self._side = side
        self._tools = tools

    async def sources(self) -> Sequence[Source]:
        return await self._side().run(self._tools().sources())

    async def stats(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        return await self._side().run(self._tools().stats(sources))

    async def sweep(self, source: Source, decide: Decide, after: str | None, limit: int, hold: float) -> Swept:
        """At most 2,000 letters can be looked at in one go; who sweeps on within ``hold`` seconds sees the next."""
        tools = self._tools()
        return await self._side().run(tools.sweeper.sweep(tools.known(source), decide, after, limit, hold))

    async def replay(
        self, source: Source, since: datetime, until: datetime, token: str | None, dry_run: bool
    ) -> tuple[int, str | None]:
        """From the streams of the topics that keep a history.

        Raises:
            Unsupported: The topic keeps none.
        """
        tools = self._tools()
        return await self._side().run(tools.history.replay(tools.known(source), since, until, token, dry_run))

    async def browse(self, channel: str, since: datetime | None, limit: int, after: str | None = None) -> Browsed:
        """Always refuses.

        Raises:
            Unsupported: A queue of RabbitMQ can only be taken from.
        """
        raise Unsupported("browse", ENGINE, *NO_BROWSING)

    async def purge(self, source: Source) -> int | None:
        return await self._side().run(self._tools().purge(source))

    async def remove(self, source: Source) -> None:
        await self._side().run(self._tools().remove(source))

    async def backup(self, path: str) -> int:
        """Always refuses.

        Raises:
            Unsupported: A broker is backed up by its own tools.
        """
        raise Unsupported(
            "backup", ENGINE, "messages live on the broker", "copy definitions with rabbitmqctl export_definitions"
        )


NO_BROWSING = (
    "a message in a queue can only be taken, not looked at",
    "declare the topic with history=… and replay it to a group, or look at dead letters",
)
