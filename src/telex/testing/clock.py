"""A clock that a test moves by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ..clock import Seconds, seconds

START = datetime(2030, 1, 1, tzinfo=UTC)
"""Where virtual time begins unless told otherwise: the same in every run, so that tests repeat."""
BOOT = 1000.0
"""The first reading of the monotonic clock: not 0, which would hide a forgotten start value."""


class VirtualTimer:
    """A timer of a `VirtualClock`: called by whoever moves the time past it."""

    def __init__(self, due: timedelta, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """It will not be called."""
        self.callback = None


class VirtualClock:
    """Time that stands still until it is moved. Safe from any thread.

    Args:
        now: The first instant; aware.

    Raises:
        ValueError: ``now`` has no time zone.
    """

    def __init__(self, now: datetime = START) -> None:
        if now.tzinfo is None:
            raise ValueError(f"VirtualClock({now!r}): write an aware datetime, for example with tzinfo=UTC")
        self._start = now.astimezone(UTC)
        self._elapsed = timedelta(0)
        self._callbacks: list[Callable[[], object]] = []
        self._timers: list[VirtualTimer] = []
        self._lock = threading.Lock()
        """Guards the elapsed time and the list of callbacks."""

    def now(self) -> datetime:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return BOOT + self._elapsed.total_seconds()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> VirtualTimer:
        timer = VirtualTimer(self._elapsed + timedelta(seconds=max(0.0, seconds)), callback)
        with self._lock:
            self._timers.append(timer)
        return timer

    def next_timer(self) -> datetime | None:
        """When the next timer is due; None if there is none."""
        with self._lock:
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            return min((self._start + timer.due for timer in self._timers), default=None)

    def on_jump(self, callback: Callable[[], object]) -> None:
        with self._lock:
            self._callbacks.append(callback)

    def advance(self, by: Seconds) -> None:
        """Moves time on, then tells everybody who asked for it.

        Args:
            by: Seconds or a timedelta, not negative.

        Raises:
            ValueError: ``by`` is negative: time does not go back.
        """
        step = timedelta(seconds=seconds(by))
        if step < timedelta(0):
            raise ValueError(f"advance({by!r}): time does not go back")
        with self._lock:
            self._elapsed += step
            callbacks = tuple(self._callbacks)
        self._run_due()
        for callback in callbacks:
            callback()

    def _run_due(self) -> None:
        with self._lock:
            due = sorted((t for t in self._timers if t.due <= self._elapsed), key=lambda timer: timer.due)
            self._timers = [timer for timer in self._timers if timer.due > self._elapsed]
        for timer in due:
            if timer.callback is not None:
                timer.callback()

    def advance_to(self, instant: datetime) -> None:
        """Moves time on to an instant; not at all if that has passed."""
        self.advance(max(instant - self.now(), timedelta(0)))
