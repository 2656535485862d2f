"""`telex topology plan|apply|verify|show|remove`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from ..app import Telex
from ..engine import Change, Status
from ..names import parse_source
from ..sources import find_sources
from . import drawing, parser, values
from .interrupts import Stop, confirm, run
from .output import Exit, Failure, Output, Style
from .parser import Commands
from .target import find_app
from .texts import plural, size

MARKS = {
    Status.CREATE: ("+", Style.GOOD, "would be created"),
    Status.DIFFERS: ("~", Style.BAD, "exists and differs"),
    Status.EXTRA: ("-", Style.FAINT, "is not declared"),
    Status.UNKNOWN: ("?", Style.WARN, "cannot be told"),
}


def add(commands: Commands) -> None:
    """Adds the command and its verbs."""
    one = parser.add(
        commands,
        "topology",
        "plan, apply, verify, show and remove channels and groups",
        "telex topology plan",
        "telex topology show --mermaid > topology.mmd",
        more="Nothing that exists is ever altered; only `remove` deletes.",
    )
    verbs = one.add_subparsers(dest="verb", required=True, metavar="VERB")
    _verb(verbs, "plan", "show what declaring the application would create; changes nothing", _plan)
    _verb(verbs, "apply", "create the channels and groups of the application that are missing", _apply)
    _verb(verbs, "verify", "check that every channel and group is there, exactly as declared; 1 if not", _verify)
    drawing.add(verbs)
    remove = parser.add(
        verbs,
        "remove",
        "end a source with all it holds, its dead letters too",
        "telex topology remove orders.placed/old",
        "telex topology remove emails --yes",
        run=_remove,
        more="The only way a group ends: one that nobody runs any more keeps its messages. A queue goes with it.",
    )
    remove.add_argument("source", metavar="SOURCE", type=values.source)
    remove.add_argument("--yes", action="store_true", help="do not ask")


def _verb(verbs: Commands, name: str, help: str, action: Any) -> None:
    examples = (f"telex topology {name}", f"telex -a shop:app topology {name} --json")

    def go(arguments: Namespace, output: Output) -> Exit:
        app = find_app(arguments)
        return run(lambda stop: action(app, output))

    parser.add(verbs, name, help, *examples, run=go)


async def _plan(app: Telex, output: Output) -> Exit:
    async with app.looking():
        changes = await app.plan()
        refusals = app.refusals()
    _print(changes, output)
    for refusal in refusals:
        output.problem(str(refusal))
    missing = sum(change.status is Status.CREATE for change in changes)
    if not output.as_json:
        output.flush()
        todo = f"{missing} to create with: telex topology apply" if missing else "nothing to create"
        output.note(_nothing(app) or todo)
    if refusals:
        return Exit.REFUSED
    return Exit.PROBLEM if any(change.status is Status.DIFFERS for change in changes) else Exit.OK


async def _apply(app: Telex, output: Output) -> Exit:
    async with app.looking():
        if refusals := app.refusals():
            raise ExceptionGroup("the engine cannot run this application", refusals)
        differing = [change for change in await app.plan() if change.status is Status.DIFFERS]
        if differing:
            _print(differing, output)
            raise Failure(Exit.PROBLEM, "nothing was created: declare these as they are, or under other names")
        made = await app.declare()
    for change in made:
        output.record({"created": change.what}, f"{output.paint('+', Style.GOOD)} {change.what} created")
    if not made and not output.as_json:
        output.note(_nothing(app) or "everything is there already")
    return Exit.OK


async def _verify(app: Telex, output: Output) -> Exit:
    async with app.looking():
        changes = await app.plan()
        refusals = app.refusals()
    _print(changes, output)
    for refusal in refusals:
        output.problem(str(refusal))
    wrong = [change for change in changes if change.status in (Status.CREATE, Status.DIFFERS)]
    if refusals:
        return Exit.REFUSED
    if wrong:
        raise Failure(Exit.PROBLEM, f"{plural(len(wrong), 'thing is', 'things are')} not as declared")
    if not output.as_json:
        output.flush()
        output.note(_nothing(app) or "everything is there, exactly as declared")
    return Exit.OK


def _nothing(app: Telex) -> str | None:
    """An application on a URL alone declares nothing, which is no proof of anything."""
    if app.registrations:
        return None
    return "this application declares no handlers, so there is nothing to compare: name one with -a MODULE:APP"


def _print(changes: Sequence[Change], output: Output) -> None:
    for change in changes:
        mark, style, text = MARKS[change.status]
        because = f" ({change.because})" if change.because and change.status is not Status.CREATE else ""
        output.record(
            {"status": change.status, "what": change.what, "because": change.because},
            output.paint(f"{mark} {change.what} {text}{because}", style),
        )


def _remove(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: _end(app, arguments, output, stop))


async def _end(app: Telex, arguments: Namespace, output: Output, stop: Stop) -> Exit:
    async with app.looking():
        (source,) = await find_sources(app.admin, arguments.source)
        (stats,) = await app.admin.stats([source])
        waiting = sum(n or 0 for n in (stats.ready, stats.retrying, stats.delayed, stats.leased))
        holds = f"{plural(waiting, 'message')}, {plural(stats.dead or 0, 'dead letter')}"
        if stats.size:
            holds += f", {size(stats.size)}"
        if stats.consumers:
            users = plural(stats.consumers, "process consumes", "processes consume")
            output.note(f"{users} {source} now: stop them first, or they declare it again")
        what = f"queue {source}" if parse_source(arguments.source)[1] is None else f"group {source}"
        confirm(f"{what} will be removed with all it holds: {holds}", arguments.yes, output, stop)
        await app.admin.remove(source)
    output.record({"removed": str(source)}, f"{what} removed")
    return Exit.OK
