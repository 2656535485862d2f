"""The last report of each worker, and what follows from them: is it alive, is it ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ..engine import SourceStats
from .texts import span
from .vitals import Report

SILENCE = 60.0
"""Seconds without a sign of life after which a worker counts as stuck: its event loop does not turn."""
FRESH = 5.0
"""Seconds after which a report is too old to say that a worker is ready."""


class Board:
    """What is known of the workers; from any thread."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[int, Report] = {}
        self._down = set(range(workers))
        self._ended = dict.fromkeys(range(workers), 0)

    def put(self, worker: int, report: Report) -> None:
        """A worker reported."""
        with self._lock:
            self._down.discard(worker)
            self._reports[worker] = report

    def down(self, worker: int) -> None:
        """A worker ended."""
        with self._lock:
            self._down.add(worker)
            self._ended[worker] += 1
            self._reports.pop(worker, None)

    def reports(self) -> Mapping[int, Report]:
        """The last report of each worker that runs."""
        with self._lock:
            return dict(self._reports)

    def ended(self) -> Mapping[int, int]:
        """How often each worker ended; it is started again."""
        with self._lock:
            return dict(self._ended)

    def sources(self) -> list[SourceStats]:
        """How the application's sources stand, as the worker saw it that looks."""
        for report in self.reports().values():
            if report.sources is not None:
                return report.sources
        return []

    def stuck(self) -> list[str]:
        """Why the process should be started again; empty: it lives."""
        now = self._clock()
        return [
            f"worker {worker + 1} gave no sign of life for {span(now - report.at)}: its event loop is blocked"
            for worker, report in sorted(self.reports().items())
            if now - report.at > SILENCE
        ]

    def unready(self) -> list[str]:
        """Why it does not do its work now; empty: it is ready."""
        now, found = self._clock(), []
        with self._lock:
            down, reports = sorted(self._down), dict(self._reports)
        found += [f"worker {worker + 1} does not run" for worker in down]
        for worker, report in sorted(reports.items()):
            name = f"worker {worker + 1}"
            if report.state != "running":
                found.append(f"{name} is {report.state}")
            elif now - report.at > FRESH:
                found.append(f"{name} gave no sign of life for {span(now - report.at)}")
            found += [f"{name}: {problem}" for problem in report.problems]
        return found
