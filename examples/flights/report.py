"""What the demonstration prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from telex import Cause

from .channels import MeanDelay
from .totals import Totals


def carriers(answers: Mapping[str, MeanDelay], names: Mapping[str, str]) -> str:
    """A line per carrier, the latest ones first."""
    lines = [f"{'carrier':<30}{'flights':>9}{'departed':>10}{'mean delay':>13}"]
    for code, answer in sorted(answers.items(), key=lambda item: -item[1].mean):
        name = names.get(code, code)
        lines.append(f"{name:<30}{answer.flights:>9,}{answer.departed:>10,}{answer.mean:>9.1f} min")
    return "\n".join(lines)


def causes(found: Sequence[Cause]) -> str:
    """A line per cause of dead letters."""
    lines = [f"{'dead letters':>13}  {'reason':<10}{'error':<15}place"]
    lines += [f"{c.count:>13,}  {c.reason.value:<10}{c.error:<15}{c.place}" for c in found]
    return "\n".join(lines)


def rate(what: str, count: int, seconds: float) -> str:
    """How many in how long."""
    return f"{count:>9,} {what} in {seconds:.1f} s: {count / seconds:,.0f}/s"


def rotations(totals: Totals) -> str:
    """What the aircraft did."""
    early = sum(aircraft.early for aircraft in totals.aircraft.values())
    worst = max(totals.aircraft.items(), key=lambda item: item[1].early, default=None)
    line = f"{len(totals.aircraft):,} aircraft were due out {early:,} times before they can have been back"
    return line if worst is None else f"{line}; {worst[0]} most often, {worst[1].early} times"
