"""The contract between the parts of the example: what is published, sent and asked."""

from __future__ import annotations

from datetime import datetime

import msgspec

from telex import Procedure, Queue, Topic


class Flight(msgspec.Struct, frozen=True):
    """One flight, as it was planned and as it went.

    Attributes:
        carrier: Code of the airline.
        number: Of the flight.
        aircraft: Tail number; None where none is known.
        origin: Airport, one of the three of New York.
        destination: Airport.
        scheduled: Planned departure (aware, UTC).
        delay: Minutes by which it left late, negative if early; None: it never departed.
        airborne: Minutes in the air; None where it is not known (never departed, or diverted).
    """

    carrier: str
    number: int
    aircraft: str | None
    origin: str
    destination: str
    scheduled: datetime
    delay: int | None
    airborne: int | None

    @property
    def id(self) -> str:
        """The message id: a carrier uses a flight number once at a time. The same id however often it is published."""
        return f"{self.scheduled:%Y-%m-%dT%H%M}-{self.carrier}{self.number}"


class Alert(msgspec.Struct, frozen=True):
    """A flight left more than three hours late."""

    flight: str
    carrier: str
    delay: int


class Carrier(msgspec.Struct, frozen=True):
    """Which airline a question is about."""

    code: str


class MeanDelay(msgspec.Struct, frozen=True):
    """An airline's flights so far.

    Attributes:
        flights: All of them.
        departed: Those that left.
        minutes: Sum of the departure delays of those.
    """

    flights: int
    departed: int
    minutes: int

    @property
    def mean(self) -> float:
        """Minutes of delay per departed flight; 0 while none departed."""
        return self.minutes / self.departed if self.departed else 0.0


flights = Topic("flights.departures", Flight, ordered=True, key=lambda flight: flight.aircraft)
alerts = Queue("alerts", Alert)
mean_delay = Procedure("carriers.mean_delay", Carrier, MeanDelay)
