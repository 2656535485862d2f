"""Time, as everything in Telex sees it: injected, so that tests can own it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

Seconds = float | timedelta
"""A duration: seconds or a `timedelta`."""


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """It will not."""
        ...


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back and go on while the machine runs; comparable between processes of one boot."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Calls back on the running event loop once, after so long by this clock."""
        ...

    def on_jump(self, callback: Callable[[], object]) -> None:
        """Calls back, from any thread, whenever time was moved by hand. The system clock never does."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    def on_jump(self, callback: Callable[[], object]) -> None:
        return None


def seconds(value: Seconds) -> float:
    """A duration in seconds, whichever way it was written."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
