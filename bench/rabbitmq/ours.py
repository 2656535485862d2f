"""Telex on RabbitMQ: the figures that only a broker has. The rest are the measurements of the other modules."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from telex import Delivery, Retry, Telex, Topic

from ..channels import lanes, messages, work
from ..flow import publish
from ..measure import Measured, Meter, Setting
from ..workload import body, run
from .counting import Count
from .raw import CONSUMED, PUBLISHED

FAILING = 5000
DELAY = 1.0
"""Seconds until a failing message comes again."""
BURST, STEADY = 20, 1000
"""Failing messages sent at once, and a second."""
HEALTHY = 0.01
"""Seconds between two healthy messages beside the failing ones."""


def publish_100(setting: Setting) -> Measured:
    """A hundred in flight, to a topic with one group."""
    return run(_publish(setting.store, setting.count(PUBLISHED), 100))


def publish_1000(setting: Setting) -> Measured:
    """A thousand in flight, to a topic with one group."""
    return run(_publish(setting.store, setting.count(PUBLISHED), 1000))


def publish_many(setting: Setting) -> Measured:
    """``publish_many``, to a topic with one group."""
    return run(_publish_many(setting.store, setting.count(PUBLISHED)))


def consume(setting: Setting) -> Measured:
    """From a group that has much to do, to an async handler."""
    return run(_consume(setting.store, messages, setting.count(CONSUMED)))


def consume_lanes(setting: Setting) -> Measured:
    """The same on an ordered topic of 16 lanes with 512 keys."""
    return run(_consume(setting.store, lanes, setting.count(CONSUMED)))


def retries(setting: Setting) -> Measured:
    """Messages that all fail once and come again after a second.

    ``rate``: a second, from the first failure to the last success less the delay. ``early``: the most seconds by which
    a retry came before its time.
    """
    return run(_retries(setting.store, setting.count(FAILING)))


def beside(setting: Setting) -> Measured:
    """A healthy message every ten milliseconds, alone and beside a thousand a second that fail once.

    ``alone`` and ``p99``: of a hundred healthy messages, the 99th's seconds from publish to handler.
    """
    return run(_beside(setting.store, setting.count(FAILING)))


def _app(store: str, topic: Topic[Any]) -> Telex:
    app = Telex(store, name="bench")

    @app.subscribe(topic, group="one")
    async def handle(message: dict[str, Any]) -> None: ...

    return app


async def _publish(store: str, count: int, in_flight: int) -> Measured:
    async with _app(store, messages) as app:
        await publish(app, 1000, in_flight)
        meter = Meter()
        await publish(app, count, in_flight)
        return meter.rate(count)


async def _publish_many(store: str, count: int) -> Measured:
    bodies = [body(number) for number in range(count)]
    async with _app(store, messages) as app:
        await app.publish_many(messages, bodies[:1000])
        meter = Meter()
        await app.publish_many(messages, bodies)
        return meter.rate(count)


async def _consume(store: str, topic: Topic[Any], count: int) -> Measured:
    async with _app(store, topic) as app:
        await app.publish_many(topic, (body(number) for number in range(count)))
    counted, worker = Count(count), Telex(store, name="bench")

    @worker.subscribe(topic, group="one")
    async def handle(message: dict[str, Any]) -> None:
        counted.one()

    async with worker:
        async with worker.running():
            measured = await counted.ended()
        await _demand_settled(worker)
    return measured


async def _demand_settled(app: Telex) -> None:
    for _ in range(50):
        left = [source for source in (await app.stats()).sources if source.ready or source.leased or source.dead]
        if not left:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"not everything was settled: {left}; this is no measurement")


def _quiet() -> None:
    """No line for each message that fails as it should: this process measures nothing else."""
    logging.getLogger("telex.delivery").setLevel(logging.CRITICAL)


async def _retries(store: str, count: int) -> Measured:
    _quiet()
    app = Telex(store, name="bench")
    failed: dict[str, float] = {}
    returned, early, ended = Count(count), -DELAY, 0.0

    @app.receive(work, retry=Retry(delay=DELAY, factor=1, jitter=0), concurrency=1000)
    async def handle(message: dict[str, Any], delivery: Delivery) -> None:
        nonlocal early, ended
        now = time.monotonic()
        if delivery.attempt == 1:
            failed[delivery.message.id] = now
            raise RuntimeError("fails once")
        early, ended = max(early, failed[delivery.message.id] + DELAY - now), now
        returned.one()

    async with app:
        await app.send_many(work, (body(number) for number in range(count)))
        async with app.running():
            await returned.ended()
        await _demand_settled(app)
    return {"rate": count / (ended - min(failed.values()) - DELAY), "early": early}


async def _beside(store: str, count: int) -> Measured:
    _quiet()
    app = Telex(store, name="bench")
    healthy: list[float] = []
    returned, done = Count(count), asyncio.Event()

    @app.receive(work, retry=Retry(delay=DELAY, factor=1, jitter=0), concurrency=100)
    async def handle(message: dict[str, Any], delivery: Delivery) -> None:
        if "sent" in message:
            healthy.append(time.monotonic() - message["sent"])
        elif delivery.attempt == 1:
            raise RuntimeError("fails once")
        else:
            returned.one()

    async def keep_sending() -> None:
        while not done.is_set():
            await app.send(work, {"sent": time.monotonic()})
            await asyncio.sleep(HEALTHY)

    async with app, app.running():
        sending = asyncio.ensure_future(keep_sending())
        await asyncio.sleep(2)
        alone, healthy = _p99(healthy), []
        for first in range(0, count, BURST):
            await app.send_many(work, (body(number) for number in range(first, first + BURST)))
            await asyncio.sleep(BURST / STEADY)
        await returned.ended()
        done.set()
        await sending
    return {"p99": _p99(healthy), "alone": alone}


def _p99(values: list[float]) -> float:
    return sorted(values)[-1 - len(values) // 100]
