"""The flights example: its data, its results, its story on a small slice."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples.flights.channels import Alert, Flight, MeanDelay
from examples.flights.data import parse, read_flights
from examples.flights.handlers import accept_cancelled, add_alert, add_delays, add_rotation, get_delays, note_cancelled
from examples.flights.rotation import Rotations
from examples.flights.store import SCHEMA, Store
from examples.flights.totals import Totals, differences, from_data, from_results, repeats

ROOT = Path(__file__).parents[2]
SLICE = 3000


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    return read_flights()


@pytest.fixture
def results(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    path = tmp_path / "results.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(SCHEMA)
    yield path, db
    db.close()


def store_all(db: sqlite3.Connection, flights: list[Flight]) -> None:
    """What the handlers do, without messaging."""
    accept_cancelled(db)
    add_delays(db, [flight.id for flight in flights], flights)
    for flight in flights:
        add_rotation(db, flight.id, flight)
        if flight.delay is None:
            note_cancelled(db, flight.id, flight)
        elif flight.delay > 180:
            add_alert(db, f"emitted-{flight.id}", Alert(flight.id, flight.carrier, flight.delay))


def test_the_data_is_the_known_year(flights: list[Flight]) -> None:
    truth = from_data(flights)
    assert len(flights) == len({flight.id for flight in flights}) == 336_776
    assert sum(flight.aircraft is None for flight in flights) == 2_512
    assert len(truth.cancelled) == 8_255
    assert len(truth.alerts) == 3_893
    assert len(truth.carriers) == 16
    assert [flight.scheduled for flight in flights] == sorted(flight.scheduled for flight in flights)


def test_a_row_becomes_a_flight() -> None:
    row = {
        "carrier": "UA", "flight": "1545", "tailnum": "N14228", "origin": "EWR", "dest": "IAH",
        "time_hour": "2013-01-01T10:00:00Z", "minute": "15", "dep_delay": "NA", "air_time": "NA",
    }  # fmt: skip
    (flight,) = parse([row])
    assert flight.id == "2013-01-01T1015-UA1545"
    assert flight.delay is None
    assert flight.airborne is None


def test_an_aircraft_is_due_out_before_it_is_back(flights: list[Flight]) -> None:
    first = next(flight for flight in flights if flight.airborne is not None)
    again = Rotations().then("a", first).then("b", first)
    assert (again.flights, again.early) == (2, 1)
    cancelled = Flight(
        first.carrier, first.number, first.aircraft, first.origin, first.destination, first.scheduled, None, None
    )
    assert Rotations().then("a", first).then("b", cancelled).back == Rotations().then("a", first).back
    assert Rotations().then("a", first).then("b", first).chain != Rotations().then("b", first).then("a", first).chain


def test_results_agree_with_the_data_and_count_each_message_once(
    flights: list[Flight], results: tuple[Path, sqlite3.Connection]
) -> None:
    path, db = results
    some = flights[:SLICE]
    store_all(db, some)
    store_all(db, some[-100:])
    assert differences(from_data(some), from_results(path)) == []
    assert repeats(path)["delays"] == repeats(path)["rotations"] == 100
    assert get_delays(db, "nobody") == MeanDelay(0, 0, 0)


def test_order_that_is_broken_is_noticed(flights: list[Flight], results: tuple[Path, sqlite3.Connection]) -> None:
    path, db = results
    some = flights[:SLICE]
    store_all(db, some[::-1])
    assert any(line.startswith("aircraft ") for line in differences(from_data(some), from_results(path)))


@pytest.mark.parametrize("field", ["carriers", "aircraft", "alerts", "cancelled"])
def test_every_total_that_is_off_is_named(flights: list[Flight], field: str) -> None:
    truth = from_data(flights[:SLICE])
    value = getattr(truth, field)
    first = min(value)
    less: Any = value - {first} if isinstance(value, frozenset) else {k: v for k, v in value.items() if k != first}
    found: Totals = replace(truth, **{field: less})
    for lines in (differences(truth, found), differences(found, truth)):
        assert len(lines) == 1
        assert lines[0].startswith(field)
        assert first in lines[0]


async def _run_jobs(path: Path) -> list[object]:
    store = Store(path)
    await store.open()

    def bad(db: sqlite3.Connection) -> None:
        raise ValueError("no")

    def good(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO alert VALUES ('x', 'UA', 200)")

    failed: list[object] = list(await asyncio.gather(store.run(good), store.run(bad), return_exceptions=True))
    counts = await asyncio.gather(
        *(store.run(lambda db: db.execute("SELECT count(*) FROM alert").fetchone()[0]) for _ in range(3))
    )
    await store.close()
    return [*failed, *counts]


def test_a_failed_job_takes_its_transaction_with_it(tmp_path: Path) -> None:
    first, second, *counts = asyncio.run(_run_jobs(tmp_path / "results.db"))
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert counts == [0, 0, 0]


def test_the_story_on_a_slice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.flights", "--first", "20000", "--folder", str(tmp_path / "flights")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every total agrees with the data" in done.stdout
    assert "SIGKILL" in done.stdout
    assert "dead letters as" not in done.stderr, "a line for each refused flight buries the story"
