"""Bodies on the command line and on stdin: JSON."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from .output import Exit, Failure

READ = 1 << 18
"""Bytes read from stdin at once; what came together is stored together."""


def add(one: ArgumentParser) -> None:
    """Adds the argument."""
    one.add_argument("body", nargs="?", metavar="BODY", help="JSON; - or nothing reads stdin")


def read(arguments: Namespace) -> Any:
    """The one body: from the command line, or from stdin.

    Raises:
        Failure: It is no JSON, or there is none.
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
        if not piece and rest:
            whole.append(rest)
        yield [(number + i, line) for i, line in enumerate(whole, 1) if line.strip()]
        number += len(whole)
        if not piece:
            return
