"""What one transaction is asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from ...engine import Fetched, Outgoing, Settled, Settlement
from .collect import Outcome
from .leases import Holder, Lease


@dataclass(slots=True, eq=False)
class Publish:
    """Messages to store."""

    batch: Sequence[Outgoing]
    quick: bool
    outcomes: Sequence[Outcome] = ()


@dataclass(slots=True, eq=False)
class Settle:
    """Decisions to carry out."""

    batch: Sequence[Settlement]
    quick: bool
    answers: Sequence[Settled] = ()


@dataclass(slots=True, eq=False)
class Call:
    """A function to run in the transaction, and what to do each time that is rolled back: it may run again then."""

    function: Callable[[apsw.Connection], Any]
    undo: Callable[[], None] | None = None
    result: Any = None
    error: Exception | None = None


@dataclass(slots=True)
class Work:
    """What one transaction is asked to do."""

    publishes: Sequence[Publish] = ()
    settles: Sequence[Settle] = ()
    calls: Sequence[Call] = ()
    claim: bool = True
    """Whether anything is handed out. That writes, and when the disk is full it must not stop what frees it."""

    @property
    def quick(self) -> bool:
        """Whether a power cut may undo it: claims, and requests and replies, whose requester it would end as well."""
        return not self.calls and all(p.quick for p in self.publishes) and all(s.quick for s in self.settles)


@dataclass(slots=True)
class Done:
    """What a committed transaction gives to whom."""

    given: list[tuple[Holder, list[Fetched]]] = field(default_factory=list)
    lost: list[Lease] = field(default_factory=list)
    wrote: bool = False
    again: bool = False

    def add(self, other: Done) -> None:
        """What another transaction gives as well."""
        self.given += other.given
        self.lost += other.lost
        self.wrote = self.wrote or other.wrote
        self.again = self.again or other.again
