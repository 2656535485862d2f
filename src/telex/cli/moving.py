"""`telex dead redrive|discard`."""

from __future__ import annotations

import asyncio
import shlex
from argparse import Namespace
from typing import NamedTuple

from ..app import Telex
from ..deadletters import PASS, DeadLetters
from . import filters, parser, values
from .bar import Bar
from .interrupts import Stop, confirm, run
from .output import Exit, Failure, Output
from .parser import Commands
from .target import find_app
from .texts import plural


class _Verb(NamedTuple):
    """What is done with letters."""

    name: str
    done: str
    help: str
    more: str


VERBS = (
    _Verb(
        "redrive",
        "redriven",
        "send dead letters back to the source they died in",
        "Same id, attempts from 1, history kept. Interrupted, what was not sent is still a dead letter.",
    ),
    _Verb("discard", "discarded", "delete dead letters for good", "Interrupted, what was not deleted is still there."),
)


class _Interrupted(Exception):
    """Between two steps, where nothing is half done."""


def add(verbs: Commands) -> None:
    """Adds the two."""
    for verb in VERBS:
        one = parser.add(
            verbs,
            verb.name,
            verb.help,
            f"telex dead {verb.name} emails --all --dry-run",
            f"telex dead {verb.name} --error TimeoutError --since -2h --yes",
            run=_move,
            more=verb.more,
        )
        filters.add(one)
        one.add_argument("--all", action="store_true", help="all of the source, or of all sources; instead of a filter")
        one.add_argument("--dry-run", action="store_true", help="only count")
        one.add_argument("--yes", action="store_true", help="do not ask")
        if verb.name == "redrive":
            one.add_argument("--rate", type=values.rate, metavar="N", help="at most N a second")
        one.set_defaults(rate=None)


def _move(arguments: Namespace, output: Output) -> Exit:
    if not filters.given(arguments) and not arguments.all:
        raise Failure(Exit.USAGE, f"dead {arguments.verb}: give a filter, or --all")
    app = find_app(arguments)
    return run(lambda stop: _run(app, arguments, output, stop))


async def _run(app: Telex, arguments: Namespace, output: Output, stop: Stop) -> Exit:
    verb = next(verb for verb in VERBS if verb.name == arguments.verb)
    where = arguments.source or "all sources"
    async with app.looking():
        letters = filters.letters(app, arguments)
        count = await letters.count()
        if arguments.limit is not None:
            count = min(count, arguments.limit)
        if arguments.dry_run or not count:
            text = f"{plural(count, 'dead letter')} of {where} would be {verb.done}" if count else _nothing(arguments)
            output.record({"count": count, "done": False}, text)
            filters.partly(letters, output)
            return Exit.OK
        confirm(f"{plural(count, 'dead letter')} of {where} will be {verb.done}", arguments.yes, output, stop)
        with Bar(output, verb.done, count) as bar, stop.gently():
            try:
                total = await _step(letters, arguments, bar, stop)
            except _Interrupted:
                raise Failure(Exit.INTERRUPTED, "interrupted: " + _how_on(arguments, verb, bar.done, count)) from None
            except asyncio.CancelledError:
                text = f"interrupted in the middle of a step of at most {PASS:,}: at least "
                raise Failure(Exit.INTERRUPTED, text + _how_on(arguments, verb, bar.done, count)) from None
            except Exception:
                output.note(f"{bar.done:,} of {plural(count, 'dead letter')} {verb.done}, then it failed:")
                raise
        filters.partly(letters, output)
    output.record({"count": total, "done": True}, f"{plural(total, 'dead letter')} of {where} {verb.done}")
    if total < count:
        output.note(f"{plural(count - total, 'dead letter was', 'dead letters were')} gone meanwhile")
    return Exit.OK


async def _step(letters: DeadLetters, arguments: Namespace, bar: Bar, stop: Stop) -> int:
    def progress(count: int) -> None:
        bar.add(count)
        if stop.asked:
            raise _Interrupted

    if arguments.verb == "redrive":
        return await letters.redrive(limit=arguments.limit, rate=arguments.rate, progress=progress)
    return await letters.discard(limit=arguments.limit, progress=progress)


def _nothing(arguments: Namespace) -> str:
    fits = " that fit the filter" if filters.given(arguments) else ""
    return f"no dead letters of {arguments.source}{fits}" if arguments.source else f"no dead letters{fits}"


def _how_on(arguments: Namespace, verb: _Verb, done: int, count: int) -> str:
    words = ["telex", "dead", verb.name, *filters.words(arguments)]
    if not filters.given(arguments):
        words.append("--all")
    if arguments.limit is not None:
        words += ["--limit", str(arguments.limit - done)]
    if arguments.rate is not None:
        words += ["--rate", f"{arguments.rate:g}"]
    return (
        f"{done:,} of {plural(count, 'dead letter')} {verb.done}, the others are still there; "
        f"go on with: {shlex.join(words)}"
    )
