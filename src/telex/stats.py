"""How an application stands."""

from __future__ import annotations

import msgspec

from .engine import SourceStats


class Stats(msgspec.Struct, frozen=True):
    """A look at every source.

    Attributes:
        engine: The engine's name.
        sources: One for each source that exists, by name.
        problems: What is wrong now, one line each; empty when all is well.
    """

    engine: str
    sources: tuple[SourceStats, ...]
    problems: tuple[str, ...]
