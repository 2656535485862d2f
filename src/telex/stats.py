"""How an application stands."""

from __future__ import annotations

from dataclasses import dataclass

from .engine import SourceStats


@dataclass(frozen=True, slots=True)
class Stats:
    """A look at every source.

    Attributes:
        engine: The engine's name.
        sources: One for each source that exists, by name.
        problems: What is wrong now, one line each; empty when all is well.
    """

    engine: str
    sources: tuple[SourceStats, ...]
    problems: tuple[str, ...]
