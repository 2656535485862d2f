"""What a command prints: tables for people, one JSON object a line for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, TextIO


class Exit(IntEnum):
    """How a command ends."""

    OK = 0
    PROBLEM = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


class Failure(Exception):
    """Ends a command with one line on stderr.

    Attributes:
        code: The exit code.
    """

    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code


class Output:
    """Prints results."""

    def __init__(self, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._colour = self._err.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def record(self, values: Mapping[str, Any], text: str) -> None:
        """One result: as JSON, or as a text for people."""
        self._line(json.dumps(plain(values), ensure_ascii=False) if self.as_json else text)

    def table(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows under a head, the last column cut to the terminal's width."""
        if self.as_json:
            for row in rows:
                self._line(json.dumps(plain(row), ensure_ascii=False))
            return
        cells = [[head.upper() for head in columns], *([words(row.get(c)) for c in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        limit = shutil.get_terminal_size().columns if self._out.isatty() else None
        for line in cells:
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            self._line(text if limit is None or len(text) <= limit else text[: limit - 1] + "…")

    def note(self, text: str) -> None:
        """Progress or advice, on stderr."""
        print(text, file=self._err, flush=True)

    def problem(self, text: str) -> None:
        """An error, in one line on stderr."""
        line = " ".join(text.split())
        print(f"\033[31mtelex: {line}\033[0m" if self._colour else f"telex: {line}", file=self._err, flush=True)

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=False)

    def flush(self) -> None:
        """Writes out what is buffered."""
        self._out.flush()


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def words(value: Any) -> str:
    """A value for people; a control character in it could rewrite the screen."""
    if value is None:
        return "-"
    if isinstance(value, timedelta):
        return span(value.total_seconds())
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return "".join(c if c.isprintable() else " " for c in str(value))


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{left:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"
