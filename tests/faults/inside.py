"""The points inside a settlement, engine by engine: between the step that was taken and the one that would follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from telex.engines.embedded import settle, store
from telex.engines.embedded.writer import Writer

LETTER = "after dead letter before settle"
EMISSION = "in emission"


def hooks() -> Iterator[tuple[Any, str, str]]:
    """(owner, function, the point after it).

    Embedded: between the statements of a transaction, before its commit.
    """
    yield settle, "_bury", LETTER
    yield store.Store, "_emit", EMISSION


def quiet_hooks() -> Iterator[tuple[Any, str]]:
    """(owner, function) in which a process must not be stopped: it holds what all others wait for."""
    yield Writer, "_cycle"
