"""A rate limit for one source."""

from __future__ import annotations

import asyncio


class Rate:
    """Lets ``per_second`` through, evenly spaced; a pause of up to a tenth of a second may be caught up."""

    def __init__(self, per_second: float) -> None:
        self._step = 1 / per_second
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()

    async def turn(self) -> None:
        """Returns when the caller may go."""
        now = self._loop.time()
        mine = max(self._next, now - 0.1)
        self._next = mine + self._step
        if mine > now:
            await asyncio.sleep(mine - now)
