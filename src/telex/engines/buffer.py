"""What an engine has given and a consumer has not fetched; on the application's loop, whatever the engine runs on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from ..engine import EngineClosed, Fetched


class Buffer:
    """What was given and not fetched, and who waits for it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._given: deque[Fetched] = deque()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not self._given

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits; from any thread."""
        return self._waiter is not None

    def add(self, given: Iterable[Fetched]) -> None:
        """Takes deliveries, and wakes who waits."""
        self._given.extend(given)
        if self._given:
            self.wake()

    def wake(self) -> None:
        """Lets who waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, most: int) -> list[Fetched]:
        """At most ``most`` of what is there."""
        if len(self._given) <= most:
            taken = list(self._given)
            self._given.clear()
            return taken
        return [self._given.popleft() for _ in range(most)]

    def take_if(self, true: Callable[[Fetched], bool]) -> list[Fetched]:
        """All that is there of some kind."""
        taken = [fetched for fetched in self._given if true(fetched)]
        if taken:
            gone = {id(fetched) for fetched in taken}
            self._given = deque(fetched for fetched in self._given if id(fetched) not in gone)
        return taken

    def drop(self, leases: set[int]) -> int:
        """Forgets what has one of these leases (by `id`); how many those were."""
        before = len(self._given)
        self._given = deque(fetched for fetched in self._given if id(fetched.lease) not in leases)
        return before - len(self._given)

    async def wait(self, seconds: float, asked: Callable[[], None]) -> None:
        """Waits until something is there, at most ``seconds``.

        Raises:
            EngineClosed: It was closed.
        """
        if not self.closed and not self._given and seconds > 0:
            self._waiter = self.loop.create_future()
            timer = self.loop.call_later(seconds, self.wake)
            asked()
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self.closed:
            raise EngineClosed("the consumer is closed")
