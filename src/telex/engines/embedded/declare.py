"""Declaring channels and sources: what would have to be made, and making it."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from ...engine import Change, Channel, Source, SourceKind, Start, Status, Subscription
from ...errors import ConfigError
from . import topology
from .topology import Topology

KEPT = (SourceKind.QUEUE, SourceKind.GROUP)


def plan(known: Topology, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> list[Change]:
    """What declaring these would do."""
    changes = [change for channel in channels if (change := _channel(known, channel)) is not None]
    declared = {channel.name: channel for channel in channels}
    for subscription in subscriptions:
        if subscription.source.kind in KEPT:
            change = _source(known, declared, subscription)
            if change is not None:
                changes.append(change)
    return changes


def apply(db: apsw.Connection, known: Topology, changes: Sequence[Change]) -> None:
    """Creates what a plan said to create, unless somebody else did meanwhile."""
    for change in changes:
        if change.status is not Status.CREATE:
            continue
        what = change.apply
        if isinstance(what, Channel):
            if what.name not in known.channels:
                topology.create_channel(db, what)
        elif isinstance(what, Subscription) and known.source(what.source) is None:
            topology.create_source(db, what.source, what.start)
        known.refresh(db)


def ensure_source(db: apsw.Connection, known: Topology, source: Source, start: Start) -> int:
    """The id of a source; a group that does not exist yet is made.

    Raises:
        ConfigError: A queue does not exist, or the source exists differently.
    """
    row = known.source(source)
    if row is not None:
        if row.source.ordered != source.ordered:
            raise ConfigError(f"{source} exists with ordered={row.source.ordered}: consume it like that")
        return row.id
    if source.kind is SourceKind.QUEUE:
        raise ConfigError(f"there is no queue or procedure {source.channel}: declare it first")
    id = topology.create_source(db, source, start)
    known.refresh(db)
    return id


def _channel(known: Topology, channel: Channel) -> Change | None:
    what = f"{channel.kind.value} {channel.name}"
    row = known.channels.get(channel.name)
    if row is None:
        return Change(Status.CREATE, what, "it does not exist", channel)
    there = row.channel
    for name in ("kind", "ordered", "lanes", "history"):
        is_, wanted = getattr(there, name), getattr(channel, name)
        if is_ != wanted:
            return Change(Status.DIFFERS, what, f"{name} is {_text(is_)} and should be {_text(wanted)}")
    return None


def _source(known: Topology, declared: dict[str, Channel], subscription: Subscription) -> Change | None:
    source = subscription.source
    what = f"group {source.group} of {source.channel}" if source.group else f"queue {source.channel}"
    row = known.source(source)
    if row is None:
        if source.kind is SourceKind.QUEUE:
            if source.channel in declared:
                return None  # It comes with its channel.
            return Change(Status.UNKNOWN, what, "its channel is not declared")
        return Change(Status.CREATE, what, "it does not exist", subscription)
    if row.source.ordered != source.ordered:
        return Change(Status.DIFFERS, what, f"ordered is {row.source.ordered} and should be {source.ordered}")
    return None


def _text(value: object) -> str:
    return str(getattr(value, "value", value))
