"""A process that consumes one unordered source: the real parts, on the scripted broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from random import Random
from typing import cast

from pamqp.commands import Basic
from pamqp.common import FieldTable

from telex.engine import Decision, Fetched, Settled, Settlement
from telex.engines.rabbitmq import table
from telex.engines.rabbitmq.address import parse
from telex.engines.rabbitmq.catalog import Catalog
from telex.engines.rabbitmq.codec import Reader as Decoder
from telex.engines.rabbitmq.control import Control
from telex.engines.rabbitmq.ladder import Ladder
from telex.engines.rabbitmq.leases import Lease, Spared
from telex.engines.rabbitmq.line import Line
from telex.engines.rabbitmq.names import Names
from telex.engines.rabbitmq.outbound import Outbound
from telex.engines.rabbitmq.publisher import CHANNEL, Posting, Publisher
from telex.engines.rabbitmq.reader import SourceReader
from telex.engines.rabbitmq.settling import Settling
from telex.engines.rabbitmq.suspects import Suspects
from telex.engines.rabbitmq.trials import Trials
from telex.engines.rabbitmq.waiting import Waiting
from telex.engines.rabbitmq.wire import content_frames

from .scripted import Broker, Stored

WORK, TRIAL, DEAD = "work", "work:trial", "work:dead"
SOME = 10
"""Deliveries that are waited for."""


def message(id: str, *, trial: int | None = None, returns: int = 0) -> Stored:
    """A message of the source; a suspect, if it was on trial so often in vain."""
    headers: FieldTable = {"telex-time": 1_700_000_000_000_000, "telex-channel": WORK}
    if trial is not None:
        headers |= {"telex-losses": 2, "telex-trial": trial}
    return Stored(Basic.Properties(message_id=id, headers=headers), b"x", returns)


def posting(id: str, exchange: str, key: str = "") -> Posting:
    """A message to be published."""
    content = content_frames(CHANNEL, table.header(1, {table.MESSAGE_ID: table.short(id.encode())}), b"x", 131072)
    return Posting(exchange, key, id, content)


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


async def until(true: Callable[[], object], seconds: float = 5) -> None:
    """Waits for other tasks; a `TimeoutError` if it does not come true."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - other tasks set nothing that could be awaited.
            await asyncio.sleep(0.002)


class Process:
    """The parts.

    Attributes:
        wanted: Whether the application waits for suspects.
        given: What it was given and has not taken.
    """

    def __init__(self, scene: Scene, number: int) -> None:
        self._scene = scene
        self.wanted = True
        self.given: list[Fetched] = []
        address, names, random = parse(scene.broker.url, "test"), Names("", {}), Random(number)
        self.consuming, self.publishing = Line("consuming", address, random), Line("publishing", address, random)
        self.control = Control(self.consuming)
        self.publisher = Publisher(self.publishing, self.control)
        self.spared, self.trials = Spared(), Trials()
        self._decoder = Decoder(names, WORK, random, now)
        ladder = Ladder("retry", 1, 1, names, self.control)
        outbound = Outbound(names, cast(Catalog, None), ladder, ladder, now, 2**24)
        self._settling = Settling(WORK, WORK, TRIAL, outbound, self.publisher, Waiting(now), self.spared, now, random)
        self.reader = SourceReader(
            source=WORK,
            queue=WORK,
            decoder=self._decoder,
            settling=self._settling,
            spared=self.spared,
            suspects=self._make_suspects,
            window=1000,
            hold=None,
            give=self._give,
            tell=lambda lost: None,
            control=self.control,
            remake=self._remake,
        )

    def _make_suspects(self, reader: SourceReader) -> Suspects:
        self.suspects = Suspects(
            queue=TRIAL,
            decoder=self._decoder,
            settling=self._settling,
            trials=self.trials,
            spared=self.spared,
            lost=self._scene.spared,
            counted=reader.counted,
            wanted=lambda: self.wanted,
            give=reader.give,
            over=reader.lose,
            control=self.control,
        )
        return self.suspects

    def _give(self, fetched: Sequence[Fetched]) -> None:
        for one in fetched:
            cast(Lease, one.lease).fetched = True
        self.given += fetched

    async def _remake(self) -> None: ...

    async def open(self) -> None:
        """Connects and consumes."""
        deadline = asyncio.get_running_loop().time() + 5
        await self.consuming.open(deadline)
        await self.publishing.open(deadline)
        await self.consuming.add(self.control)
        await self.publishing.add(self.publisher)
        await self.consuming.add(self.reader)

    async def close(self) -> None:
        """Ends; idempotent."""
        await self.consuming.close()
        await self.publishing.close()
        await self.reader.close()
        await self.publisher.close()
        self.trials.close()

    async def kill(self) -> None:
        """It is gone, and nobody can ask it what it had."""
        self._scene.living.remove(self)
        for line in (self.consuming, self.publishing):
            if line.link is not None:
                line.link.drop("killed")
            await line.close()
        await self.close()

    async def next(self) -> Fetched:
        """What it is given next."""
        await until(lambda: self.given)
        return self.given.pop(0)

    async def settle(self, fetched: Fetched, decision: Decision = Decision.ACCEPT) -> Settled:
        """Settles one delivery."""
        return (await self.reader.carry_out([Settlement(fetched.lease, decision, reason="crashed")]))[0]

    async def broken(self) -> None:
        """Returns when all its parts know that the connection for consuming is gone."""
        await until(lambda: self.consuming.link is None and self.consuming.problem)

    async def connected(self) -> None:
        """Returns when it has both connections again."""
        await until(lambda: self.consuming.link is not None and self.publishing.link is not None)


class Scene:
    """A broker and the processes that are connected to it.

    Attributes:
        living: Those that can be asked.
    """

    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self.broker = broker
        self._stack = stack
        self.living: list[Process] = []

    async def process(self, *, wanted: bool = True) -> Process:
        """Starts one."""
        process = Process(self, len(self.living))
        self.living.append(process)
        process.wanted = wanted
        self._stack.push_async_callback(process.close)
        await process.open()
        return process

    async def spared(self, copy: str) -> frozenset[int]:
        """What those that live have lost of a copy without dying of it."""
        await asyncio.sleep(0)
        return frozenset().union(*(process.spared.lost(copy) for process in self.living))


def play(test: Callable[[Scene], Awaitable[None]], seconds: float = 15) -> None:
    """Runs a test that must end in time."""

    async def main() -> None:
        async with asyncio.timeout(seconds), AsyncExitStack() as stack:
            broker = await stack.enter_async_context(Broker(WORK, TRIAL, DEAD))
            await test(Scene(broker, stack))

    asyncio.run(main())
