"""One aircraft's rotations: out of New York, there, and back."""

from __future__ import annotations

import zlib

import msgspec

from .channels import Flight


class Rotations(msgspec.Struct, frozen=True):
    """What is known of an aircraft after some of its flights, in their order.

    Attributes:
        flights: How many.
        early: How many were due out before the aircraft can have been back.
        back: The earliest minute (since 1970) at which it can be back in New York; None: nothing is known.
        chain: A checksum over the ids in the order they were seen: two histories that differ in order differ here.
    """

    flights: int = 0
    early: int = 0
    back: int | None = None
    chain: int = 0

    def then(self, id: str, flight: Flight) -> Rotations:
        """After one more flight."""
        due = int(flight.scheduled.timestamp()) // 60
        back = self.back
        if flight.delay is not None:
            # It cannot be back before it flew there and here; a diverted one is back nobody knows when.
            back = None if flight.airborne is None else due + flight.delay + 2 * flight.airborne
        return Rotations(
            flights=self.flights + 1,
            early=self.early + (self.back is not None and due < self.back),
            back=back,
            chain=zlib.crc32(id.encode(), self.chain),
        )
