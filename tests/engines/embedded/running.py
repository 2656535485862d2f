"""An open engine, for tests that need more than its tables."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from telex.clock import SystemClock
from telex.engine import Channel, ChannelKind, Engine, Outgoing, Source, SourceKind, Stored, Subscription
from telex.engines import Embedded
from telex.engines.embedded.engine import EmbeddedEngine
from telex.message import Message

QUEUE = Channel("q", ChannelKind.QUEUE)
SUBSCRIPTION = Subscription(source=Source("q", SourceKind.QUEUE))
TOPIC = Channel("t", ChannelKind.TOPIC, ordered=True, lanes=1)
LANE = Subscription(source=Source("t", SourceKind.GROUP, "g", True), start="all")


def use(url: str, test: Callable[[EmbeddedEngine], Coroutine[Any, Any, None]]) -> None:
    """Opens an engine with both channels, and bounds the test."""

    async def main() -> None:
        engine = Embedded().engine(url, app="test", clock=SystemClock(), random=Random(1))
        assert isinstance(engine, EmbeddedEngine)
        await engine.open(time.monotonic() + 10)
        try:
            async with asyncio.timeout(10):
                await engine.apply(await engine.plan([QUEUE, TOPIC], [LANE]))
                await test(engine)
        finally:
            await engine.close(time.monotonic() + 5)

    asyncio.run(main())


def outgoing(id: str, to: Channel = QUEUE, **fields: Any) -> Outgoing:
    """A message as nobody checked it."""
    return Outgoing(to, Message(id=id, channel=to.name, body=b"{}", time=datetime.now(UTC), **fields))


async def publish(engine: Engine, *batch: Outgoing) -> list[Stored]:
    """Stores messages; the outcome of each."""
    return [stored for stored, _ in await engine.publish(batch, time.monotonic() + 5)]


@contextmanager
def held(store: Path) -> Iterator[None]:
    """Another process holds the store, as one does that was stopped in its commit."""
    other = os.open(f"{store}-writer", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(other)
