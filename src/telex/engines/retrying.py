"""Keys of an ordered source whose retry is being written, on the application's loop, whatever the engine runs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

from ..engine import Decision, Fetched, Settlement
from ..message import Message


class Leased(Protocol):
    """A lease that knows its message."""

    message: Message


class Retrying:
    """What was handed out before a retry was stored must not be fetched after it."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}

    def begin(self, batch: Sequence[Settlement]) -> list[str]:
        """The keys that a batch retries; `end` must follow for each."""
        keys: list[str] = []
        for settlement in batch:
            if settlement.decision is Decision.RETRY:
                key = cast(Leased, settlement.lease).message.key
                if key is not None:
                    keys.append(key)
                    self._keys[key] = self._keys.get(key, 0) + 1
        return keys

    def end(self, keys: Iterable[str]) -> None:
        """These retries are stored, or will not be."""
        for key in keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]

    def part(self, given: Sequence[Fetched]) -> tuple[Sequence[Fetched], Sequence[Fetched]]:
        """Of deliveries that came: those to be fetched, and those that go back."""
        if not self._keys:
            return given, ()
        stale = [fetched for fetched in given if fetched.message.key in self._keys]
        return [fetched for fetched in given if fetched.message.key not in self._keys] if stale else given, stale
