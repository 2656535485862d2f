"""A progress bar on stderr, where somebody sees it."""

from __future__ import annotations

import shutil
import time
from types import TracebackType
from typing import Self

from .output import Output
from .texts import shorten, span

EVERY = 0.1
BAR = 20


class Bar:
    """How much of something is done; draws nothing where stderr is no terminal.

    Args:
        output: Whose stderr.
        verb: What is done, for example ``redriven``.
        total: Of how many.
    """

    def __init__(self, output: Output, verb: str, total: int) -> None:
        self._output = output
        self._stream = output.progress_stream
        self._verb = verb
        self._total = total
        self._began = time.monotonic()
        self._drawn = 0.0
        self._visible = False
        self.done = 0

    def __enter__(self) -> Self:
        self._output.while_drawing(self._wipe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wipe()
        self._output.while_drawing(lambda: None)

    def add(self, count: int) -> None:
        """So many more."""
        self.done += count
        now = time.monotonic()
        if self._stream is not None and now - self._drawn >= EVERY:
            self._drawn = now
            self._draw(now)

    def _draw(self, now: float) -> None:
        share = min(1.0, self.done / self._total) if self._total else 1.0
        filled = round(share * BAR)
        rate = self.done / max(now - self._began, 1e-9)
        left = f", {span((self._total - self.done) / rate)} left" if rate and self.done < self._total else ""
        text = f"[{'#' * filled}{'.' * (BAR - filled)}] {self.done:,}/{self._total:,} {self._verb}, {rate:,.0f}/s{left}"
        self._put("\r\033[K" + shorten(text, shutil.get_terminal_size().columns - 1))
        self._visible = True

    def _wipe(self) -> None:
        if self._visible:
            self._visible = False
            self._put("\r\033[K")

    def _put(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._stream = None  # The terminal went away; the work goes on.
