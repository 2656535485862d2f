"""How far the work is: asks the sources, draws a bar, says when half is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tqdm import tqdm

from telex import SourceStats, Telex

LOOK = 0.2
"""Seconds between two looks."""
STUCK = 60.0
"""Seconds without progress after which the demonstration gives up."""


class Work:
    """What the workers have done of what was published."""

    def __init__(self, app: Telex, groups: int, check: Callable[[], None]) -> None:
        self._app = app
        self._groups = groups
        self._check = check
        self.published = 0

    async def look(self) -> tuple[int, int, bool]:
        """How many deliveries to the groups are done, how many are in hand, and whether nothing at all is left."""
        sources = (await self._app.stats()).sources
        groups = [source for source in sources if "/" in source.source]
        done = self.published * self._groups - sum(map(_open, groups))
        return done, sum(source.leased or 0 for source in groups), not any(map(_open, sources))

    async def follow(self, total: int, at_half: Callable[[int], Awaitable[None]]) -> None:
        """Returns once all ``total`` messages are done by every group; calls ``at_half`` half-way.

        Raises:
            TimeoutError: Nothing moved for a minute.
            RuntimeError: All was done before half-way could be seen with work in hand.
        """
        goal = total * self._groups
        best, since, half = 0, asyncio.get_running_loop().time(), False
        with tqdm(total=goal, desc="handled  ", unit=" deliveries", position=1, mininterval=0.5) as bar:
            while True:
                done, in_hand, idle = await self.look()
                self._check()
                now = asyncio.get_running_loop().time()
                if done > best:
                    bar.update(done - best)
                    best, since = done, now
                if not half and done * 2 >= goal and in_hand:
                    half = True
                    await at_half(in_hand)
                if self.published == total and idle:
                    if not half:
                        raise RuntimeError("the work was done too fast to be interrupted: give it more flights")
                    return
                if now - since > STUCK:
                    raise TimeoutError(f"nothing moved for {STUCK:g} s: {await self._app.stats()}")
                await asyncio.sleep(LOOK)

    async def idle(self) -> None:
        """Returns once nothing is left to do."""
        async with asyncio.timeout(STUCK):
            while not (await self.look())[2]:
                self._check()
                await asyncio.sleep(LOOK)


def _open(source: SourceStats) -> int:
    return (source.ready or 0) + (source.leased or 0) + (source.retrying or 0)
