"""What a command prints: tables for people, one JSON object a line for programs."""

from __future__ import annotations

import errno
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any, NamedTuple, TextIO

import msgspec

from .texts import moment, plain, shorten, squeeze, words

FLUSH = 0.1
"""Seconds for which results may stay in the buffer: a reader of a pipe sees the first one at once."""
NARROWEST = 12
"""Characters that are left of a column which is cut to fit the terminal."""


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


class Gone(Exception):
    """Nobody reads the results any more: the pipe is broken, or the terminal went away."""


class Style(Enum):
    """Colours by their meaning; never the only sign of it."""

    HEAD = "1"
    GOOD = "32"
    WARN = "33"
    BAD = "31"
    FAINT = "2"


class Cell(NamedTuple):
    """A value in a table."""

    text: str
    style: Style | None


class Output:
    """Prints results to one stream, everything else to another."""

    def __init__(self, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._out_colour = not as_json and _coloured(self._out)
        self._err_colour = _coloured(self._err)
        self._flushed = 0.0
        self._clear: Callable[[], None] = lambda: None

    @property
    def terminal(self) -> bool:
        """Whether results go to a terminal."""
        return self._out.isatty()

    @property
    def progress_stream(self) -> TextIO | None:
        """Where a progress bar may be drawn; None: nobody would see it."""
        return self._err if self._err.isatty() else None

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where results go elsewhere."""
        return shutil.get_terminal_size().columns if self.terminal else None

    # -- results ----------------------------------------------------------------------------------------------------

    def record(self, values: Mapping[str, Any], text: str) -> None:
        """One result: as JSON, or as a text for people."""
        self._line(encode(values) if self.as_json else text)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
        style: Callable[[str, Any], Style | None],
        right: Collection[str] = (),
    ) -> None:
        """Rows under a head; long texts are cut where the terminal is narrow.

        Args:
            columns: Keys of the rows, in this order.
            rows: The values; as JSON they may have more keys.
            style: The style of a value in a column.
            right: Columns that stand at the right: numbers.
        """
        if self.as_json:
            for row in rows:
                self._line(encode(row))
            return
        cells = [[Cell(self.words(row.get(c)), style(c, row.get(c))) for c in columns] for row in rows]
        widths = [max([len(head), *(len(line[i].text) for line in cells)]) for i, head in enumerate(columns)]
        if self.width is not None:
            widths = _fitted(widths, self.width - 2 * (len(columns) - 1))
        heads = [Cell(column.upper(), Style.HEAD) for column in columns]
        for line in [heads, *cells]:
            parts = [self._cell(cell, width, c in right) for cell, width, c in zip(line, widths, columns, strict=True)]
            self._line("  ".join(parts).rstrip())

    def paint(self, text: str, style: Style | None) -> str:
        """The text in a colour, where results have colours."""
        return f"\033[{style.value}m{text}\033[0m" if style is not None and self._out_colour else text

    def words(self, value: Any) -> str:
        """A value for people; an instant is short where it is read on a terminal."""
        return moment(value) if isinstance(value, datetime) and self.terminal else words(value)

    def fit(self, text: str) -> str:
        """The text, cut to the terminal's width."""
        return text if self.width is None else shorten(text, self.width)

    def clear(self) -> None:
        """An empty screen for the next results, where they go to a terminal."""
        if self.terminal:
            self._write("\033[H\033[2J\033[3J")

    def flush(self) -> None:
        """Writes out what is buffered."""
        try:
            self._out.flush()
        except OSError as error:
            raise _gone(error) from error
        self._flushed = time.monotonic()

    @property
    def is_read(self) -> bool:
        """Whether somebody still reads the results, as far as can be seen."""
        try:
            poll = select.poll()
            poll.register(self._out.fileno(), 0)
            return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
        except (OSError, ValueError):
            return True

    # -- everything else --------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Progress or advice, on stderr."""
        self._say(text)

    def problem(self, text: str) -> None:
        """An error, in one line on stderr."""
        line = "telex: " + " ".join(text.split())
        self._say(f"\033[{Style.BAD.value}m{line}\033[0m" if self._err_colour else line)

    def while_drawing(self, clear: Callable[[], None]) -> None:
        """Has something removed from the terminal before anything is printed: a progress bar."""
        self._clear = clear

    def ask(self, text: str) -> str:
        """Asks on stderr; the answer's line, empty at the end of the input."""
        self._clear()
        print(text, end="", file=self._err, flush=True)
        return sys.stdin.readline()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _cell(self, cell: Cell, width: int, number: bool) -> str:
        text = squeeze(cell.text, width)
        return self.paint(text.rjust(width) if number else text.ljust(width), cell.style)

    def _say(self, text: str) -> None:
        self._clear()
        try:
            print(text, file=self._err, flush=True)
        except OSError:  # The terminal went away; what must be known is in the exit code too.
            return

    def _line(self, text: str) -> None:
        self._clear()
        self._write(text + "\n")
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
        except OSError as error:
            raise _gone(error) from error


def encode(values: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return msgspec.json.encode(plain(values)).decode()


def _gone(error: OSError) -> Exception:
    return Gone() if error.errno in (errno.EPIPE, errno.EIO) else error


def _coloured(stream: TextIO) -> bool:
    """By convention: https://no-color.org, https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _fitted(widths: list[int], room: int) -> list[int]:
    """Takes from the widest columns what is too much."""
    widths = list(widths)
    while sum(widths) > room and (widest := max(widths)) > NARROWEST:
        i = widths.index(widest)
        second = max([width for width in widths if width < widest], default=0)
        widths[i] = max(NARROWEST, second, widest - (sum(widths) - room))
        if widths[i] == widest:
            widths[i] -= 1
    return widths
