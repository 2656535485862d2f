"""Keys of an ordered source whose retry is being written, on the application's loop, whatever the engine runs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from ..engine import Decision, Fetched, Settlement
from ..message import Message


class Leased(Protocol):
    """A lease that knows its message."""

    message: Message

    @property
    def epoch(self) -> object:
        """By identity: while it is the same, nothing of a key is handed out twice. After a loss it is another."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Writing:
    """One retry that is being written.

    Attributes:
        key: Its key.
        epoch: In which the message was handed out.
    """

    key: str
    epoch: object


class Retrying:
    """What was handed out before a retry was stored must not be fetched after it.

    What is handed out in another epoch is nothing of the kind: the message that failed was lost meanwhile, and comes
    again with all behind it, in order.
    """

    def __init__(self) -> None:
        self._writing: dict[str, list[Writing]] = {}

    def begin(self, batch: Sequence[Settlement]) -> list[Writing]:
        """The retries of a batch; `end` must follow for each."""
        begun: list[Writing] = []
        for settlement in batch:
            if settlement.decision is Decision.RETRY:
                lease = cast(Leased, settlement.lease)
                key = lease.message.key
                if key is not None:
                    writing = Writing(key, lease.epoch)
                    begun.append(writing)
                    self._writing.setdefault(key, []).append(writing)
        return begun

    def end(self, written: Iterable[Writing]) -> None:
        """These retries are stored, or will not be."""
        for writing in written:
            left = self._writing[writing.key]
            left.remove(writing)
            if not left:
                del self._writing[writing.key]

    def is_stale(self, fetched: Fetched) -> bool:
        """Whether a delivery follows a message whose retry is being written, and has to go back."""
        writing = self._writing.get(fetched.message.key or "")
        return writing is not None and any(one.epoch is cast(Leased, fetched.lease).epoch for one in writing)

    def part(self, given: Sequence[Fetched]) -> tuple[Sequence[Fetched], Sequence[Fetched]]:
        """Of deliveries that came: those to be fetched, and those that go back."""
        if not self._writing:
            return given, ()
        stale = [fetched for fetched in given if self.is_stale(fetched)]
        return [fetched for fetched in given if not self.is_stale(fetched)] if stale else given, stale
