"""The pipeline above an engine that does nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from telex import Telex

from .channels import messages
from .flow import IN_FLIGHT, publish
from .measure import Measured, Meter, Setting
from .null_engine import Null
from .workload import run

COUNT = 100_000


def deliver(setting: Setting) -> Measured:
    """Fetch, decode, run an empty handler, decide, settle; what is delivered was published before."""
    return run(_deliver(setting.count(COUNT)))


def whole(setting: Setting) -> Measured:
    """The same with publishing, 1,000 in flight."""
    return run(_whole(setting.count(COUNT)))


async def _deliver(count: int) -> Measured:
    app, done = _counting(count)
    async with app:
        await publish(app, count, IN_FLIGHT)
        meter = Meter()
        async with app.running():
            await done.wait()
        return meter.rate(count)


async def _whole(count: int) -> Measured:
    app, done = _counting(count)
    async with app:
        async with app.running():
            meter = Meter()
            await publish(app, count, IN_FLIGHT)
            await done.wait()
        return meter.rate(count)


def _counting(count: int) -> tuple[Telex, asyncio.Event]:
    app = Telex("null://", name="bench", engines=[Null()])
    handled, done = 0, asyncio.Event()

    @app.subscribe(messages, group="one")
    async def handle(message: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            done.set()

    return app, done
