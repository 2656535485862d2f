"""A rate limit for one source."""

from __future__ import annotations

import asyncio

from ..clock import Clock


class Rate:
    """Lets ``per_second`` messages through, evenly spaced; a tenth of a second of silence may be caught up.

    Attributes:
        waiting: Turns that have not come yet.
    """

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._step = 1 / per_second
        self._clock = clock
        self._next = clock.monotonic()
        self._turns: set[asyncio.Future[None]] = set()
        self._stopped = False

    @property
    def waiting(self) -> int:
        return len(self._turns)

    async def turn(self, messages: int) -> None:
        """Returns when that many messages may start, or the source was stopped."""
        now = self._clock.monotonic()
        mine = max(self._next, now - 0.1)
        self._next = mine + self._step * messages
        if mine <= now or self._stopped:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.add(turn)
        timer = self._clock.call_later(mine - now, lambda: _come(turn))
        try:
            await turn
        finally:
            timer.cancel()
            self._turns.discard(turn)

    def stop(self) -> None:
        """Lets everybody through: nothing will start any more."""
        self._stopped = True
        for turn in self._turns:
            _come(turn)


def _come(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
