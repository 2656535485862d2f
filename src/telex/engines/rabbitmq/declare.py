"""Plan and apply: what declaring would make, and making it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import msgspec

from ...engine import Change, Channel, ChannelKind, Source, SourceKind, Status, Subscription
from ...errors import AccessDenied, ConfigError, Unsupported
from ...names import is_pattern
from .catalog import Catalog, ChannelRecord, Record, SourceRecord
from .control import Differs
from .topology import Parts, Topology
from .versions import Gates

ENGINE = "rabbitmq"


class Making(msgspec.Struct, frozen=True):
    """What a change makes.

    Attributes:
        channel: A channel to record.
        source: A source to record.
        parts: What it needs on the broker.
    """

    channel: ChannelRecord | None = None
    source: SourceRecord | None = None
    parts: Sequence[Parts] = ()


Fill = Callable[[Source, str], Awaitable[None]]


class Declarer:
    """Plans and applies.

    Args:
        gates: What the version decides, of the last connection.
        fill: Copies what was published before into a new source; from an instant in ISO form, or ``all``.
    """

    def __init__(self, topology: Topology, catalog: Catalog, gates: Callable[[], Gates], fill: Fill) -> None:
        self._topology = topology
        self._catalog = catalog
        self._gates = gates
        self._fill = fill

    async def plan(self, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        """What declaring these would do.

        Raises:
            ExceptionGroup: Of `Unsupported` for sources that cannot begin where they shall.
        """
        await self._catalog.sync()
        changes: list[Change] = []
        declared = {channel.name: channel for channel in channels}
        for channel in channels:
            changes += await self._channel(channel)
        for subscription in subscriptions:
            source = subscription.source
            if source.kind is SourceKind.QUEUE:
                if source.channel not in declared:
                    changes += await self._channel(Channel(source.channel, ChannelKind.QUEUE, source.ordered))
            elif source.kind is SourceKind.GROUP:
                changes += await self._group(subscription, declared)
        self._check_starts(subscriptions, declared)
        return changes

    def _check_starts(self, subscriptions: Sequence[Subscription], declared: dict[str, Channel]) -> None:
        errors = [
            error
            for subscription in subscriptions
            if subscription.start != "new" and str(subscription.source) not in self._catalog.sources
            for error in [self._refused(subscription.source, declared)]
            if error is not None
        ]
        if errors:
            raise ExceptionGroup("this broker cannot begin these groups where they shall", errors)

    def _refused(self, source: Source, declared: dict[str, Channel]) -> Unsupported | None:
        """Why a new group cannot begin with the past."""
        if source.ordered:
            because = f"what {source} is given from its past would not be in order with what is published now"
            return Unsupported("start_all", ENGINE, because, "subscribe with ordered=False, or begin with start='new'")
        channel = declared.get(source.channel) or self._catalog.channel(source.channel)
        if is_pattern(source.channel) or channel is None or channel.history is None:
            because = f"{source.channel} keeps nothing that is settled"
            return Unsupported(
                "start_all", ENGINE, because, "declare the topic with history=…, and subscribe to it by name"
            )
        return None

    # -- channels ---------------------------------------------------------------------------------------------------

    async def _channel(self, channel: Channel) -> list[Change]:
        what = f"{channel.kind.value} {channel.name}"
        known = self._catalog.channels.get(channel.name)
        if known is not None and (difference := _difference(known, channel)):
            return [Change(Status.DIFFERS, what, difference)]
        record = ChannelRecord(
            channel.name,
            channel.kind,
            channel.ordered,
            channel.lanes,
            None if channel.history is None else channel.history.total_seconds(),
        )
        parts = [self._topology.base(), self._topology.channel(channel)]
        source = None
        if channel.kind is not ChannelKind.TOPIC:
            own = Source(channel.name, SourceKind.QUEUE, None, channel.ordered)
            parts.append(self._topology.source(own, channel.lanes, self._gates()))
            source = SourceRecord(channel.name, SourceKind.QUEUE, None, channel.ordered, channel.lanes)
        return await self._change(what, known is not None, Making(record, source, parts))

    async def _group(self, subscription: Subscription, declared: dict[str, Channel]) -> list[Change]:
        source = subscription.source
        what = f"group {source}"
        channel = declared.get(source.channel) or self._catalog.channel(source.channel)
        lanes = channel.lanes if channel is not None and source.ordered else 1
        known = self._catalog.sources.get(str(source))
        if known is not None and (known.ordered, known.lanes) != (source.ordered, lanes):
            was = f"ordered with {known.lanes} lanes" if known.ordered else "unordered"
            return [Change(Status.DIFFERS, what, f"it is {was}")]
        start = subscription.start
        filling = start.isoformat() if isinstance(start, datetime) else (None if start == "new" else start)
        record = SourceRecord(source.channel, source.kind, source.group, source.ordered, lanes, filling)
        parts = [self._topology.base(), self._topology.source(source, lanes, self._gates())]
        done = known is not None and known.filling is None
        if known is not None:
            record = known
        return await self._change(what, done, Making(None, record, parts))

    async def _change(self, what: str, known: bool, making: Making) -> list[Change]:
        missing: list[str] = []
        try:
            for parts in making.parts:
                missing += await self._topology.missing(parts)
            if not known:
                for parts in making.parts:
                    if difference := await self._topology.difference(parts, missing):
                        return [Change(Status.DIFFERS, what, f"{difference}; RabbitMQ(prefix=…) keeps names apart")]
        except AccessDenied as error:
            return [Change(Status.UNKNOWN, what, str(error))]
        if known and not missing:
            return []
        because = f"{', '.join(missing)} is not there" if known else ""
        return [Change(Status.CREATE, what, because, making)]

    # -- apply ------------------------------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> None:
        """Makes what is to be made.

        Raises:
            ConfigError: Something of that name is there, and different.
            AccessDenied: The user may not.
        """
        makings = [c.apply for c in changes if c.status is Status.CREATE and isinstance(c.apply, Making)]
        if not makings:
            return
        for change in changes:
            making = change.apply
            if change.status is not Status.CREATE or not isinstance(making, Making):
                continue
            try:
                for parts in making.parts:
                    await self._topology.make(parts)
            except Differs as error:
                raise ConfigError(
                    f"{change.what}: the broker has something of that name that was made differently ({error}): "
                    "give this application a prefix, RabbitMQ(prefix=…), or the channel another name"
                ) from None
        records = [Record(channel=m.channel) for m in makings if m.channel is not None]
        records += [Record(source=m.source) for m in makings if m.source is not None]
        await self._catalog.write(records)
        for making in makings:
            if making.source is not None and making.source.filling is not None:
                await self._fill(making.source.source, making.source.filling)
                await self._catalog.write([Record(source=msgspec.structs.replace(making.source, filling=None))])

    async def remake(self, source: Source) -> None:
        """Makes again what is missing of a source that exists.

        Raises:
            AccessDenied: The user may not.
            Differs: Something of that name is there, and different.
        """
        record = self._catalog.sources.get(str(source))
        if record is not None:
            await self._topology.make(self._topology.source(source, record.lanes, self._gates()))


def _difference(known: ChannelRecord, wanted: Channel) -> str:
    if known.kind is not wanted.kind:
        return f"it is a {known.kind.value}"
    if (known.ordered, known.lanes) != (wanted.ordered, wanted.lanes):
        return f"it is ordered with {known.lanes} lanes" if known.ordered else "it is unordered"
    history = None if wanted.history is None else wanted.history.total_seconds()
    if history is not None and known.history is not None and known.history != history:
        return f"it keeps its history for {known.history:g} s"
    return ""
