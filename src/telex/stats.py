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
        unrouted: Messages that this application published to topics without a group, since it was opened.
        expired: Requests that its handlers discarded since nobody waited for the answer any more.
        late: Answers that came when its own requests had given up.
    """

    engine: str
    sources: tuple[SourceStats, ...]
    problems: tuple[str, ...]
    unrouted: int = 0
    expired: int = 0
    late: int = 0
