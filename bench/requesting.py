"""Request-reply between two processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from telex import Telex

from .channels import echo, sleepy
from .measure import Measured, Meter, Setting
from .processes import workers
from .workload import body, run

Measuring = Callable[[Telex], Awaitable[Measured]]


def at_once(setting: Setting) -> Measured:
    """A hundred requests at once to a handler that takes 100 ms; the seconds until the last answer."""

    async def measure(app: Telex) -> Measured:
        start = time.perf_counter()
        await asyncio.gather(*(app.request(sleepy, body(number)) for number in range(100)))
        return {"seconds": time.perf_counter() - start}

    return run(_with_worker(setting.store, measure))


def in_flight(setting: Setting) -> Measured:
    """Empty handler, 200 requests under way."""
    count = setting.count(20_000)

    async def measure(app: Telex) -> Measured:
        numbers = iter(range(count))

        async def one() -> None:
            for number in numbers:
                await app.request(echo, body(number))

        meter = Meter()
        await asyncio.gather(*(one() for _ in range(200)))
        return meter.rate(count)

    return run(_with_worker(setting.store, measure))


def one_by_one(setting: Setting) -> Measured:
    """Empty handler, each request after the answer of the one before."""
    count = setting.count(1000)

    async def measure(app: Telex) -> Measured:
        meter = Meter()
        for number in range(count):
            await app.request(echo, body(number))
        return meter.rate(count)

    return run(_with_worker(setting.store, measure))


async def _with_worker(store: str, measure: Measuring) -> Measured:
    app = Telex(store, name="bench")
    async with app, workers("reply", store, ["one"], 0):
        await asyncio.gather(*(app.request(echo, body(number)) for number in range(20)))
        await app.request(sleepy, body(0))
        return await measure(app)
