"""Consumers as the application's loop sees them; the work is done on the engine's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from ...engine import Decision, Fetched, Lost, Settled, Settlement
from ..buffer import Buffer
from ..sideloop import SideLoop
from .leases import Lease


EVERYTHING = 1_000_000_000
GOODBYE = 5.0
"""Seconds for what was not fetched to go back uncounted when a consumer is closed."""


class Source(Protocol):
    """What a consumer stands before, on the engine's loop."""

    async def stop(self) -> None:
        """Takes no more; what was under way has been given when this returns."""
        ...

    async def close(self) -> None:
        """Ends; what is unsettled comes back as a loss."""
        ...


class Delivering:
    """Takes deliveries and losses over to the application's loop. Made there, called on the engine's."""

    def __init__(self, buffer: Buffer, lost: Lost) -> None:
        self._buffer = buffer
        self._lost = lost

    def give(self, given: Sequence[Fetched]) -> None:
        """Deliveries came."""
        with suppress(RuntimeError):  # The application's loop has ended.
            self._buffer.loop.call_soon_threadsafe(self._buffer.add, given)

    def tell(self, leases: Sequence[Lease]) -> None:
        """Leases are gone."""
        with suppress(RuntimeError):
            self._buffer.loop.call_soon_threadsafe(self._gone, leases)

    def _gone(self, leases: Sequence[Lease]) -> None:
        self._buffer.drop({id(lease) for lease in leases})
        fetched = [lease for lease in leases if lease.fetched]
        if fetched:
            self._lost(fetched)


class RabbitConsumer:
    """A consumer of a source, an inbox or a broadcast.

    Args:
        side: The engine's loop.
        buffer: What came and was not fetched.
        source: What comes from where.
        settle: Carries out decisions, on the engine's loop.
        closed: Told when it is closed.
        address: Of an inbox.
    """

    def __init__(
        self,
        side: SideLoop,
        buffer: Buffer,
        source: Source,
        settle: Callable[[Sequence[Settlement]], Awaitable[Sequence[Settled]]],
        closed: Callable[[RabbitConsumer], None],
        address: str | None = None,
    ) -> None:
        self.address = address
        self._side = side
        self._buffer = buffer
        self._source = source
        self._settle = settle
        self._closed = closed
        self._stopped = False

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        await self._buffer.wait(wait, _nothing)
        taken = self._buffer.take(max)
        for fetched in taken:
            fetched.lease.fetched = True  # type: ignore[attr-defined]  # a Lease
        return taken

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        return await self._side.run(self._carry_out(batch)) if batch else []

    async def _carry_out(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        return await self._settle(batch)

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        await self._side.run(self._source.stop())
        unfetched = self._buffer.take(EVERYTHING)
        if unfetched:
            await self.settle([Settlement(fetched.lease, Decision.RELEASE) for fetched in unfetched])

    async def close(self) -> None:
        if self._buffer.closed:
            return
        self._buffer.closed = True
        self._buffer.wake()
        self._closed(self)
        with suppress(TimeoutError):  # What was not fetched is no loss, if the broker can be told in time.
            await asyncio.wait_for(self.stop(), GOODBYE)
        await self._side.run(self._source.close())


def _nothing() -> None:
    """It comes by itself."""
