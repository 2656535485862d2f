"""Consumers as the application's loop sees them; the work is done on the engine's loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from ...engine import Decision, Fetched, Lost, Settled, Settlement
from ..buffer import Buffer
from ..retrying import Retrying
from ..sideloop import SideLoop
from .leases import Lease

EVERYTHING = 1_000_000_000
GOODBYE = 5.0
"""Seconds for what was not fetched to go back uncounted when a consumer is closed."""
WANTED = 2.0
"""Seconds after a fetch for which more is wanted: who is busy does not fetch all the time."""


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
        self._asked = 0.0
        self.consumer: RabbitConsumer | None = None

    def ask(self) -> None:
        """The application fetches."""
        self._asked = time.monotonic()

    def is_wanted(self) -> bool:
        """Whether the application fetches or has just done so; from any thread. One that is paused does not."""
        return self._buffer.is_awaited or time.monotonic() - self._asked < WANTED

    def give(self, given: Sequence[Fetched]) -> None:
        """Deliveries came."""
        with suppress(RuntimeError):  # The application's loop has ended.
            take = self._buffer.add if self.consumer is None else self.consumer.arrived
            self._buffer.loop.call_soon_threadsafe(take, given)
            if given and given[0].trial is not None:
                self._buffer.loop.call_soon_threadsafe(self._watch, given[0])

    def _watch(self, tried: Fetched) -> None:
        """There is one trial in hand for all sources: it must not lie where nobody fetches."""
        self._buffer.loop.call_later(WANTED, self._give_back, tried)

    def _give_back(self, tried: Fetched) -> None:
        if self.consumer is not None:
            self.consumer.release(self._buffer.take_if(lambda fetched: fetched is tried))

    def recall(self, lane: int) -> None:
        """A lane is to be left."""
        if self.consumer is not None:
            with suppress(RuntimeError):
                self._buffer.loop.call_soon_threadsafe(self.consumer.recall, lane)

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
        self._background: set[asyncio.Task[Sequence[Settled]]] = set()

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        await self._buffer.wait(wait, _nothing)
        return self._taken(max)

    def arrived(self, given: Sequence[Fetched]) -> None:
        """Takes deliveries; on the application's loop."""
        self._buffer.add(given)

    def recall(self, lane: int) -> None:
        """Gives back what was not fetched of a lane; on the application's loop."""
        self.release(self._buffer.take_if(lambda fetched: fetched.lane == lane))

    def release(self, deliveries: Sequence[Fetched]) -> None:
        """Gives back what was not fetched; on the application's loop."""
        if deliveries:
            batch = [Settlement(fetched.lease, Decision.RELEASE) for fetched in deliveries]
            task = self._buffer.loop.create_task(RabbitConsumer.settle(self, batch))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _taken(self, max: int) -> list[Fetched]:
        taken = self._buffer.take(max)
        for fetched in taken:
            lease = fetched.lease
            assert isinstance(lease, Lease)
            lease.fetched = True
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


class Streaming(Source, Protocol):
    """An unordered source, which has as much handed over ahead as the application fetches at once."""

    def may_ask(self, most: int) -> bool:
        """Whether `asked` would change anything; from any thread."""
        ...

    def asked(self, most: int) -> None:
        """The application waits for so many."""
        ...


class QueueConsumer(RabbitConsumer):
    """A consumer of an unordered source."""

    def begin(self, source: Streaming, delivering: Delivering) -> None:
        """Tells the source how much it fetches."""
        self._streaming = source
        self._delivering = delivering

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        self._delivering.ask()
        if self._buffer.is_empty and self._streaming.may_ask(max):
            self._side.post(self._streaming.asked, max)
        return await super().fetch(max, wait)


class Asked(Source, Protocol):
    """An ordered source, which gives only what it is asked for."""

    def ask(self, most: int) -> None:
        """The application wants so many."""
        ...

    async def carry_out(
        self, batch: Sequence[Settlement], written: Callable[[Sequence[str]], None]
    ) -> Sequence[Settled]:
        """Settles a batch; says of which keys a retry is stored before it gives anything of theirs again."""
        ...


class LaneConsumer(RabbitConsumer):
    """A consumer of an ordered source. What is given is little, so that lanes can be left quickly."""

    def begin(self, source: Asked, delivering: Delivering) -> None:
        """Gives it what it asks."""
        self._asked = source
        self._delivering = delivering
        self._wanted = 0
        """What `fetch` waits for; the source counts it as given as soon as it gave something."""
        self._retrying = Retrying()

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        self._delivering.ask()
        self._wanted = max
        try:
            await self._buffer.wait(wait, self._ask)
        finally:
            self._wanted = 0
        return self._taken(max)

    def _ask(self) -> None:
        self._side.post(self._asked.ask, self._wanted)

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        if not batch:
            return []
        left = self._retrying.begin(batch)
        if not left:
            return await super().settle(batch)
        stale = self._buffer.take_if(self._retrying.is_stale)
        releases = [Settlement(fetched.lease, Decision.RELEASE) for fetched in stale]

        def written(stored: Sequence[str]) -> None:
            ended = [retry for retry in left if retry.key in stored]
            left[:] = [retry for retry in left if retry.key not in stored]
            self._retrying.end(ended)

        def tell(stored: Sequence[str]) -> None:  # On the engine's loop, before it gives what comes after the retry.
            with suppress(RuntimeError):
                self._buffer.loop.call_soon_threadsafe(written, stored)

        try:
            answers = await self._side.run(self._asked.carry_out([*batch, *releases], tell))
        finally:
            written([retry.key for retry in left])
        return answers[: len(batch)]

    def arrived(self, given: Sequence[Fetched]) -> None:
        """Takes deliveries; on the application's loop."""
        given, stale = self._retrying.part(given)
        self.release(stale)
        self._buffer.add(given)
        if stale and not given and self._wanted:  # Who waits got nothing of what was handed out.
            self._ask()


def _nothing() -> None:
    """It comes by itself."""
