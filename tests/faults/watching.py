"""What a worker writes down besides its handlers' runs: when it learns that leases are gone, and what it holds of the
machine when it starts and when it ends."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from telex.delivery.runner import Runner
from telex.engines.embedded.append import TAIL_BYTES
from telex.engines.embedded.opening import CACHE_KIB
from telex.testing.history import Recorder

KNOWS = "was stopped for longer than its lease"
"""What the engine logs when it finds that its process was taken for dead."""
TOLD = "told"
"""Name of the note that a source's handlers were told: from then on nothing of those leases may begin."""
CACHES = TAIL_BYTES + CACHE_KIB * 1024
"""What SQLite's page cache and the newest messages may come to take; what is above that is a leak."""

ENDING = 1.0
"""Seconds for which a thread that has said that it ends may take to do so."""


@contextmanager
def watched(recorder: Recorder) -> Iterator[None]:
    """Notes resources now and at the end, and everything about lost leases meanwhile."""
    root, handler = logging.getLogger(), _Knows(recorder)
    root.addHandler(handler)
    threads = threading.active_count()
    _measure(recorder, last=False)
    try:
        with patch.object(Runner, "_lost", _telling(Runner._lost, recorder)):
            yield
    finally:
        root.removeHandler(handler)
    end = time.monotonic() + ENDING
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.01)
    _measure(recorder, last=True)


class _Knows(logging.Handler):
    """Notes the moment at which the process knows."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        if KNOWS in record.getMessage():
            self._recorder.note("lost", name="knows")


def _telling(lost: Any, recorder: Recorder) -> Any:
    def hook(runner: Runner, leases: Sequence[Any]) -> None:
        for lease in leases:  # Before: what the call itself begins must count.
            recorder.note("lost", id=lease.message.id, source=runner.bound.name, name=TOLD)
        lost(runner, leases)

    return hook


def _measure(recorder: Recorder, *, last: bool) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    for name, value in (
        ("descriptors", len(os.listdir("/proc/self/fd"))),
        ("threads", threading.active_count()),
        ("memory and caches", memory if last else memory + CACHES),
    ):
        recorder.note("resources", name=name, value=value, last=last)
