"""One figure: a line of the table, taken out of what a round measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .measure import Measured

Round = Mapping[str, Measured]
"""What one round measured, by the measurement's name."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        group: What it is selected by on the command line.
        title: For people.
        unit: Of the value: ``/s``, ``us``, ``ms``, ``%`` or ``MiB``.
        needs: Measurements that it is made of.
        value: Takes the value out of a round.
        base: Takes out what it is compared with; the ratio is judged then instead of the value.
        against: What that is.
        least: The value or ratio must be at least this.
        most: The value or ratio must be at most this.
    """

    group: str
    title: str
    unit: str
    needs: tuple[str, ...]
    value: Callable[[Round], float]
    base: Callable[[Round], float] | None = None
    against: str = ""
    least: float | None = None
    most: float | None = None


def take(measurement: str, name: str = "rate", times: float = 1.0) -> Callable[[Round], float]:
    """Takes a value out of a round, in another unit."""
    return lambda round: round[measurement][name] * times
