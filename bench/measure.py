"""One measurement: what it is given and what it gives."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setting:
    """What a measurement is given.

    Attributes:
        folder: An empty one, on the disk that is measured.
        scale: Multiplies the number of messages.
        backlog: Messages that wait in the file for the figure of that name.
        url: An empty place on a broker, for the figures of brokers.
    """

    folder: Path
    scale: float = 1.0
    backlog: int = 300_000
    url: str = ""

    @property
    def store(self) -> str:
        """Where Telex keeps its messages: on the broker if there is one, else in a file of the folder."""
        return self.url or str(self.folder / "bench.db")

    def count(self, usual: int) -> int:
        """How many messages, at this scale; a multiple of 1,000."""
        return max(1, round(usual * self.scale / 1000)) * 1000


Measured = dict[str, float]
"""Named values of one measurement, in seconds, messages a second, or bytes."""
Measurement = Callable[[Setting], Measured]


class Meter:
    """Wall time and processor time of this process, all its threads, since it was made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def rate(self, count: int) -> Measured:
        """Messages a second, and microseconds of processor time a message."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"rate": count / wall, "cpu": cpu / count * 1e6}


def peak_memory() -> float:
    """The most memory this process has had resident, in bytes."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
