"""What a lane has here and has not handed out, in its order: a key whose message failed waits, with all behind it."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter

from .leases import Held, Lease

BY_POSITION = attrgetter("position")


class WaitingKey:
    """A key that waits: the message that failed, and those behind it.

    Attributes:
        head: The message that failed.
        origin: Its delivery that failed; None where another process wrote that down.
        due: When the key goes on.
        behind: What follows, by position.
        stored: Whether the failure is written down.
        timer: Looks at the key when it is due.
    """

    __slots__ = ("behind", "due", "head", "origin", "stored", "timer")

    def __init__(self, head: Lease, origin: Lease | None, due: datetime) -> None:
        self.head = head
        self.origin = origin
        self.due = due
        self.behind: list[Lease] = []
        self.stored = origin is None
        self.timer: asyncio.TimerHandle | None = None


class Backlog:
    """Deliveries by their position in the lane; what was handed out is known by its key.

    Args:
        now: The clock.
        ready: Told when a key goes on, so that something can be taken.
    """

    def __init__(self, now: Callable[[], datetime], ready: Callable[[], None]) -> None:
        self._now = now
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._lying: deque[Lease] = deque()
        self._out: dict[str, int] = {}
        """How many deliveries of a key are handed out."""
        self._waiting: dict[str, WaitingKey] = {}

    @property
    def first(self) -> Lease | None:
        """What is taken next."""
        return self._lying[0] if self._lying else None

    @property
    def parked(self) -> int:
        """What waits for a retry or behind one."""
        return sum(1 + len(waiting.behind) for waiting in self._waiting.values())

    @property
    def next_due(self) -> datetime | None:
        """When the next key goes on."""
        return min((waiting.due for waiting in self._waiting.values()), default=None)

    def clear(self) -> None:
        """Everything is gone; what was to be held is lost."""
        for waiting in self._waiting.values():
            if waiting.timer is not None:
                waiting.timer.cancel()
            if waiting.origin is not None and waiting.origin.state is Held.OPEN:
                waiting.origin.state = Held.LOST
        self._lying.clear()
        self._out.clear()
        self._waiting.clear()

    # -- in and out -------------------------------------------------------------------------------------------------

    def add(self, lease: Lease) -> None:
        """At the end: it has just come."""
        if not self._park(lease):
            self._lying.append(lease)

    def take(self) -> Lease | None:
        """The next delivery whose key does not wait. `returned` must follow, unless all is cleared."""
        while self._lying:
            lease = self._lying.popleft()
            if lease.state is Held.OPEN and not self._park(lease):
                self._count(lease)
                return lease
        return None

    def has(self, lease: Lease) -> bool:
        """Whether it may be taken: its key does not wait."""
        return lease in self._lying

    def pull(self, lease: Lease) -> bool:
        """Takes this one, wherever it lies; whether it may be taken. `returned` must follow, as after `take`."""
        if lease not in self._lying:
            return False
        self._lying.remove(lease)
        self._count(lease)
        return True

    def _count(self, lease: Lease) -> None:
        key = lease.message.key
        if key is not None:
            self._out[key] = self._out.get(key, 0) + 1

    def put_back(self, lease: Lease) -> bool:
        """To its place; whether it may be taken from there at once, as its key does not wait."""
        if self._park(lease):
            return False
        later: list[Lease] = []
        while self._lying and self._lying[0].position < lease.position:
            later.append(self._lying.popleft())
        self._lying.appendleft(lease)
        self._lying.extendleft(reversed(later))
        return True

    def returned(self, lease: Lease) -> None:
        """What was taken is settled, or put back: its key may go on."""
        key = lease.message.key
        if key is None:
            return
        left = self._out.pop(key, 1) - 1
        if left:
            self._out[key] = left
        else:
            self._look_at(key)

    def _park(self, lease: Lease) -> bool:
        """Behind its key, if that waits."""
        waiting = self._waiting.get(lease.message.key or "")
        if waiting is None:
            return False
        insort(waiting.behind, lease, key=BY_POSITION)
        return True

    # -- keys that wait ---------------------------------------------------------------------------------------------

    def wait(self, key: str, lease: Lease, due: datetime) -> None:
        """A message has come that failed elsewhere: its key waits, unless it is due or its key waits already."""
        if due > self._now() and key not in self._waiting:
            self._begin(key, WaitingKey(lease, None, due))
        else:
            self.add(lease)

    def is_held(self, key: str, lease: Lease) -> bool:
        """Whether `hold` was told of this delivery."""
        waiting = self._waiting.get(key)
        return waiting is not None and waiting.origin is lease

    def hold(self, key: str, again: Lease, origin: Lease, due: datetime) -> None:
        """A delivery failed: its key waits for `held`, for what is handed out of it, and until its time."""
        waiting, known = WaitingKey(again, origin, due), self._waiting.get(key)
        if known is not None:
            waiting.behind = known.behind
            insort(waiting.behind, known.head, key=BY_POSITION)
        self._begin(key, waiting)

    def held(self, origin: Lease) -> None:
        """The failure of a delivery is written down."""
        for key, waiting in list(self._waiting.items()):
            if waiting.origin is origin:
                waiting.stored = True
                self._look_at(key)

    def _begin(self, key: str, waiting: WaitingKey) -> None:
        self._waiting[key] = waiting
        delay = max(0.0, (waiting.due - self._now()).total_seconds())
        waiting.timer = self._loop.call_later(delay, self._look_at, key)

    def _look_at(self, key: str) -> None:
        """Lets a key go on: at its time, when its failure is written down and nothing of it is handed out."""
        waiting = self._waiting.get(key)
        if waiting is None or not waiting.stored or self._out.get(key):
            return
        left = (waiting.due - self._now()).total_seconds()
        if left > 0:
            if waiting.timer is not None:
                waiting.timer.cancel()
            waiting.timer = self._loop.call_later(left, self._look_at, key)
            return
        del self._waiting[key]
        for lease in (*reversed(waiting.behind), waiting.head):
            self.put_back(lease)
        self._ready()
