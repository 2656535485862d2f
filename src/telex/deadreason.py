"""Why a message died."""

from __future__ import annotations

from enum import Enum


class DeadReason(Enum):
    """Why a message is in dead letters."""

    REJECTED = "rejected"
    """The handler raised `Reject`, or an exception named in `Retry.unless`."""
    EXHAUSTED = "exhausted"
    """Every attempt failed."""
    CRASHED = "crashed"
    """Its process died again and again while it alone was in hand."""
    UNDECODABLE = "undecodable"
    """Its body does not fit the handler's type."""
    DAMAGED = "damaged"
    """Its stored bytes fail their checksum."""
