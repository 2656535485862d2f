"""Order per key: which fetched message may start now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ..engine import Fetched


class KeyOrder:
    """The messages of one source by key. At most one of a key is started; the others wait here, in position order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Fetched]] = {}
        """A key is in here while one of its messages is in hand or its retry is being written."""

    def enter(self, fetched: Fetched) -> bool:
        """Takes a message in; whether it may start now."""
        key = fetched.message.key
        if key is None:
            return True
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
            return True
        waiting.append(fetched)
        return False

    def leave(self, fetched: Fetched) -> Fetched | None:
        """A message is finished: the next of its key, or None."""
        key = fetched.message.key
        if key is None or (waiting := self._waiting.get(key)) is None:
            return None
        if waiting:
            return waiting.popleft()
        del self._waiting[key]
        return None

    def retire(self, fetched: Fetched) -> list[Fetched]:
        """A message will be retried: its successors in hand, to be released with it. The key stays blocked."""
        waiting = self._waiting.get(fetched.message.key or "")
        if not waiting:
            return []
        successors = list(waiting)
        waiting.clear()
        return successors

    def reopen(self, retried: Fetched) -> tuple[Fetched | None, list[Fetched]]:
        """The retry is written, or its lease is lost: (the next of its key to start, those to release).

        What came in while it was being written was fetched before the engine knew; only what follows the
        retried message itself is in order again. After a loss it comes at another position.
        """
        key = retried.message.key
        if key is None or (waiting := self._waiting.get(key)) is None:
            return None, []
        id, stale = retried.message.id, []
        while waiting and waiting[0].position != retried.position and waiting[0].message.id != id:
            stale.append(waiting.popleft())
        if waiting:
            return waiting.popleft(), stale
        del self._waiting[key]
        return None, stale

    def drop(self, leases: Iterable[object]) -> list[Fetched]:
        """Forgets waiting messages whose leases are lost; which they were."""
        gone = {id(lease) for lease in leases}
        dropped = []
        for waiting in self._waiting.values():
            lost = [f for f in waiting if id(f.lease) in gone]
            for f in lost:
                waiting.remove(f)
            dropped += lost
        return dropped

    def drain(self) -> Sequence[Fetched]:
        """Everything that waits; nothing waits afterwards."""
        waiting = [f for queue in self._waiting.values() for f in queue]
        for queue in self._waiting.values():
            queue.clear()
        return waiting
