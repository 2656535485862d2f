"""`telex replay`: hands a group messages of the past again."""

from __future__ import annotations

import asyncio
import shlex
from argparse import Namespace
from datetime import UTC, datetime

from ..app import Telex
from ..engine import Source, SourceKind
from ..sources import find_sources
from . import parser, values
from .bar import Bar
from .interrupts import Stop, confirm, run
from .output import Exit, Failure, Output
from .parser import Commands
from .target import find_app
from .texts import plural, words


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "replay",
        "hand a group the messages of the past again",
        "telex replay orders.placed/billing --since -2h --dry-run",
        "telex replay orders.placed/billing --since 2026-11-25T14:00 --until 2026-11-25T15:00 --yes",
        run=_replay,
        more="Beside what it does now. Only this group gets them: same ids, so idempotent handlers know them; "
        "outside the order promise. "
        "An engine without history refuses with exit code 4.",
    )
    one.add_argument("source", metavar="TOPIC/GROUP", type=values.source)
    one.add_argument(
        "--since", type=values.since, metavar="-2h|ISO|start", required=True, help="published at or after; start: all"
    )
    one.add_argument("--until", type=values.instant, metavar="-1h|ISO", help="published before; otherwise now")
    one.add_argument("--dry-run", action="store_true", help="only count")
    one.add_argument("--yes", action="store_true", help="do not ask")
    one.add_argument("--resume", metavar="TOKEN", help="go on where an interrupted replay ended")


def _replay(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: _run(app, arguments, output, stop))


async def _run(app: Telex, arguments: Namespace, output: Output, stop: Stop) -> Exit:
    since, until = arguments.since, arguments.until or datetime.now(UTC)
    if since >= until:
        raise Failure(Exit.USAGE, f"--since {words(since)} is not before --until {words(until)}")
    async with app.looking():
        if (refusal := app.features.refusal("replay")) is not None:
            raise refusal
        (source,) = await find_sources(app.admin, arguments.source)
        if source.kind is not SourceKind.GROUP:
            raise Failure(Exit.USAGE, f"{source} is a queue: only groups of a topic can be replayed; write TOPIC/GROUP")
        count = await _count(app, source, since, until, arguments.resume)
        begin = "the start" if since.timestamp() == 0 else words(since)
        what = f"{plural(count, 'message')} published from {begin} to {words(until)}"
        if arguments.dry_run or not count:
            output.record({"count": count, "done": False}, f"{what} would be handed to {source} again")
            return Exit.OK
        confirm(f"{what} will be handed to {source} again", arguments.yes, output, stop)
        token = arguments.resume
        with Bar(output, "replayed", count) as bar, stop.gently():
            while True:
                try:
                    done, token = await app.admin.replay(source, since, until, token, False)
                except (Exception, asyncio.CancelledError):
                    output.note(f"the step under way may have been done; go on with: {_again(arguments, until, token)}")
                    raise
                bar.add(done)
                if token is None:
                    break
                if stop.asked:
                    raise Failure(
                        Exit.INTERRUPTED,
                        f"interrupted: {bar.done:,} of {plural(count, 'message')} replayed; "
                        f"go on with: {_again(arguments, until, token)}",
                    )
    output.record({"count": bar.done, "done": True}, f"{plural(bar.done, 'message')} handed to {source} again")
    return Exit.OK


async def _count(app: Telex, source: Source, since: datetime, until: datetime, token: str | None) -> int:
    count = 0
    while True:
        done, token = await app.admin.replay(source, since, until, token, True)
        count += done
        if token is None:
            return count


def _again(arguments: Namespace, until: datetime, token: str | None) -> str:
    since = "start" if arguments.since.timestamp() == 0 else arguments.since.isoformat()
    words = ["telex", "replay", arguments.source, "--since", since, "--until", until.isoformat()]
    return shlex.join([*words, "--resume", token] if token else words)
