"""The truth and what came out: both as the same totals, so that they can be compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from .channels import Flight, MeanDelay
from .handlers import LATE
from .rotation import Rotations


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Everything the example finds out.

    Attributes:
        carriers: Delays by carrier.
        aircraft: Rotations by tail number.
        alerts: Delay by flight, of those over three hours late.
        cancelled: Ids of flights that never departed.
    """

    carriers: dict[str, MeanDelay]
    aircraft: dict[str, Rotations]
    alerts: dict[str, int]
    cancelled: frozenset[str]


def from_data(flights: Sequence[Flight]) -> Totals:
    """The totals by one plain loop over the data, in time order."""
    carriers: dict[str, MeanDelay] = {}
    aircraft: dict[str, Rotations] = {}
    for flight in flights:
        before = carriers.get(flight.carrier, MeanDelay(0, 0, 0))
        carriers[flight.carrier] = MeanDelay(
            before.flights + 1, before.departed + (flight.delay is not None), before.minutes + (flight.delay or 0)
        )
        if flight.aircraft is not None:
            aircraft[flight.aircraft] = aircraft.get(flight.aircraft, Rotations()).then(flight.id, flight)
    return Totals(
        carriers=carriers,
        aircraft=aircraft,
        alerts={f.id: f.delay for f in flights if f.delay is not None and f.delay > LATE},
        cancelled=frozenset(f.id for f in flights if f.delay is None),
    )


def from_results(path: Path) -> Totals:
    """The totals as the handlers stored them."""
    db = sqlite3.connect(path)
    try:
        return Totals(
            carriers={code: MeanDelay(*rest) for code, *rest in db.execute("SELECT * FROM carrier")},
            aircraft={tail: Rotations(*rest) for tail, *rest in db.execute("SELECT * FROM aircraft")},
            alerts=dict(db.execute("SELECT flight, delay FROM alert")),
            cancelled=frozenset(flight for (flight,) in db.execute("SELECT flight FROM cancelled")),
        )
    finally:
        db.close()


def repeats(path: Path) -> dict[str, int]:
    """Messages that came again and were recognised, by handler."""
    db = sqlite3.connect(path)
    try:
        return dict(db.execute("SELECT handler, count FROM repeat"))
    finally:
        db.close()


def differences(truth: Totals, found: Totals) -> list[str]:
    """Where the two disagree, one line each; empty if they do not."""
    lines = []
    for field in fields(Totals):
        want, have = getattr(truth, field.name), getattr(found, field.name)
        if isinstance(want, dict):
            for key in sorted(want.keys() | have.keys()):
                if want.get(key) != have.get(key):
                    lines.append(f"{field.name} {key}: {have.get(key)} instead of {want.get(key)}")
        else:
            lines.extend(f"{field.name}: {id} is missing" for id in sorted(want - have))
            lines.extend(f"{field.name}: {id} was never in the data" for id in sorted(have - want))
    return lines
