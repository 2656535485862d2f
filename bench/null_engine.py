"""An engine that does nothing: what remains is the cost of the pipeline above it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from telex.clock import Clock
from telex.engine import (
    Admin,
    Change,
    Channel,
    Engine,
    EngineClosed,
    Fetched,
    Lost,
    Outgoing,
    Settled,
    Settlement,
    Stored,
    Subscription,
)
from telex.features import Features, Support

YEAR = timedelta(days=365)


class NullConsumer:
    """Hands over what was published, as it is."""

    address: str | None = None

    def __init__(self) -> None:
        self.kept: deque[Outgoing] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, batch: Sequence[Outgoing]) -> None:
        """Keeps messages and wakes the fetch that waits."""
        self.kept.extend(batch)
        self._wake()

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        """What is there, else waits."""
        while not self.kept:
            if self._closed:
                raise EngineClosed
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        kept = self.kept
        return [
            Fetched(outgoing.message, outgoing) for outgoing in (kept.popleft() for _ in range(min(max, len(kept))))
        ]

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """Everything is done at once."""
        return [Settled.DONE] * len(batch)

    async def stop(self) -> None:
        """Nothing is held."""

    async def close(self) -> None:
        """Wakes the fetch that waits."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class NullEngine:
    """Keeps messages in memory for the one consumer there may be."""

    features = Features(
        engine="null",
        durable=False,
        settle_confirmed=True,
        atomic=True,
        groups=Support.NATIVE,
        patterns=Support.NATIVE,
        broadcast=Support.NATIVE,
        ordered=Support.NATIVE,
        delay=Support.NATIVE,
        requests=Support.NATIVE,
        replay=Support.NATIVE,
        start_all=Support.NATIVE,
        browse=Support.NATIVE,
        max_body=1_000_000,
        max_delay=YEAR,
        max_hold=None,
        hold_window=None,
        retention=None,
    )

    def __init__(self) -> None:
        self.consumer = NullConsumer()

    @property
    def admin(self) -> Admin:
        raise NotImplementedError("the engine that does nothing has nothing to operate")

    async def open(self, deadline: float) -> None: ...

    async def plan(self, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        return []

    async def apply(self, changes: Sequence[Change]) -> None: ...

    async def lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        return [None] * len(names)

    def problems(self) -> Sequence[str]:
        return []

    async def publish(self, batch: Sequence[Outgoing], deadline: float) -> Sequence[tuple[Stored, Exception | None]]:
        self.consumer.put(batch)
        return [(Stored.YES, None)] * len(batch)

    async def consume(self, subscription: Subscription, lost: Lost) -> NullConsumer:
        return self.consumer

    async def close(self, deadline: float) -> None: ...


@dataclass(frozen=True)
class Null:
    """Settings for ``null://``."""

    schemes: tuple[str, ...] = ("null",)

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        return NullEngine()
