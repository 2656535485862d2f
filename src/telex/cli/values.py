"""What is written on the command line: durations, instants, headers, addresses."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

from ..errors import ConfigError
from ..names import parse_source

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")


def duration(text: str) -> float:
    """``90``, ``90s``, ``1.5h``: seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: write a duration such as 30s, 10m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def pause(text: str) -> float:
    """A duration above nothing: how long to wait between two looks."""
    seconds = duration(text)
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: write a duration from 100ms to 1d")
    return seconds


def instant(text: str) -> datetime:
    """``-15m`` or an ISO 8601 instant; without a zone it is local time."""
    try:
        if text.startswith("-"):
            return datetime.now(UTC) - timedelta(seconds=duration(text[1:]))
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r}: write -15m, or an instant such as 2026-11-25T14:00") from None


def since(text: str) -> datetime:
    """As `instant`, or ``start``: all that is kept."""
    return datetime.fromtimestamp(0, UTC) if text == "start" else instant(text)


def header(text: str) -> tuple[str, str]:
    """``name=value``."""
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, value


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from 1")
    return int(text)


def count(text: str) -> int:
    """A whole number from 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from 0")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """``9000``, ``127.0.0.1:9000``, ``[::1]:9000``: host and port; loopback unless told otherwise."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: write PORT or HOST:PORT, for example 9000 or 0.0.0.0:9000")
    return host.strip("[]") or "127.0.0.1", int(port)


def source(text: str) -> str:
    """A source's text form."""
    try:
        parse_source(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def rate(text: str) -> float:
    """Messages a second."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: write messages a second, above 0")
    return value
