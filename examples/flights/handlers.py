"""What is done with the flights."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from telex import Batch, Delivery, Handlers, Reject

from .channels import Alert, Carrier, Flight, MeanDelay, alerts, flights, mean_delay
from .rotation import Rotations
from .store import Store, first_time

LATE = 180
"""Minutes of delay over which an alert goes out."""
ACCEPT_CANCELLED = "accept_cancelled"

handlers = Handlers()


class NeverDeparted(Reject):
    """The flight was cancelled."""


class NoAircraft(Reject):
    """The flight was cancelled before it had an aircraft."""


@handlers.subscribe(flights, group="delays", ordered=False, batch=Batch(1000, wait=0.2), concurrency=4)
async def delays(batch: list[Flight], delivery: Delivery) -> None:
    """Delay per carrier: order does not matter, so whole batches go into one transaction."""
    store: Store = delivery.state
    ids = [message.id for message in delivery.messages]
    await store.run(lambda db: add_delays(db, ids, batch))


@handlers.subscribe(flights, group="rotations", concurrency=512)
async def rotations(flight: Flight, delivery: Delivery) -> None:
    """Aircraft that are due out before they are back: needs each aircraft's flights in order."""
    store: Store = delivery.state
    id = delivery.message.id
    await store.run(lambda db: add_rotation(db, id, flight))


@handlers.subscribe("flights.*", group="watch")
async def watch(flight: Flight, delivery: Delivery) -> None:
    """Raises the alarm about flights that left very late, and refuses those that never left."""
    if flight.delay is None:
        await refuse_or_note(flight, delivery)
    elif flight.delay > LATE:
        delivery.send(alerts, Alert(delivery.message.id, flight.carrier, flight.delay))


@handlers.receive(alerts, concurrency=64)
async def alert(alert: Alert, delivery: Delivery) -> None:
    """Keeps the alerts."""
    store: Store = delivery.state
    id = delivery.message.id
    await store.run(lambda db: add_alert(db, id, alert))


@handlers.reply(mean_delay)
async def answer(carrier: Carrier, delivery: Delivery) -> MeanDelay:
    """The flights of a carrier so far."""
    store: Store = delivery.state
    return await store.run(lambda db: get_delays(db, carrier.code))


async def refuse_or_note(flight: Flight, delivery: Delivery) -> None:
    """The fault that is repaired later: a cancelled flight is nothing to refuse.

    Raises:
        Reject: The store does not say yet that cancelled flights are welcome.
    """
    store: Store = delivery.state
    id = delivery.message.id
    if await store.run(lambda db: note_cancelled(db, id, flight)):
        return
    if flight.aircraft is None:
        raise NoAircraft("never departed, and never had an aircraft")
    raise NeverDeparted("never departed")


def add_delays(db: sqlite3.Connection, ids: Sequence[str], batch: Sequence[Flight]) -> None:
    """Adds flights to their carriers, each once."""
    sums: dict[str, list[int]] = {}
    for id, flight in zip(ids, batch, strict=True):
        if first_time(db, "delays", id):
            sum = sums.setdefault(flight.carrier, [0, 0, 0])
            sum[0] += 1
            if flight.delay is not None:
                sum[1] += 1
                sum[2] += flight.delay
    db.executemany(
        "INSERT INTO carrier VALUES (?, ?, ?, ?) ON CONFLICT (code) DO UPDATE SET flights = flights + excluded.flights,"
        " departed = departed + excluded.departed, minutes = minutes + excluded.minutes",
        [(carrier, *sum) for carrier, sum in sums.items()],
    )


def add_rotation(db: sqlite3.Connection, id: str, flight: Flight) -> None:
    """Adds a flight to its aircraft, once."""
    if not first_time(db, "rotations", id) or flight.aircraft is None:
        return
    row = db.execute("SELECT flights, early, back, chain FROM aircraft WHERE tail = ?", (flight.aircraft,)).fetchone()
    after = (Rotations(*row) if row else Rotations()).then(id, flight)
    db.execute(
        "INSERT OR REPLACE INTO aircraft VALUES (?, ?, ?, ?, ?)",
        (flight.aircraft, after.flights, after.early, after.back, after.chain),
    )


def add_alert(db: sqlite3.Connection, id: str, alert: Alert) -> None:
    """Keeps an alert, once."""
    if first_time(db, "alerts", id):
        db.execute("INSERT INTO alert VALUES (?, ?, ?)", (alert.flight, alert.carrier, alert.delay))


def get_delays(db: sqlite3.Connection, carrier: str) -> MeanDelay:
    """The flights of a carrier."""
    row = db.execute("SELECT flights, departed, minutes FROM carrier WHERE code = ?", (carrier,)).fetchone()
    return MeanDelay(*row) if row else MeanDelay(0, 0, 0)


def accept_cancelled(db: sqlite3.Connection) -> None:
    """Repairs the handler: from now on cancelled flights are noted."""
    db.execute("INSERT OR REPLACE INTO setting VALUES (?, 1)", (ACCEPT_CANCELLED,))


def note_cancelled(db: sqlite3.Connection, id: str, flight: Flight) -> bool:
    """Notes a cancelled flight, once; False while they are not accepted."""
    if db.execute("SELECT value FROM setting WHERE name = ?", (ACCEPT_CANCELLED,)).fetchone() is None:
        return False
    if first_time(db, "cancelled", id):
        db.execute("INSERT INTO cancelled VALUES (?, ?)", (id, flight.carrier))
    return True
