"""The limit: aiormq alone, its channel as fast as it goes. Everything is encoded beforehand; handlers do nothing.

Publishing does not wait for each frame to be written (``wait=False``: several times faster), only for the confirmation.
Consuming acknowledges every fifty with one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import msgspec
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from ..measure import Measured, Meter, Setting
from ..workload import body, run
from .counting import Count

QUEUE = "raw"
QUORUM = {"x-queue-type": "quorum"}
PREFETCH = 1000
ACKNOWLEDGE = 50
PUBLISHED = 20_000
CONSUMED = 30_000


def publish_100(setting: Setting) -> Measured:
    """A hundred in flight."""
    return run(_publish(setting.url, setting.count(PUBLISHED), 100))


def publish_1000(setting: Setting) -> Measured:
    """A thousand in flight."""
    return run(_publish(setting.url, setting.count(PUBLISHED), 1000))


def consume(setting: Setting) -> Measured:
    """From a queue that is full."""
    return run(_consume(setting.url, setting.count(CONSUMED)))


async def _publish(url: str, count: int, in_flight: int) -> Measured:
    async with channel(url) as open_channel:
        await open_channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
        await store(open_channel, QUEUE, 1000, in_flight)
        meter = Meter()
        await store(open_channel, QUEUE, count, in_flight)
        return meter.rate(count)


async def _consume(url: str, count: int) -> Measured:
    await fill(url, QUEUE, count)
    counted = Count(count)
    async with channel(url) as open_channel:
        await open_channel.basic_qos(prefetch_count=PREFETCH)

        async def handle(message: DeliveredMessage) -> None:
            counted.one()
            assert message.delivery_tag is not None
            if counted.handled % ACKNOWLEDGE == 0 or counted.handled == count:
                await open_channel.basic_ack(message.delivery_tag, multiple=True, wait=False)

        await open_channel.basic_consume(QUEUE, handle)
        measured = await counted.ended()
        await asyncio.sleep(0.2)
    await demand_empty(url, QUEUE)
    return measured


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[Any]:
    """A channel with confirmations, on a connection of its own."""
    connection = await aiormq.connect(url)
    try:
        yield await connection.channel(publisher_confirms=True)
    finally:
        await connection.close()


async def fill(url: str, queue: str, count: int) -> None:
    """Declares a quorum queue and stores plain JSON in it."""
    async with channel(url) as open_channel:
        await open_channel.queue_declare(queue, durable=True, arguments=QUORUM)
        await store(open_channel, queue, count, 1000)


async def store(open_channel: Any, queue: str, count: int, in_flight: int) -> None:
    """Publishes, each confirmed, this many at once."""
    bodies = iter([msgspec.json.encode(body(number)) for number in range(count)])

    async def one() -> None:
        for encoded in bodies:
            properties = Basic.Properties(delivery_mode=2, content_type="application/json")
            await open_channel.basic_publish(
                encoded, routing_key=queue, properties=properties, mandatory=True, wait=False
            )

    await asyncio.gather(*(one() for _ in range(in_flight)))


async def demand_empty(url: str, queue: str) -> None:
    """Demands that everything was acknowledged: a consumer that did not is no measurement.

    Raises:
        RuntimeError: Messages came back.
    """
    async with channel(url) as open_channel:
        for _ in range(50):
            left = (await open_channel.queue_declare(queue, passive=True)).message_count
            if not left:
                return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{left} messages of {queue} were not acknowledged: this is no measurement")
