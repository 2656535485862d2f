"""Printing the figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .figure import Figure, Round

HEAD = f"{'figure':<42} {'median (min–max)':<32} {'ratio (min–max)':<34} {'must':<8} met"


def line(figure: Figure, rounds: Sequence[Round]) -> str:
    """One line of the table; a figure whose measurement failed says so."""
    usable = [round for round in rounds if all(name in round for name in figure.needs)]
    if not usable:
        return f"{figure.title:<42} could not be measured"
    values = [figure.value(round) for round in usable]
    judged, ratio = values, ""
    if figure.base is not None:
        judged = [value / figure.base(round) for value, round in zip(values, usable, strict=True)]
        ratio = f"{_spread(judged, '×')} {figure.against}"
    must, met = _judge(figure, statistics.median(judged))
    return f"{figure.title:<42} {_spread(values, figure.unit):<32} {ratio:<34} {must:<8} {met}".rstrip()


def missed(figure: Figure, rounds: Sequence[Round]) -> bool:
    """Whether the figure must reach something and does not, or could not be measured."""
    return line(figure, rounds).endswith((" NO", "could not be measured"))


def _judge(figure: Figure, value: float) -> tuple[str, str]:
    if figure.least is not None:
        return f"≥ {figure.least:,g}", "yes" if value >= figure.least else "NO"
    if figure.most is not None:
        return f"≤ {figure.most:,g}", "yes" if value <= figure.most else "NO"
    return "", ""


def _spread(values: Sequence[float], unit: str) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    if len(values) == 1:
        return f"{_number(middle)} {unit}"
    return f"{_number(middle)} {unit} ({_number(least)}–{_number(most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
