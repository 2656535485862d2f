"""Counting what is handled, from the first to the last, so that connecting and declaring are in no figure."""

from __future__ import annotations

import asyncio
import threading
import time

from ..measure import Measured, Meter

PATIENCE = 300.0
"""Seconds after which a measurement is given up."""


class Count:
    """Counts up to a goal; measures from the first to the last.

    Args:
        goal: How many.
    """

    def __init__(self, goal: int) -> None:
        self._goal = goal
        self._meter: Meter | None = None
        self._ended = threading.Event()
        self.handled = 0
        self.measured: Measured = {}

    def one(self) -> None:
        """One more was handled."""
        self.handled += 1
        if self._meter is None:
            self._meter = Meter()
        if self.handled == self._goal:
            self.measured = self._meter.rate(self._goal - 1)
            self._ended.set()

    async def ended(self) -> Measured:
        """What was measured, once all are handled; looks up to it, since the handlers may run anywhere.

        Raises:
            TimeoutError: They were not.
        """
        end = time.monotonic() + PATIENCE
        while not self._ended.is_set():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.handled} of {self._goal} were handled within {PATIENCE:g} s")
            await asyncio.sleep(0.02)
        return self.measured
