"""The record of one failed attempt, as it is kept with the message."""

from __future__ import annotations

import os
import socket
import traceback
from datetime import datetime
from types import TracebackType

import msgspec

from ..events import said

TEXT = 500
TRACE = 2_500
"""Characters kept. With the rest an attempt stays below 4 KiB, so that a history of several fits beside a full body."""

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One failed attempt.

    Attributes:
        number: From 1; losses count too.
        started: When the handler was started (aware, UTC).
        worker: Host and process, ``host:pid``.
        error: Qualified name of the exception's class, for example ``builtins.TimeoutError``.
        text: The exception's text, at most 500 characters.
        traceback: The end of the traceback, at most 2,500 characters.
    """

    number: int
    started: datetime
    worker: str
    error: str
    text: str
    traceback: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attempt).decode


def record(number: int, started: datetime, worker: str, error: BaseException) -> str:
    """An attempt as JSON."""
    kind = type(error)
    return _encode(
        Attempt(
            number=number,
            started=started,
            worker=worker,
            error=f"{kind.__module__}.{kind.__qualname__}"[:200],
            text=printable(said(error))[:TEXT],
            traceback=printable(_lines(error))[-TRACE:],
        )
    ).decode()


def parse(text: str) -> Attempt:
    """The attempt that `record` wrote.

    Raises:
        msgspec.DecodeError: It is something else.
    """
    return _decode(text)


def cause(error: BaseException) -> str:
    """What failures are grouped by: the class, and the innermost place outside Telex."""
    return printable(f"{type(error).__qualname__}|{_place(error.__traceback__)}")


def printable(text: str) -> str:
    """Lone surrogates would make a text unwritable, and the failure path must not fail."""
    return text.encode("utf-8", "backslashreplace").decode()


def _lines(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # Whatever the exception's own methods raise.
        return "".join(traceback.format_tb(error.__traceback__))


def worker_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _place(trace: TracebackType | None) -> str:
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_HERE):
            module = trace.tb_frame.f_globals.get("__name__", "?")
            place = f"{module}.{code.co_qualname}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
