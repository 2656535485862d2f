"""Waiting on the broker: a ladder of queues, each of which holds a message for twice as long as the one below.

Step k is a headers exchange and a queue of one name. A message carries a header for each step it must wait in; a step
it need not wait in passes it down (the alternate exchange), and what has waited goes on to the step below. Below the
lowest is the exchange of what is due, where the routing key, kept all the way, names the queue. TTL works only at a
queue's head, so that every queue has one TTL for all. Hops are at-least-once dead-lettering: confirmed by the next
queue before they leave the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from . import table
from .codec import WAIT
from .control import Control
from .names import Names

UNIT = 0.064
"""Seconds of the lowest step: 1, 2, 4 … seconds are then one hop each and at most 2.4% late."""
TOP = 29
"""Steps of the ladder of delayed sends: 2 ** 29 units are 397 days."""
RETRY_TOP = 17
"""Steps of the ladder of retries, which are counted apart from sends; longer ones use the other ladder."""
BITS = 4
"""Significant bits of a retry's delay: at most four hops, at most 12.5% late. Retry delays are lower bounds."""
MARK = b"t\x01"


class Ladder:
    """One ladder.

    Args:
        name: ``retry`` or ``delay``.
        steps: How many.
        bits: Precision; 0: to the unit.
    """

    def __init__(self, name: str, steps: int, bits: int, names: Names, control: Control) -> None:
        self._name = name
        self._steps = steps
        self._bits = bits
        self._names = names
        self._control = control
        self._made = 0
        """Steps from below that are known to be there."""
        self._making = asyncio.Lock()

    @property
    def longest(self) -> timedelta:
        """The longest wait."""
        return timedelta(seconds=UNIT * (2**self._steps - 1))

    def units(self, seconds: float) -> int:
        """So many units are not shorter than that."""
        units = max(1, -int(-seconds // UNIT))
        if self._bits and units.bit_length() > self._bits:
            shift = units.bit_length() - self._bits
            units = -(-units >> shift) << shift
        return units

    async def entry(self, wait: float) -> tuple[str, Sequence[bytes], timedelta]:
        """Where to publish what shall wait so long (seconds), with which headers, and how long it will be.

        Steps that are missing are made.
        """
        units = self.units(wait)
        top = units.bit_length()
        if top > self._made:
            await self._make(top)
        waits = [table.raw_item(WAIT + str(level).encode(), MARK) for level in range(top) if units >> level & 1]
        return self._names.step(self._name, top - 1), waits, timedelta(seconds=units * UNIT)

    async def _make(self, steps: int) -> None:
        """From below: a step is never there without those it leads to."""
        async with self._making:
            while self._made < steps:
                await self._make_step(self._made)
                self._made += 1

    async def _make_step(self, level: int) -> None:
        name = self._names.step(self._name, level)
        below = self._names.due if level == 0 else self._names.step(self._name, level - 1)
        if await self._control.has_exchange(name) and await self._control.depth(name) is not None:
            return  # Whoever may not make it may use it.
        await self._control.queue(
            name,
            {
                "x-queue-type": "quorum",
                "x-message-ttl": round(UNIT * 1000) << level,
                "x-dead-letter-exchange": below,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )
        await self._control.exchange(name, "headers", {"alternate-exchange": below})
        await self._control.bind(name, name, arguments={"x-match": "all", (WAIT + str(level).encode()).decode(): True})

    def forget(self) -> None:
        """A new connection: steps may be gone."""
        self._made = 0

    async def depth(self) -> int:
        """Messages in all steps."""
        total = 0
        for level in range(self._steps):
            found = await self._control.depth(self._names.step(self._name, level))
            if found is None:
                break
            total += found.ready
        return total


def wait_until(at: datetime, now: datetime) -> float:
    """Seconds until then; 0 if it has passed."""
    return max(0.0, (at - now).total_seconds())
