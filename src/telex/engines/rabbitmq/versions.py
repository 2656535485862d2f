"""What the server's version decides; never whether a declaration was accepted: 3.10 accepts what it ignores."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ...errors import ConfigError

OLDEST = (3, 10)
"""Quorum queues got TTL and at-least-once dead-lettering in 3.10."""
HIGH = 2_000_000_000
"""A delivery limit that is never reached. 3.x puts a returned message back at the head only where there is a limit,
and takes -1 ("none" from 4.0) for 0: it then loses the message at its first return (measured on 3.10.8)."""


class Gates(msgspec.Struct, frozen=True):
    """The decisions.

    Attributes:
        version: As the server says it, for people.
        nack_is_free: From 4.3 ``basic.nack`` does not count as a failed delivery; before, whatever comes back counts,
            and what was not started goes back as a copy.
        dead_limit: ``x-delivery-limit`` of dead queues, which are only looked at: none before 4.0, where there is no
            limit by default; -1 from then on, where the default of 20 would throw a letter away after 20 looks.
    """

    version: str
    nack_is_free: bool
    dead_limit: int | None


def gates(properties: Mapping[str, object]) -> Gates:
    """What a server's properties decide.

    Raises:
        ConfigError: It is older than 3.10, or no RabbitMQ.
    """
    product = _text(properties.get("product"))
    text = _text(properties.get("version"))
    found = re.match(r"(\d+)\.(\d+)", text)
    if "RabbitMQ" not in product or found is None:
        raise ConfigError(f"the server says it is {product or 'nothing'} {text}: this engine needs RabbitMQ from 3.10")
    version = (int(found[1]), int(found[2]))
    if version < OLDEST:
        raise ConfigError(
            f"the server is RabbitMQ {text}: this engine needs 3.10 or later, since quorum queues before it have no "
            "time-to-live and lose messages when they are dead-lettered"
        )
    return Gates(
        version=text,
        nack_is_free=version >= (4, 3),
        dead_limit=-1 if version >= (4, 0) else None,
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
