"""`telex dead list|show|redrive|discard`."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from ..app import Telex
from ..deadletters import DeadLetter, DeadLetters
from ..deadreason import DeadReason
from .output import Exit, Failure, Output, words


async def dead(app: Telex, arguments: Namespace, output: Output) -> Exit:
    """Runs one of the four."""
    run = {"list": _list, "show": _show, "redrive": _move, "discard": _move}[arguments.verb]
    async with app:
        return await run(app, arguments, output)


def _letters(app: Telex, arguments: Namespace) -> DeadLetters:
    return app.dead_letters(arguments.source).where(
        ids=arguments.id,
        reason=None if arguments.reason is None else DeadReason(arguments.reason),
        error=arguments.error,
        key=arguments.key,
        since=arguments.since,
        until=arguments.until,
    )


async def _list(app: Telex, arguments: Namespace, output: Output) -> Exit:
    letters = _letters(app, arguments)
    if arguments.by_cause:
        rows = [
            {
                "count": cause.count,
                "source": cause.source,
                "reason": cause.reason.value,
                "error": cause.error,
                "place": cause.place,
                "first": cause.first,
                "last": cause.last,
            }
            for cause in await letters.causes()
        ]
        output.table(("count", "source", "reason", "error", "place", "last"), rows[: arguments.limit])
        return Exit.OK
    count = 0
    if arguments.limit == 0:
        return Exit.OK
    async for letter in letters:
        count += 1
        line = "  ".join(
            words(v) for v in (letter.died, letter.source, letter.reason.value, letter.message.id, letter.text)
        )
        output.record(_record(letter), line)
        if count == arguments.limit:
            break
    if not output.as_json:
        output.note(f"{count} dead letters")
    return Exit.OK


async def _show(app: Telex, arguments: Namespace, output: Output) -> Exit:
    shown = 0
    async for letter in app.dead_letters().where(ids=[arguments.letter]):
        shown += 1
        output.record(_record(letter, whole=True), _story(letter))
    if not shown:
        raise Failure(Exit.PROBLEM, f"there is no dead letter with the id {arguments.letter!r}")
    return Exit.OK


async def _move(app: Telex, arguments: Namespace, output: Output) -> Exit:
    filtered = (
        arguments.id or arguments.reason or arguments.error or arguments.key or arguments.since or arguments.until
    )
    if not filtered and not arguments.all:
        raise Failure(Exit.USAGE, f"dead {arguments.verb}: give a filter, or --all")
    letters = _letters(app, arguments)
    count = await letters.count()
    if arguments.limit is not None:
        count = min(count, arguments.limit)
    where = arguments.source or "all sources"
    done = {"redrive": "redriven", "discard": "discarded"}[arguments.verb]
    if arguments.dry_run or not count:
        output.record({"count": count, "done": False}, f"{count} dead letters of {where} would be {done}")
        return Exit.OK
    _confirm(f"{count} dead letters of {where} will be {done}", arguments.yes, output)
    moved = 0
    report = sys.stderr.isatty() and not output.as_json

    def progress(step: int) -> None:
        nonlocal moved
        moved += step
        if report:
            print(f"\r{moved}/{count}", end="", file=sys.stderr, flush=True)

    if arguments.verb == "redrive":
        total = await letters.redrive(limit=arguments.limit, rate=arguments.rate, progress=progress)
    else:
        total = await letters.discard(limit=arguments.limit, progress=progress)
    if report:
        print(file=sys.stderr)
    output.record({"count": total, "done": True}, f"{total} dead letters of {where} {done}")
    return Exit.OK


def _confirm(text: str, yes: bool, output: Output) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(Exit.USAGE, f"{text}: say --yes to do it without being asked")
    output.note(f"{text}. Go on? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure(Exit.PROBLEM, "nothing was done")


def _record(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": letter.message.id,
        "source": letter.source,
        "reason": letter.reason.value,
        "text": letter.text,
        "died": letter.died,
        "key": letter.message.key,
        "redrives": letter.redrives,
        "attempts": len(letter.attempts),
    }
    if whole:
        record["channel"] = letter.message.channel
        record["headers"] = dict(letter.message.headers)
        record["content_type"] = letter.message.content_type
        record["body"] = letter.message.body.decode("utf-8", "backslashreplace")
        record["attempts"] = [
            {
                "number": attempt.number,
                "started": attempt.started,
                "worker": attempt.worker,
                "error": attempt.error,
                "text": attempt.text,
                "traceback": attempt.traceback,
            }
            for attempt in letter.attempts
        ]
    return record


def _story(letter: DeadLetter) -> str:
    message = letter.message
    lines = [
        f"message   {words(message.id)}",
        f"source    {letter.source} (published to {message.channel} at {words(message.time)})",
        f"died      {words(letter.died)}: {letter.reason.value}: {words(letter.text)}",
        f"key       {words(message.key)}",
        f"redrives  {letter.redrives}",
        *(f"header    {words(name)}: {words(value)}" for name, value in message.headers.items()),
        f"body      {words(message.body.decode('utf-8', 'backslashreplace'))}",
    ]
    for attempt in letter.attempts:
        lines.append("")
        lines.append(
            f"attempt {attempt.number}, {words(attempt.started)}, {words(attempt.worker)}: {words(attempt.error)}"
        )
        lines += [f"    {words(line)}" for line in attempt.traceback.splitlines()]
    return "\n".join(lines)
