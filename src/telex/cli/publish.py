"""`telex publish` and `telex send`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..app import Telex
from . import bodies, parser, values
from .interrupts import Stop, run
from .output import Exit, Failure, Output
from .parser import Commands
from .target import find_app
from .texts import plural

Store = Callable[[Any], Awaitable[str]]


def add(commands: Commands) -> None:
    """Adds the two."""
    _add(commands, "publish", "TOPIC", "publish to a topic", "orders.placed")
    _add(commands, "send", "QUEUE", "send to a queue", "emails")


def _add(commands: Commands, name: str, channel: str, help: str, where: str) -> None:
    gets = "Every group gets the message." if name == "publish" else "One worker gets the message."
    one = parser.add(
        commands,
        name,
        help,
        f"""telex {name} {where} '{{"id": "1"}}' --key ann""",
        f"telex {name} {where} --lines < bodies.jsonl",
        run=_publish,
        more=f"{gets} Prints the id of each message when it is stored. Bodies are JSON.",
    )
    one.add_argument("channel", metavar=channel)
    bodies.add(one)
    one.add_argument("--key", help="what order is kept by")
    one.add_argument(
        "--header",
        action="append",
        default=[],
        type=values.header,
        metavar="NAME=VALUE",
        help="a header; may be repeated",
    )
    one.add_argument("--id", help="message id; made if not given")
    one.add_argument("--lines", action="store_true", help="each line of stdin is a body")
    if name == "send":
        one.add_argument("--delay", type=values.duration, default=0.0, metavar="10m", help="deliver no earlier")


def _publish(arguments: Namespace, output: Output) -> Exit:
    if arguments.lines and arguments.body not in (None, "-"):
        raise Failure(Exit.USAGE, "--lines reads bodies from stdin: leave the body out")
    if arguments.lines and arguments.id is not None:
        raise Failure(Exit.USAGE, "--id names one message: leave it out, or --lines")
    app = find_app(arguments)
    return run(lambda stop: _lines(app, arguments, output, stop) if arguments.lines else _one(app, arguments, output))


async def _one(app: Telex, arguments: Namespace, output: Output) -> Exit:
    body = bodies.read(arguments, bodies.parser(app, arguments.channel))
    async with app:
        id = await _storing(app, arguments)(body)
    output.record({"id": id}, id)
    return Exit.OK


async def _lines(app: Telex, arguments: Namespace, output: Output, stop: Stop) -> Exit:
    """What came together is stored together; what was stored is printed before an error is."""
    count, last, parse = 0, 0, bodies.parser(app, arguments.channel)
    try:
        async with app:
            store = _storing(app, arguments)
            async for numbered in bodies.lines():
                parsed, wrong = _parse(numbered, parse)
                with stop.gently():
                    told = await asyncio.gather(*map(store, parsed), return_exceptions=True)
                for (number, _), id in zip(numbered, told, strict=False):
                    if isinstance(id, BaseException):
                        output.problem(f"line {number} was not stored")
                        wrong = wrong or id
                    else:
                        output.record({"id": id}, id)
                        count, last = count + 1, number
                output.flush()  # Whoever writes the lines may wait for the ids.
                if wrong is not None:
                    raise wrong
                if stop.asked:
                    break
    except asyncio.CancelledError:
        if not stop.asked:
            raise
    if stop.asked:
        raise Failure(
            Exit.INTERRUPTED,
            f"interrupted: {plural(count, 'message')} stored; go on with: tail -n +{last + 1} FILE | telex …",
        )
    output.note(f"{plural(count, 'message')} stored")
    return Exit.OK


def _parse(numbered: Sequence[tuple[int, bytes]], parse: bodies.Parse) -> tuple[list[Any], BaseException | None]:
    """The bodies up to the first that is none, and what is wrong with that."""
    parsed: list[Any] = []
    for number, line in numbered:
        try:
            parsed.append(parse(line, f"line {number}"))
        except Failure as failure:
            return parsed, failure
    return parsed, None


def _storing(app: Telex, arguments: Namespace) -> Store:
    headers = dict(arguments.header)

    def publish(body: Any) -> Awaitable[str]:
        return app.publish(arguments.channel, body, key=arguments.key, headers=headers, id=arguments.id)

    def send(body: Any) -> Awaitable[str]:
        return app.send(
            arguments.channel, body, key=arguments.key, headers=headers, id=arguments.id, delay=arguments.delay
        )

    return publish if arguments.command == "publish" else send
