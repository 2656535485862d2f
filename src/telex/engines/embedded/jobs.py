"""What is asked of the writer's thread, and what of it is tried by itself when it cannot be done together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...engine import Decision
from .work import Call, Publish, Settle, Work


class Job:
    """Something asked for, and who waits for it."""

    __slots__ = ("answered", "cancelled", "future", "loop", "taken", "work")

    def __init__(
        self,
        work: Publish | Settle | Call,
        loop: asyncio.AbstractEventLoop,
        answered: Callable[[], None] | None = None,
    ) -> None:
        self.work = work
        self.answered = answered
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.taken = False
        self.cancelled = False


def together(jobs: Sequence[Job]) -> Work:
    """All that is asked for, for one commit."""
    publishes, settles, calls = [], [], []
    for job in jobs:
        work = job.work
        if isinstance(work, Publish):
            publishes.append(work)
        elif isinstance(work, Settle):
            settles.append(work)
        else:
            calls.append(work)
    return Work(publishes, settles, calls)


def apart(work: Work) -> list[Work]:
    """A work of its own for each thing that was asked for."""
    return [
        *(Work(publishes=[publish]) for publish in work.publishes),
        *(Work(settles=[settle]) for settle in work.settles),
        *(Work(calls=[call]) for call in work.calls),
    ]


def divisible(work: Work) -> bool:
    """Whether it is more than one thing."""
    things: list[Publish | Settle] = [*work.publishes, *work.settles]
    return sum(len(thing.batch) for thing in things) + len(work.calls) > 1


def reduced(work: Work) -> Iterator[Work]:
    """What to try when a commit failed: without publishes, then without handing anything out."""
    if not work.settles and not work.calls:
        return
    if work.publishes:
        yield Work((), work.settles, work.calls)
    yield Work((), work.settles, work.calls, claim=False)


def freeing(settle: Settle) -> Settle:
    """Of these decisions, those that only remove."""
    removes = (Decision.ACCEPT, Decision.DISCARD)
    return Settle([one for one in settle.batch if one.decision in removes and not one.emit], settle.quick)
