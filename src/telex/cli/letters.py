"""`telex dead list|show`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

from ..app import Telex
from ..deadletters import DeadLetter
from ..delivery.attempt import Attempt
from . import filters, parser
from .interrupts import run
from .output import Exit, Failure, Output, Style
from .parser import Commands
from .target import find_app
from .texts import content, plural, text_of, words


def add(verbs: Commands) -> None:
    """Adds the two."""
    one = parser.add(
        verbs,
        "list",
        "list dead letters, oldest first, or what they died of",
        "telex dead list --by-cause",
        "telex dead list emails --error TimeoutError --since -2h",
        run=_list,
        more="Prints time of death, id, source, reason and error, one a line, as they are read.",
    )
    filters.add(one)
    one.add_argument("--by-cause", action="store_true", help="grouped by what they died of, most frequent first")
    one = parser.add(
        verbs,
        "show",
        "show one dead letter whole: body, headers, and every attempt with its traceback",
        "telex dead show 0000019a2f5c-1",
        "telex dead show 0000019a2f5c-1 --json | jq .body",
        run=_show,
    )
    one.add_argument("letter", metavar="ID")


def _list(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: (_causes if arguments.by_cause else _letters)(app, arguments, output))


def _show(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: _whole(app, arguments, output))


async def _letters(app: Telex, arguments: Namespace, output: Output) -> Exit:
    count = 0
    async with app.looking():
        letters = filters.letters(app, arguments)
        async for letter in letters:
            if count == arguments.limit:
                break
            count += 1
            output.record(_record(letter), _line(letter, output))
            if count % 100 == 0:
                await asyncio.sleep(0)  # An interrupt is heard here.
    if not output.as_json:
        output.flush()
        output.note(plural(count, "dead letter"))
    filters.partly(letters, output)
    return Exit.OK


async def _causes(app: Telex, arguments: Namespace, output: Output) -> Exit:
    async with app.looking():
        letters = filters.letters(app, arguments)
        causes = await letters.causes()
    rows = [{field: getattr(cause, field) for field in cause.__struct_fields__} for cause in causes]
    if rows or output.as_json:
        columns = ("count", "source", "reason", "error", "place", "last")
        output.table(columns, rows[: arguments.limit], _style, ("count",))
    else:
        output.note("no dead letters")
    filters.partly(letters, output)
    return Exit.OK


async def _whole(app: Telex, arguments: Namespace, output: Output) -> Exit:
    shown = 0
    async with app.looking():
        async for letter in app.dead_letters().where(ids=[arguments.letter]):
            if shown and not output.as_json:
                output.record({}, "")
            shown += 1
            output.record(_record(letter, whole=True), _story(letter, output))
    if not shown:
        raise Failure(Exit.PROBLEM, f"there is no dead letter with the id {arguments.letter!r}: see telex dead list")
    return Exit.OK


def _style(column: str, value: object) -> Style | None:
    return Style.BAD if column == "error" else None


def _line(letter: DeadLetter, output: Output) -> str:
    """The id stands where a narrow terminal does not cut it off: it is what `dead show` is asked with."""
    parts = (letter.died, letter.message.id, letter.source, letter.reason, letter.text)
    return output.fit("  ".join(output.words(part) for part in parts))


def _record(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": letter.message.id,
        "source": letter.source,
        "reason": letter.reason,
        "text": letter.text,
        "died": letter.died,
        "key": letter.message.key,
        "redrives": letter.redrives,
        "attempts": len(letter.attempts),
    }
    if whole:
        record["channel"] = letter.message.channel
        record["time"] = letter.message.time
        record["headers"] = letter.message.headers
        record |= content(letter.message)
        record["attempts"] = [
            {field: getattr(attempt, field) for field in attempt.__struct_fields__} for attempt in letter.attempts
        ]
    return record


def _story(letter: DeadLetter, output: Output) -> str:
    message = letter.message
    facts = [
        ("message", words(message.id)),
        ("source", f"{letter.source}  (published to {message.channel}, {words(message.time)})"),
        ("died", f"{words(letter.died)}  {letter.reason.value}: {words(letter.text)}"),
        ("key", words(message.key)),
        ("redrives", f"{letter.redrives}"),
        *(("header", f"{words(name)}: {words(value)}") for name, value in message.headers.items()),
        ("body", words(text_of(message))),
    ]
    lines = [f"{output.paint(f'{name:<9}', Style.HEAD)} {text}" for name, text in facts]
    for attempt in letter.attempts:
        lines += ["", *_attempt(attempt, output)]
    filter = f"{letter.source} --id '{words(message.id)}'"
    lines += ["", output.paint(f"send it again: telex dead redrive {filter}", Style.FAINT)]
    return "\n".join(lines)


def _attempt(attempt: Attempt, output: Output) -> list[str]:
    head = f"attempt {attempt.number}  {words(attempt.started)}  {words(attempt.worker)}  {words(attempt.error)}"
    trace = attempt.traceback or attempt.text
    return [output.paint(head, Style.HEAD), *(f"    {words(line)}" for line in trace.splitlines())]
