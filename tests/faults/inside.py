"""The points inside a settlement, engine by engine: between the step that was taken and the one that would follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from telex.engine import Decision
from telex.engines.embedded import settle, store
from telex.engines.embedded.writer import Writer
from telex.engines.rabbitmq.settling import Settling

LETTER = "after dead letter before settle"
EMISSION = "in emission"

PassBy = Callable[[str], None]
Wrap = Callable[[Any, PassBy], Any]


def hooks() -> Iterator[tuple[Any, str, Wrap]]:
    """(owner, function, what replaces it)."""
    # Embedded: between the statements of a transaction, before its commit.
    yield settle, "_bury", _after(LETTER)
    yield store.Store, "_emit", _after(EMISSION)
    # RabbitMQ: copies and emissions are confirmed, what they come from is not acknowledged yet.
    yield Settling, "_confirmed", _storing
    yield Settling, "_settle", _acknowledging


def quiet_hooks() -> Iterator[tuple[Any, str]]:
    """(owner, function) in which a process must not be stopped: it holds what all others wait for."""
    yield Writer, "_cycle"


def _after(point: str) -> Wrap:
    def wrap(function: Any, pass_by: PassBy) -> Any:
        def hook(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            pass_by(point)
            return answer

        return hook

    return wrap


_stored: ContextVar[frozenset[str]] = ContextVar("_stored", default=frozenset())
"""The points that the acknowledgements of this task lie behind."""


def _storing(function: Any, pass_by: PassBy) -> Any:
    async def hook(settling: Settling, batch: Any, plans: Any, answers: Any) -> None:
        points = {LETTER for index in plans if batch[index].decision is Decision.DEAD}
        points |= {EMISSION for index in plans if batch[index].emit}
        token = _stored.set(frozenset(points))
        try:
            await function(settling, batch, plans, answers)
        finally:
            _stored.reset(token)

    return hook


def _acknowledging(function: Any, pass_by: PassBy) -> Any:
    def hook(settling: Settling, leases: Any) -> None:
        if leases:
            for point in _stored.get():
                pass_by(point)
        function(settling, leases)

    return hook
