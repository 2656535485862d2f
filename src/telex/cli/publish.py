"""`telex publish`, `telex send` and `telex request`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import msgspec

from ..app import Telex
from .output import Exit, Failure, Output


async def publish(app: Telex, arguments: Namespace, output: Output) -> Exit:
    """Publishes one body, or each line of stdin."""
    headers = dict(arguments.header)
    count = 0
    async with app:
        for body in bodies(arguments):
            if arguments.command == "publish":
                id = await app.publish(arguments.channel, body, key=arguments.key, headers=headers, id=arguments.id)
            else:
                delay = arguments.delay
                id = await app.send(
                    arguments.channel, body, key=arguments.key, headers=headers, id=arguments.id, delay=delay
                )
            count += 1
            output.record({"id": id}, id)
    if arguments.lines:
        output.note(f"{count} messages stored")
    return Exit.OK


async def request(app: Telex, arguments: Namespace, output: Output) -> Exit:
    """Asks a procedure and prints its answer."""
    async with app:
        (body,) = bodies(arguments)
        answer = await app.request(arguments.channel, body, timeout=arguments.timeout, headers=dict(arguments.header))
    text = msgspec.json.encode(answer).decode()
    output.record({"answer": msgspec.to_builtins(answer)}, text)
    return Exit.OK


def bodies(arguments: Namespace) -> Iterator[Any]:
    """The bodies to publish: JSON from the command line, from stdin, or from each line of stdin.

    Raises:
        Failure: It is no JSON.
    """
    if getattr(arguments, "lines", False):
        for number, line in enumerate(sys.stdin.buffer, 1):
            if line.strip():
                yield _parse(line, f"line {number}")
        return
    if arguments.body in (None, "-"):
        if sys.stdin.isatty():
            raise Failure(Exit.USAGE, "no body: give it as an argument, or pipe it in")
        yield _parse(sys.stdin.buffer.read(), "the body on stdin")
    else:
        yield _parse(arguments.body.encode("utf-8", "surrogateescape"), "the body")


def _parse(data: bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(Exit.USAGE, f"{what} is no JSON: {error}; a text needs quotes: '\"hello\"'") from error
