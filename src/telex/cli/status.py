"""`telex status`: how every source stands; exit code 1 if something is wrong."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ..app import Telex
from ..engine import SourceStats
from ..errors import Disconnected
from ..stats import Stats
from . import parser, values
from .interrupts import run
from .output import Exit, Failure, Output, Style
from .parser import Commands
from .target import find_app
from .texts import plural, size, span

COLUMNS = ("source", "ready", "retrying", "delayed", "leased", "dead", "oldest", "consumers")
ALSO = ("next_retry", "size")
"""Shown as JSON only."""


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "status",
        "show how every source stands",
        "telex status",
        "telex status emails orders.placed/billing --watch 2s",
        "telex status --max-age 5m --max-dead 0 --max-ready 10000 > /dev/null || page-somebody",
        run=_status,
        more="ready: could be delivered now; retrying: waits for its next attempt, or behind one to keep order; "
        "delayed: sends that are not due; leased: in hand; dead: dead letters; oldest: age of the oldest "
        "unsettled message; consumers: processes that consume it now. A dash: the engine cannot tell. "
        "Exit code 1 if there are problems or a limit is passed.",
    )
    one.add_argument("source", nargs="*", metavar="SOURCE", help="these only, for example orders.placed/billing")
    one.add_argument(
        "--watch", type=values.pause, nargs="?", const=2.0, metavar="2s", help="again and again, until Ctrl-C"
    )
    one.add_argument("--max-ready", type=values.count, metavar="N", help="at most N messages ready in a source")
    one.add_argument("--max-age", type=values.duration, metavar="5m", help="no unsettled message older than this")
    one.add_argument("--max-dead", type=values.count, metavar="N", help="at most N dead letters in a source")


def _status(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: _show(app, arguments, output))


async def _show(app: Telex, arguments: Namespace, output: Output) -> Exit:
    async with app.looking():
        if arguments.watch is None:
            return _print(await app.stats(), arguments, output, None)
        while True:
            now = datetime.now(UTC)
            try:
                stats = await app.stats()
            except Disconnected as error:  # Who watches wants to see it come back.
                output.problem(str(error))
            else:
                output.clear()
                _print(stats, arguments, output, now)
            output.flush()
            await asyncio.sleep(arguments.watch)


def _print(stats: Stats, arguments: Namespace, output: Output, at: datetime | None) -> Exit:
    shown = _chosen(stats, arguments.source)
    rows = [_row(source) if at is None else {"at": at, **_row(source)} for source in shown]
    if at is not None and not output.as_json:
        output.record({}, f"{at.astimezone():%Y-%m-%d %H:%M:%S}  {stats.engine}, {plural(len(shown), 'source')}")
    if shown or output.as_json:
        output.table(COLUMNS, rows, _style, COLUMNS[1:])
    else:
        output.record({}, "there are no sources yet: they appear when an application that declares them opens")
    output.flush()
    for source in shown:
        if hint := _forgotten(source):
            output.note(hint)
    problems = [*stats.problems, *_over(shown, stats.engine, arguments)]
    for problem in problems:
        output.problem(problem)
    return Exit.PROBLEM if problems else Exit.OK


def _chosen(stats: Stats, wanted: Sequence[str]) -> list[SourceStats]:
    known = {source.source for source in stats.sources}
    if unknown := [name for name in wanted if name not in known]:
        there = ", ".join(sorted(known)[:8]) or "none"
        raise Failure(Exit.USAGE, f"no source {', '.join(unknown)}; there are {there}")
    return [source for source in stats.sources if not wanted or source.source in wanted]


def _row(source: SourceStats) -> dict[str, object]:
    return {name: getattr(source, name) for name in (*COLUMNS, *ALSO)}


def _style(column: str, value: Any) -> Style | None:
    if column == "dead" and value:
        return Style.BAD
    return Style.WARN if column == "retrying" and value else None


def _forgotten(source: SourceStats) -> str | None:
    """A group that nobody runs keeps its messages for ever; somebody should know."""
    if source.consumers != 0 or "/" not in source.source:
        return None
    waiting = sum(n or 0 for n in (source.ready, source.retrying, source.delayed))
    if not waiting:
        return None
    held = f" ({size(source.size)})" if source.size else ""
    return (
        f"{source.source} keeps {plural(waiting, 'message')}{held} and nobody consumes it: "
        f"run it, or end it with: telex topology remove {source.source}"
    )


def _over(sources: Sequence[SourceStats], engine: str, arguments: Namespace) -> list[str]:
    """What passes a limit.

    Raises:
        Failure: The engine does not tell what is limited: a check that cannot fail would be believed.
    """
    found = []
    for source in sources:
        if arguments.max_ready is not None and _told("ready", source, engine) > arguments.max_ready:
            found.append(f"{source.source}: {source.ready:,} ready, more than {arguments.max_ready:,}")
        if arguments.max_dead is not None and _told("dead", source, engine) > arguments.max_dead:
            found.append(
                f"{source.source}: {plural(source.dead or 0, 'dead letter')}, more than {arguments.max_dead:,}"
            )
        if arguments.max_age is not None:
            age = source.oldest.total_seconds() if source.oldest is not None else 0.0
            if source.oldest is None and (source.ready or source.ready is None):
                _told("oldest", source, engine)
            if age > arguments.max_age:
                limit = span(arguments.max_age)
                found.append(f"{source.source}: the oldest message waits for {span(age)}, longer than {limit}")
    return found


def _told(field: str, source: SourceStats, engine: str) -> int:
    value: int | None = getattr(source, field)
    if value is None:
        option = {"ready": "--max-ready", "dead": "--max-dead", "oldest": "--max-age"}[field]
        raise Failure(
            Exit.REFUSED,
            f"{source.source}: the {engine} engine cannot tell {field!r}, so {option} cannot be checked; leave it out",
        )
    return value
