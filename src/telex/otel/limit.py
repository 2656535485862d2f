"""How many traces may begin: recording is dearer than messages are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..events import TRACES_LIMITED

log = logging.getLogger("telex.otel")

QUIET = 60.0
"""Seconds between two lines about it."""


class Limit:
    """At most so many in each second. Safe from any thread: two that race may let one more through, or one less.

    Args:
        per_second: How many; None for no limit.
        monotonic: Seconds that never go back.
    """

    def __init__(self, per_second: int | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._second = -1
        self._left = 0
        self._refused = 0
        self._told = float("-inf")

    def take(self) -> bool:
        """Whether one more may begin now."""
        if self._per_second is None:
            return True
        second = int(self._monotonic())
        if second != self._second:
            self._begin(second)
        if self._left > 0:
            self._left -= 1
            return True
        self._refused += 1
        return False

    def back(self) -> None:
        """One that was taken did not begin after all."""
        self._left += 1

    def _begin(self, second: int) -> None:
        assert self._per_second is not None
        self._second, self._left = second, self._per_second
        if self._refused and second - self._told >= QUIET:
            text = "more than %d traces began in a second: %d were not recorded (limit of telex.otel.instrument)"
            TRACES_LIMITED.log(
                log, text, self._per_second, self._refused, limit=self._per_second, unrecorded=self._refused
            )
            self._told, self._refused = second, 0
