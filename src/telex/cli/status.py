"""`telex status`: how every source stands; exit code 1 if something is wrong."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence

from ..app import Telex
from ..engine import SourceStats
from ..stats import Stats
from .output import Exit, Failure, Output, span

COLUMNS = ("source", "ready", "retrying", "delayed", "leased", "dead", "oldest", "consumers")


async def status(app: Telex, arguments: Namespace, output: Output) -> Exit:
    """Prints the state of all sources, or of some; again and again with ``--watch``."""
    async with app:
        while True:
            stats = await app.stats()
            shown = _chosen(stats, arguments.source)
            output.table(COLUMNS, [_row(source) for source in shown])
            problems = [*stats.problems, *_over(shown, arguments)]
            for problem in problems:
                output.problem(problem)
            output.flush()
            if arguments.watch is None:
                return Exit.PROBLEM if problems else Exit.OK
            await asyncio.sleep(arguments.watch)


def _chosen(stats: Stats, wanted: Sequence[str]) -> list[SourceStats]:
    known = {source.source for source in stats.sources}
    if unknown := [name for name in wanted if name not in known]:
        there = ", ".join(sorted(known)) or "none"
        raise Failure(Exit.USAGE, f"no source {', '.join(unknown)}; there are {there}")
    return [source for source in stats.sources if not wanted or source.source in wanted]


def _row(source: SourceStats) -> dict[str, object]:
    return {name: getattr(source, name) for name in (*COLUMNS, "next_retry", "size")}


def _over(sources: Sequence[SourceStats], arguments: Namespace) -> list[str]:
    found = []
    for source in sources:
        if arguments.max_ready is not None and (source.ready or 0) > arguments.max_ready:
            found.append(f"{source.source}: {source.ready} ready, more than {arguments.max_ready}")
        if arguments.max_dead is not None and (source.dead or 0) > arguments.max_dead:
            found.append(f"{source.source}: {source.dead} dead letters, more than {arguments.max_dead}")
        age = source.oldest.total_seconds() if source.oldest is not None else 0.0
        if arguments.max_age is not None and age > arguments.max_age:
            found.append(
                f"{source.source}: the oldest message waits for {span(age)}, longer than {span(arguments.max_age)}"
            )
    return found
