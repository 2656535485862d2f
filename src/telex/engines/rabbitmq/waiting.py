"""What this process has sent up the ladder of retries and is not due yet: the broker cannot say for whom it waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from .ladder import UNIT

GRACE = timedelta(seconds=1)
"""After its time, until it must be in its queue: hops take a few milliseconds each, and delays are rounded up."""
LATE = 1 / 8
"""Of its delay a retry may be late; see `ladder.BITS`."""


class Waiting:
    """Retries by source and time."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._by_source: dict[str, list[tuple[datetime, datetime]]] = {}

    def add(self, source: str, at: datetime) -> None:
        """A retry that is due then was stored."""
        wait = at - self._now()
        gone = at + wait * LATE + timedelta(seconds=UNIT) + GRACE
        heapq.heappush(self._by_source.setdefault(source, []), (gone, at))

    def of(self, source: str) -> tuple[int, datetime | None]:
        """(how many wait, when the next is due)."""
        heap = self._by_source.get(source)
        if not heap:
            return 0, None
        now = self._now()
        while heap and heap[0][0] < now:
            heapq.heappop(heap)
        waiting = [at for _, at in heap if at > now]
        return len(heap), min(waiting, default=None)

    @property
    def sources(self) -> Iterable[str]:
        """Those that have or had any."""
        return self._by_source

    def total(self) -> int:
        """All that wait."""
        return sum(self.of(source)[0] for source in self._by_source)
