"""A rate limit for one source."""

from __future__ import annotations

import asyncio
import contextlib


class Rate:
    """Lets ``per_second`` messages through, evenly spaced; a tenth of a second of silence may be caught up."""

    def __init__(self, per_second: float, stopped: asyncio.Event) -> None:
        self._step = 1 / per_second
        self._stopped = stopped
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()

    async def turn(self, messages: int) -> None:
        """Returns when that many messages may start, or the source was stopped."""
        now = self._loop.time()
        mine = max(self._next, now - 0.1)
        self._next = mine + self._step * messages
        if mine > now:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(mine - now):
                    await self._stopped.wait()
