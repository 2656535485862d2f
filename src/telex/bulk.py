"""Publishing many messages: in order, in batches, with a bound on what is unconfirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from .deadletters import Progress
from .engine import Outgoing, Stored
from .errors import ConfigError, PublishFailed, PublishUncertain, TelexError
from .publisher import Outcome, Publisher, failure

T = TypeVar("T")
Bodies = Iterable[T] | AsyncIterable[T]
Compose = Callable[[list[Outgoing], Iterable[Any]], None]
"""Appends a message for each body; see `Composer.compose_into`."""
Each = Callable[[Outgoing], Awaitable[Outgoing | None]]
"""What middleware makes of a message; None if it keeps it back."""


async def store_many(
    publisher: Publisher,
    bodies: Bodies[Any],
    compose: Compose,
    each: Each | None,
    *,
    window: int,
    progress: Progress,
) -> int:
    """Stores messages in order; how many.

    Raises:
        ConfigError: ``window`` is no whole number from 1.
        PublishFailed, PublishUncertain: The first message that was not stored; ``stored`` counts those before it.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ConfigError(f"window={window!r}: write a whole number from 1")
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress={progress!r}: write a function of the number stored in a step")
    if isinstance(bodies, (str, bytes)) or not isinstance(bodies, (Iterable, AsyncIterable)):
        raise ConfigError(f"bodies={bodies!r}: write an iterable or async iterable of bodies")
    batches = _Batches(publisher, window, progress)
    try:
        async for chunk in _chunks(bodies, compose, max(1, window // 2), each):
            await batches.add(chunk)
        await batches.finish()
    except (PublishFailed, PublishUncertain) as error:
        await batches.settle_down()
        error.stored = batches.stored
        raise
    except BaseException:
        await batches.settle_down()
        raise
    return batches.stored


class _Batches:
    """At most two batches under way; their outcomes in order.

    Attributes:
        stored: Messages from the start that are certainly stored.
    """

    def __init__(self, publisher: Publisher, window: int, progress: Progress) -> None:
        self._publisher = publisher
        self._progress = progress
        self._most = 2 if window > 1 else 1
        self._under_way: deque[tuple[list[Outgoing], asyncio.Task[Sequence[Outcome]]]] = deque()
        self._broken = False
        """A batch failed: later ones do not count as stored, the prefix ends there."""
        self.stored = 0

    async def add(self, batch: list[Outgoing]) -> None:
        """Starts a batch, once there is room."""
        while len(self._under_way) >= self._most:
            await self._first()
        self._under_way.append((batch, asyncio.ensure_future(self._publisher.store(batch))))
        await asyncio.sleep(0)

    async def finish(self) -> None:
        """Waits for all."""
        while self._under_way:
            await self._first()

    async def settle_down(self) -> None:
        """After an error: waits for what is under way, so that nothing still moves when the caller hears of it."""
        while self._under_way:
            batch, task = self._under_way.popleft()
            await asyncio.wait([task])
            failed = task.cancelled() or task.exception() is not None
            self._broken = self._broken or failed or self._count(batch, task.result()) is not None

    async def _first(self) -> None:
        batch, task = self._under_way[0]
        try:
            outcomes = await task
            error = self._count(batch, outcomes)
            if error is not None:
                raise error
        except BaseException:
            self._broken = True
            raise
        finally:
            self._under_way.popleft()

    def _count(self, batch: list[Outgoing], outcomes: Sequence[Outcome]) -> TelexError | None:
        for index, (stored, cause) in enumerate(outcomes):
            if stored is Stored.YES or stored is Stored.UNROUTED:
                continue
            self._advance(index)
            return failure(stored, cause, batch[index])
        self._advance(len(batch))
        return None

    def _advance(self, count: int) -> None:
        self.stored += count
        if self._progress is not None and count:
            self._progress(count)


async def _chunks(bodies: Bodies[Any], compose: Compose, size: int, each: Each | None) -> AsyncIterator[list[Outgoing]]:
    """Composed messages in lists. What was composed before an error is handed on first, so that it counts as stored."""
    async for some in _slices(bodies, size):
        chunk: list[Outgoing] = []
        refused: PublishFailed | None = None
        try:
            compose(chunk, some)
        except PublishFailed as error:
            refused = error
        if each is not None:
            composed, chunk = chunk, []
            try:
                for outgoing in composed:
                    if (passed := await each(outgoing)) is not None:
                        chunk.append(passed)
            except PublishFailed as error:  # Only what middleware let through is handed on.
                refused = error
        if chunk:
            yield chunk
        if refused is not None:
            raise refused from refused.__cause__


async def _slices(bodies: Bodies[Any], size: int) -> AsyncIterator[list[Any]]:
    some: list[Any] = []
    if not isinstance(bodies, AsyncIterable):
        rest = iter(bodies)
        while some := list(islice(rest, size)):
            yield some
        return
    async for body in bodies:
        some.append(body)
        if len(some) >= size:
            yield some
            some = []
    if some:
        yield some
