"""What stands on the broker for each channel and source, and making it. Nothing is ever altered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from ...engine import Channel, ChannelKind, Source, SourceKind
from .control import Control, Differs
from .names import LANE_HEADER, Names
from .versions import HIGH, Gates


class Queue(msgspec.Struct, frozen=True):
    """A queue to be."""

    name: str
    arguments: Mapping[str, Any]


class Exchange(msgspec.Struct, frozen=True):
    """An exchange to be."""

    name: str
    kind: str
    arguments: Mapping[str, Any] = {}


class Binding(msgspec.Struct, frozen=True):
    """A queue behind an exchange to be; or an exchange behind one."""

    to: str
    exchange: str
    key: str = ""
    arguments: Mapping[str, Any] = {}
    between_exchanges: bool = False


class Parts(msgspec.Struct, frozen=True):
    """Things in the order of their making; bindings last, so that nothing flows before all is there."""

    queues: Sequence[Queue] = ()
    exchanges: Sequence[Exchange] = ()
    bindings: Sequence[Binding] = ()


class Topology:
    """Knows what a channel or a source consists of."""

    def __init__(self, names: Names, control: Control) -> None:
        self._names = names
        self._control = control
        self._base_made = False

    def base(self) -> Parts:
        """What all share."""
        names = self._names
        stray = names.stray
        return Parts(
            queues=[Queue(stray, {"x-queue-type": "quorum"})],
            exchanges=[
                Exchange(stray, "fanout"),
                Exchange(names.due, "direct", {"alternate-exchange": stray}),
                Exchange(names.topics, "topic"),
                Exchange(names.members, "fanout"),
            ],
            bindings=[Binding(stray, stray)],
        )

    def channel(self, channel: Channel) -> Parts:
        """What a channel needs besides the sources on it."""
        if channel.kind is not ChannelKind.TOPIC:
            return Parts()
        if channel.history is None:
            return Parts()
        name = self._names.history(channel.name)
        seconds = max(1, round(channel.history / timedelta(seconds=1)))
        return Parts(
            queues=[Queue(name, {"x-queue-type": "stream", "x-max-age": f"{seconds}s"})],
            bindings=[Binding(name, self._names.topics, self._names.routing_key(channel.name))],
        )

    def source(self, source: Source, lanes: int, gates: Gates) -> Parts:
        """What a source needs."""
        name = self._names.queue(source)
        if source.ordered:
            return self._ordered(source, name, lanes, gates)
        trial = self._names.trial(name)
        bindings = [Binding(queue, self._names.due, queue) for queue in (name, trial)]
        if source.kind is SourceKind.GROUP:
            bindings.append(Binding(name, self._names.topics, self._names.routing_key(source.channel)))
        return Parts(
            queues=[self._dead(name, gates), Queue(trial, self._work(name)), Queue(name, self._work(name))],
            bindings=bindings,
        )

    def _ordered(self, source: Source, name: str, lanes: int, gates: Gates) -> Parts:
        names = self._names
        rest = names.rest(name)
        queues = [self._dead(name, gates)]
        bindings: list[Binding] = []
        for lane in range(lanes):
            queue = names.lane(name, lane)
            queues.append(Queue(names.state(name, lane), {**self._looked_at(gates), "x-max-length": 1}))
            queues.append(Queue(queue, {**self._work(name), "x-single-active-consumer": True}))
            bindings.append(Binding(queue, name, "", {"x-match": "all", LANE_HEADER: str(lane)}))
            bindings.append(Binding(queue, names.due, queue))
        bindings.append(Binding(names.lane(name, 0), rest))
        if source.kind is SourceKind.GROUP:
            key = names.routing_key(source.channel)
            bindings.append(Binding(name, names.topics, key, between_exchanges=True))
        exchanges = [Exchange(rest, "fanout"), Exchange(name, "headers", {"alternate-exchange": rest})]
        return Parts(queues=queues, exchanges=exchanges, bindings=bindings)

    def _work(self, name: str) -> dict[str, Any]:
        """Of a queue that is worked on. What the broker itself gives up on goes to the dead letters as well."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": HIGH,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._names.dead(name),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    def _dead(self, name: str, gates: Gates) -> Queue:
        return Queue(self._names.dead(name), self._looked_at(gates))

    @staticmethod
    def _looked_at(gates: Gates) -> dict[str, Any]:
        """Of a queue whose messages are taken and put back."""
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if gates.dead_limit is not None:
            arguments["x-delivery-limit"] = gates.dead_limit
        return arguments

    def forget(self) -> None:
        """A new connection: what all share may be gone."""
        self._base_made = False

    # -- looking and making -----------------------------------------------------------------------------------------

    async def missing(self, parts: Parts) -> list[str]:
        """Queues and exchanges that are not there. Bindings cannot be read over this protocol."""
        found = [queue.name for queue in parts.queues if await self._control.depth(queue.name) is None]
        found += [made.name for made in parts.exchanges if not await self._control.has_exchange(made.name)]
        return found

    async def difference(self, parts: Parts, missing: Sequence[str]) -> str:
        """How a queue that is there differs from what it shall be; empty if none does.

        The only way to learn a queue's arguments is to declare it; one that is there is not changed by that.
        """
        for queue in parts.queues:
            if queue.name not in missing:
                try:
                    await self._control.queue(queue.name, queue.arguments)
                except Differs as error:
                    return str(error)
        return ""

    async def make(self, parts: Parts) -> None:
        """Makes what is not there.

        Raises:
            Differs: Something is there and different.
            AccessDenied: The user may not.
        """
        if not self._base_made:
            self._base_made = True
            try:
                await self._make(self.base())
            except BaseException:
                self._base_made = False
                raise
        await self._make(parts)

    async def _make(self, parts: Parts) -> None:
        control = self._control
        for queue in parts.queues:
            await control.queue(queue.name, queue.arguments)
        for exchange in parts.exchanges:
            await control.exchange(exchange.name, exchange.kind, exchange.arguments)
        for binding in parts.bindings:
            if binding.between_exchanges:
                await control.bind_exchange(binding.to, binding.exchange, binding.key)
            else:
                await control.bind(binding.to, binding.exchange, binding.key, binding.arguments)

    async def unmake(self, parts: Parts) -> None:
        """Deletes what is there of these, with all that it holds: from the front, so that nothing new comes in."""
        for exchange in reversed(parts.exchanges):
            await self._control.delete_exchange(exchange.name)
        for queue in reversed(parts.queues):
            await self._control.delete_queue(queue.name)
