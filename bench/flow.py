"""The whole way: publish awaited, handler awaited, settled; in one process and in several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from telex import Telex

from .channels import messages
from .measure import Measured, Meter, Setting
from .processes import workers
from .workload import body, run

IN_FLIGHT = 1000
COUNT = 60_000
WARM = 2000


def one_process(setting: Setting) -> Measured:
    """Publisher and one group's handler in one process."""
    return run(flow(setting.store, ["one"], setting.count(COUNT)))


def three_groups(setting: Setting) -> Measured:
    """Publisher and three groups' handlers in one process; deliveries a second."""
    return run(flow(setting.store, ["one", "two", "three"], setting.count(COUNT // 2)))


def two_processes(setting: Setting) -> Measured:
    """Publisher here, worker there."""
    return run(across(setting.store, ["one"], setting.count(COUNT)))


def three_processes(setting: Setting) -> Measured:
    """Publisher here, a worker process for each of three groups; deliveries a second."""
    return run(across(setting.store, ["one", "two", "three"], setting.count(COUNT // 2)))


async def flow(
    store: str, groups: Sequence[str], count: int, prepare: Callable[[Telex], None] | None = None
) -> Measured:
    """Everything in this process; ends when all is settled. ``prepare`` gets the application before it is opened."""
    app = Telex(store, name="bench")
    if prepare is not None:
        prepare(app)
    handled, goal, done = 0, 0, asyncio.Event()

    async def handle(message: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1
        if handled == goal:
            done.set()

    for group in groups:
        app.subscribe(messages, group=group)(handle)
    async with app:
        async with app.running():
            goal = WARM * len(groups)
            await publish(app, WARM, IN_FLIGHT)
            await done.wait()
            done.clear()
            handled, goal = 0, count * len(groups)
            meter = Meter()
            await publish(app, count, IN_FLIGHT)
            await done.wait()
        return meter.rate(goal)


async def across(store: str, groups: list[str], count: int) -> Measured:
    """Publisher here, workers elsewhere; ends when the last one has handled its last message."""
    total = count + WARM
    app = Telex(store, name="bench")
    async with app, workers("count", store, groups, total) as running:
        await publish(app, WARM, IN_FLIGHT)
        start, meter = time.monotonic(), Meter()
        await publish(app, count, IN_FLIGHT)
        published = meter.rate(count)
        ends = [(await worker.heard())["at"] for worker in running]
    return {"rate": count * len(groups) / (max(ends) - start), "published": published["rate"]}


async def publish(app: Telex, count: int, in_flight: int) -> None:
    """Publishes, each message awaited, this many at once."""
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await app.publish(messages, body(number))

    await asyncio.gather(*(one() for _ in range(in_flight)))
