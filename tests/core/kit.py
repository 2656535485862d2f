"""An application on the loopback engine, and what the tests of the core ask of both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from telex import Retry, Telex
from telex.engine import Decision

from .loopback import FEATURES, Loopback

QUICK = Retry(attempts=3, delay=0.01, jitter=0)
ONCE = Retry(attempts=1)


def make(*, holds: bool = False, pipelined: bool = False, **settings: Any) -> tuple[Telex, Loopback]:
    """An application and its engine."""
    settings.setdefault("grace", 0.5)
    engine = Loopback(msgspec.structs.replace(FEATURES, holds_keys=holds, pipelined=pipelined))
    return Telex("loopback://", name="test", engines=[engine], **settings), engine


def run(main: Coroutine[Any, Any, Any], seconds: float = 10) -> Any:
    """Runs a test that must end in time: what hangs fails."""

    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(bounded())


async def until(true: Callable[[], object], seconds: float = 2) -> None:
    """Waits for other tasks; a `TimeoutError` if it does not come true."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - other tasks set nothing that could be awaited.
            await asyncio.sleep(0.001)


async def turns(number: int = 20) -> None:
    """Lets everything that is ready run."""
    for _ in range(number):
        await asyncio.sleep(0)


def decisions(engine: Loopback) -> list[Decision]:
    """What was settled, in order."""
    return [settlement.decision for settlement in engine.settlements]
