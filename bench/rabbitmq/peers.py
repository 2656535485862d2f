"""The peers, each in the way that suits it best: durable quorum queues, confirmations, acknowledged after the handler.

Celery and Dramatiq publish one after another, which is all their faces offer, and run handlers in threads.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import aio_pika

from ..measure import Measured, Meter, Setting
from ..processes import ROOT
from ..workload import body, run
from .counting import PATIENCE, Count
from .raw import CONSUMED, PREFETCH, PUBLISHED, QUORUM, demand_empty, fill

SLOW = 3000
"""Messages of the peers that are slower by far."""
QUEUE = "peer"
Publish = Callable[[int], Coroutine[Any, Any, object]]


def aio_pika_publish_100(setting: Setting) -> Measured:
    """aio-pika, a hundred in flight."""
    return run(_aio_pika_publish(setting.url, setting.count(PUBLISHED // 2), 100))


def aio_pika_publish_1000(setting: Setting) -> Measured:
    """aio-pika, a thousand in flight."""
    return run(_aio_pika_publish(setting.url, setting.count(PUBLISHED // 2), 1000))


async def _aio_pika_publish(url: str, count: int, in_flight: int) -> Measured:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.declare_queue(QUEUE, durable=True, arguments=dict(QUORUM))

        async def one(number: int) -> object:
            message = aio_pika.Message(
                json.dumps(body(number)).encode(),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            return await channel.default_exchange.publish(message, routing_key=QUEUE, mandatory=True)

        return await _published(one, count, in_flight)


def aio_pika_consume(setting: Setting) -> Measured:
    """aio-pika, ``message.process`` around an async handler."""
    return run(_aio_pika_consume(setting.url, setting.count(CONSUMED)))


async def _aio_pika_consume(url: str, count: int) -> Measured:
    await fill(url, QUEUE, count)
    counted = Count(count)
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(QUEUE)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                json.loads(message.body)
                counted.one()

        await queue.consume(handle)
        measured = await counted.ended()
        await asyncio.sleep(0.5)
    await demand_empty(url, QUEUE)
    return measured


def faststream_publish_100(setting: Setting) -> Measured:
    """FastStream, a hundred in flight."""
    return run(_faststream_publish(setting.url, setting.count(PUBLISHED // 2), 100))


def faststream_publish_1000(setting: Setting) -> Measured:
    """FastStream, a thousand in flight."""
    return run(_faststream_publish(setting.url, setting.count(PUBLISHED // 2), 1000))


async def _faststream_publish(url: str, count: int, in_flight: int) -> Measured:
    from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue

    queue = RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True)
    async with RabbitBroker(url, logger=None) as broker:
        await broker.declare_queue(queue)

        async def one(number: int) -> object:
            return await broker.publish(body(number), queue=queue, persist=True, mandatory=True)

        return await _published(one, count, in_flight)


def faststream_consume(setting: Setting) -> Measured:
    """FastStream, an async handler of a dict."""
    return run(_faststream_consume(setting.url, setting.count(CONSUMED // 2)))


async def _faststream_consume(url: str, count: int) -> Measured:
    from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

    await fill(url, QUEUE, count)
    counted = Count(count)
    broker = RabbitBroker(url, default_channel=Channel(prefetch_count=PREFETCH), logger=None)

    @broker.subscriber(RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True))
    async def handle(message: dict[str, Any]) -> None:
        counted.one()

    async with broker:
        await broker.start()
        measured = await counted.ended()
        await asyncio.sleep(0.5)
    await demand_empty(url, QUEUE)
    return measured


async def _published(one: Publish, count: int, in_flight: int) -> Measured:
    """Publishes, each awaited, this many at once."""

    async def many(numbers: range) -> None:
        left = iter(numbers)

        async def publisher() -> None:
            for number in left:
                await one(number)

        await asyncio.gather(*(publisher() for _ in range(in_flight)))

    await many(range(1000))
    meter = Meter()
    await many(range(count))
    return meter.rate(count)


def dramatiq_publish(setting: Setting) -> Measured:
    """Dramatiq with ``confirm_delivery``."""
    actor = _dramatiq(setting.url, Count(1))
    count = setting.count(SLOW)
    actor.send(body(0))
    meter = Meter()
    for number in range(count):
        actor.send(body(number))
    return meter.rate(count)


def dramatiq_consume(setting: Setting) -> Measured:
    """Dramatiq's worker, eight threads, in this process."""
    import dramatiq

    count = setting.count(SLOW)
    counted = Count(count)
    actor = _dramatiq(setting.url, counted)
    for number in range(count):
        actor.send(body(number))
    worker = dramatiq.Worker(actor.broker, worker_threads=8)
    worker.start()
    measured = asyncio.run(counted.ended())
    worker.stop()
    asyncio.run(demand_empty(setting.url, QUEUE))
    return measured


def _dramatiq(url: str, counted: Count) -> Any:
    """An actor on a quorum queue; Dramatiq itself declares only classic ones."""
    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    class Quorum(RabbitmqBroker):
        def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
            arguments: dict[str, Any] = super()._build_queue_arguments(queue_name)  # type: ignore[no-untyped-call]  # untyped
            return {**arguments, **QUORUM}

    broker = Quorum(url=url, confirm_delivery=True)

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def handle(message: dict[str, Any]) -> None:
        counted.one()

    return handle


def celery_publish(setting: Setting) -> Measured:
    """Celery with ``confirm_publish``."""
    from .celery_app import make

    app, handle = make(setting.url, Count(1))
    count = setting.count(SLOW)
    handle.delay(body(0))
    meter = Meter()
    for number in range(count):
        handle.delay(body(number))
    measured = meter.rate(count)
    app.close()
    return measured


def celery_consume(setting: Setting) -> Measured:
    """Celery's worker with late acknowledgement, in a process of its own, as it is meant to run."""
    from .celery_app import make

    count = setting.count(SLOW)
    app, handle = make(setting.url, Count(1))
    for number in range(count):
        handle.delay(body(number))
    app.close()
    done = subprocess.run(
        [sys.executable, "-m", "bench.rabbitmq.celery_app", setting.url, str(count)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    measured: Measured = json.loads(line)
    asyncio.run(demand_empty(setting.url, QUEUE))
    return measured
