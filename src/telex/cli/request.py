"""`telex request`."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from ..app import Telex
from . import bodies, parser, values
from .interrupts import run
from .output import Exit, Output
from .parser import Commands
from .target import find_app


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "request",
        "ask a procedure and print its answer",
        """telex request quotes.price '{"sku": "x"}'""",
        """telex request quotes.price - --timeout 2s < request.json""",
        run=_request,
        more="The answer is printed as JSON. An error of the other side, or none in time, ends with exit code 1.",
    )
    one.add_argument("channel", metavar="PROCEDURE")
    bodies.add(one)
    one.add_argument(
        "--header",
        action="append",
        default=[],
        type=values.header,
        metavar="NAME=VALUE",
        help="a header; may be repeated",
    )
    one.add_argument("--timeout", type=values.duration, default=30.0, metavar="30s", help="how long to wait")


def _request(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: _ask(app, arguments, output))


async def _ask(app: Telex, arguments: Namespace, output: Output) -> Exit:
    body = bodies.read(arguments, bodies.parser(app, arguments.channel))
    async with app:
        answer = await app.request(arguments.channel, body, timeout=arguments.timeout, headers=dict(arguments.header))
    text = msgspec.json.encode(answer).decode()
    output.record({"answer": msgspec.to_builtins(answer)}, text)
    return Exit.OK
