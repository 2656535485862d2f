"""Timeouts of running handlers: one sweep a source, where `asyncio.timeout` would cost 5 us a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

from ..engine import Fetched


class Stop(Enum):
    """Why a running handler was cancelled by us."""

    TIMEOUT = 1
    LOST = 2
    DRAIN = 3


class Slot:
    """One place in which a handler runs.

    Attributes:
        task: The long-lived task that runs handlers here, one after another.
        began: Loop time at which the last handler was started.
        until: Loop time at which the running handler is too late; 0 while none runs.
        taken: What is running, or about to.
        starting: It waits to start: for its turn, or for its batch to fill.
        stop: Why it was cancelled; None if it was not.
        in_thread: A plain function runs: it cannot be cancelled.
    """

    __slots__ = ("began", "in_thread", "starting", "stop", "taken", "task", "until")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.began = 0.0
        self.until = 0.0
        self.taken: list[Fetched] = []
        self.starting = False
        self.stop: Stop | None = None
        self.in_thread = False

    def cancel(self, why: Stop) -> None:
        """Stops the running handler, once."""
        if self.stop is not None or not self.until:
            return
        self.stop = why
        if not self.in_thread and self.task is not None:
            self.task.cancel()


class Deadlines:
    """Cancels handlers that run too long. The timer runs only while a handler does."""

    def __init__(self, slots: Sequence[Slot], timeout: float) -> None:
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._period = min(max(timeout / 20, 0.005), 1.0)
        self._armed = False

    def arm(self) -> None:
        """A handler starts."""
        if not self._armed:
            self._armed = True
            self._loop.call_later(self._period, self._sweep)

    def _sweep(self) -> None:
        self._armed = False
        now = self._loop.time()
        busy = False
        for slot in self._slots:
            if slot.until:
                busy = True
                if slot.until <= now:
                    slot.cancel(Stop.TIMEOUT)
        if busy:
            self.arm()
