"""Bodies on the command line and on stdin: JSON, as the channel's type reads it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..app import Telex
from ..binding import own_channels
from ..channels import Procedure
from ..codec import decoder
from ..errors import Undecodable
from ..message import Message
from .output import Exit, Failure

READ = 1 << 18
"""Bytes read from stdin at once; what came together is stored together."""
LONGEST = 64 * 1024 * 1024
"""Bytes of a line: no engine takes such a body, and a file without line ends must not fill the memory."""
NEVER = datetime.fromtimestamp(0, UTC)

Parse = Callable[[bytes, str], Any]
"""From the bytes of a body, and what to call it in an error, to what the application takes."""


def add(one: ArgumentParser) -> None:
    """Adds the argument."""
    one.add_argument("body", nargs="?", metavar="BODY", help="JSON; - or nothing reads stdin")


def parser(app: Telex, name: str) -> Parse:
    """How bodies of a channel are read: by its type if the application has one for it, else as plain JSON.

    Raises:
        ConfigError: The application is declared wrongly.
    """
    target = own_channels(app.registrations).get(name)
    if target is None:
        return parse
    kind = target.request if isinstance(target, Procedure) else target.type
    if kind is Any:
        return parse
    decode = decoder(kind)
    takes = getattr(kind, "__qualname__", None) or str(kind)

    def typed(data: bytes, what: str) -> Any:
        if kind is not bytes:
            parse(data, what)
        try:
            return decode(Message(id="", channel=name, body=data, key=None, headers={}, time=NEVER))
        except Undecodable as error:
            raise Failure(
                Exit.PROBLEM, f"{what} cannot be sent to {name}: this channel takes {takes}; {error}"
            ) from error

    return typed


def read(arguments: Namespace, parse: Parse) -> Any:
    """The one body: from the command line, or from stdin.

    Raises:
        Failure: It is none that the channel takes, or there is none.
    """
    if arguments.body not in (None, "-"):
        return parse(arguments.body.encode("utf-8", "surrogateescape"), "the body")
    if sys.stdin.isatty():
        raise Failure(Exit.USAGE, "no body: give it as an argument, or pipe it in")
    return parse(sys.stdin.buffer.read(), "the body on stdin")


def parse(data: bytes, what: str) -> Any:
    """A body from its JSON.

    Raises:
        Failure: It is none.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(Exit.USAGE, f"{what} is no JSON: {error}; a text needs quotes: '\"hello\"'") from error


async def lines() -> AsyncGenerator[list[tuple[int, bytes]]]:
    """The lines of stdin with their numbers, as many together as there are; empty ones are left out.

    A thread waits for them, so that an interrupt need not.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(4)

    def pump() -> None:
        while True:
            room.acquire()
            try:
                piece = os.read(sys.stdin.fileno(), READ)
            except OSError:
                piece = b""
            with contextlib.suppress(RuntimeError):  # The loop is closed: the command was interrupted.
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            if not piece:
                return

    threading.Thread(target=pump, name="telex stdin", daemon=True).start()
    number, rest = 0, b""
    while True:
        piece = await pieces.get()
        room.release()
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST:
            raise Failure(Exit.USAGE, f"line {number + len(whole) + 1} is longer than {LONGEST:,} bytes")
        if not piece and rest:
            whole.append(rest)
        yield [(number + i, line) for i, line in enumerate(whole, 1) if line.strip()]
        number += len(whole)
        if not piece:
            return
