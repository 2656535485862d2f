"""The engine for RabbitMQ: two connections, a loop of its own, and the parts that work on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from ...channels import Queue, Topic
from ...clock import Clock
from ...engine import Admin, Change, Channel, Consumer, Lost, Outgoing, Stored, Subscription
from ...errors import Closed, ConfigError
from ...features import Features
from ..sideloop import SideLoop
from .address import parse
from .admin import RabbitAdmin
from .consumer import RabbitConsumer
from .features import FEATURES
from .names import Names
from .works import Works

if TYPE_CHECKING:
    from .. import RabbitMQ


class RabbitEngine:
    """The engine for ``amqp://`` and ``amqps://``."""

    def __init__(self, url: str, settings: RabbitMQ, *, app: str, clock: Clock, random: Random) -> None:
        self._address = parse(url, app)
        self._names = Names(settings.prefix, _own_names(settings))
        self._clock = clock
        self._random = random
        self._side: SideLoop | None = None
        self._works: Works | None = None
        self._process = 0
        self._consumers: set[RabbitConsumer] = set()
        self._admin = RabbitAdmin(self._running, lambda: self._open().tools)

    @property
    def features(self) -> Features:
        return FEATURES

    @property
    def admin(self) -> Admin:
        return self._admin

    async def open(self, deadline: float) -> None:
        if self._side is not None:
            raise Closed("the engine was opened before: make a new one")
        self._side = side = SideLoop(f"telex rabbitmq {self._address.place}")
        self._process = os.getpid()
        side.start()
        try:
            self._works = await side.run(self._begin(deadline - self._clock.monotonic()))
        except BaseException:
            await side.stop()
            raise

    async def _begin(self, wait: float) -> Works:
        works = Works(self._address, self._names, self._clock, self._random)
        try:
            await works.open(asyncio.get_running_loop().time() + wait)
        except BaseException:
            await works.close(0.5)
            raise
        return works

    async def plan(self, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        return await self._running().run(self._open().declarer.plan(channels, subscriptions))

    async def apply(self, changes: Sequence[Change]) -> None:
        await self._running().run(self._open().declarer.apply(changes))

    async def lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        return await self._running().run(self._lookup(names))

    async def _lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        catalog = self._open().catalog
        await catalog.sync()
        return [catalog.channel(name) for name in names]

    def problems(self) -> Sequence[str]:
        works = self._works
        return works.problems() if works is not None else []

    async def publish(self, batch: Sequence[Outgoing], deadline: float) -> Sequence[tuple[Stored, Exception | None]]:
        works = self._open()
        return await self._running().run(works.publish(batch, deadline - self._clock.monotonic()))

    async def consume(self, subscription: Subscription, lost: Lost) -> Consumer:
        works, side = self._open(), self._running()
        consumer = await works.consumer(side, subscription, lost, self._consumers.discard)
        self._consumers.add(consumer)
        return consumer

    async def close(self, deadline: float) -> None:
        side, self._side = self._side, None
        works, self._works = self._works, None
        if side is None or works is None or self._process != os.getpid():
            return
        self._side, self._works = side, works
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.1, deadline - self._clock.monotonic())):
                    await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
            await side.run(works.close(max(0.1, deadline - self._clock.monotonic())))
        finally:
            self._side = self._works = None
            await side.stop()

    # -- parts ------------------------------------------------------------------------------------------------------

    def _open(self) -> Works:
        if self._works is None:
            raise Closed("the engine is not open")
        if self._process != os.getpid():
            raise Closed("the engine was opened before this process was forked: open the application in the child")
        return self._works

    def _running(self) -> SideLoop:
        self._open()
        assert self._side is not None
        return self._side


def _own_names(settings: RabbitMQ) -> Mapping[str, str]:
    """Names that channels were given, by channel.

    Raises:
        ConfigError: Two channels have the same.
    """
    own: dict[str, str] = {}
    for channel, setting in settings.channels.items():
        name = channel.name if isinstance(channel, Topic | Queue) else str(channel)
        if setting.name is not None:
            own[name] = setting.name
    if len(set(own.values())) < len(own):
        raise ConfigError("RabbitMQ(channels=…): two channels have the same name on the broker")
    return own
