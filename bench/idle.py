"""A worker that has nothing to do, and how fast it wakes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from telex import Telex

from .channels import messages, ticks
from .measure import Measured, Setting
from .processes import workers
from .workload import run

QUIET = 5.0
TICKS = 200
GAP = 0.03


def processor(setting: Setting) -> Measured:
    """The share of one processor that an idle worker takes."""
    return run(_processor(setting.store))


def wake(setting: Setting) -> Measured:
    """Seconds from before ``publish`` here to the handler in another process that slept."""
    return run(_wake(setting.store))


async def _processor(store: str) -> Measured:
    app = Telex(store, name="bench")

    @app.subscribe(messages, group="one")
    async def handle(message: dict[str, Any]) -> None: ...

    async with app, app.running():
        await asyncio.sleep(1)
        start, before = time.perf_counter(), time.process_time()
        await asyncio.sleep(QUIET)
        return {"share": (time.process_time() - before) / (time.perf_counter() - start)}


async def _wake(store: str) -> Measured:
    app = Telex(store, name="bench")
    async with app, workers("wake", store, ["one"], TICKS) as (worker,):
        for _ in range(TICKS):
            await asyncio.sleep(GAP)
            await app.publish(ticks, time.monotonic())
        measured: Measured = await worker.heard()
        return measured
