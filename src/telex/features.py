"""What an engine can do, as data: checked at start, printed in the documents, proved by the contract suite."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

import msgspec

from .errors import Unsupported


class Support(Enum):
    """How an engine does something."""

    NATIVE = "native"
    EMULATED = "emulated"


class Refusal(msgspec.Struct, frozen=True):
    """An engine does not do something.

    Attributes:
        because: Why it cannot.
        instead: What to do instead.
    """

    because: str
    instead: str


Capability = Support | Refusal


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's capabilities and limits.

    Attributes:
        engine: The engine's name, for example ``embedded``.
        durable: Whether messages outlive the process.
        settle_confirmed: Whether the broker confirms a settlement.
        atomic: Whether a handler's emissions and its settlement are one step.
        groups: Topics with durable groups.
        patterns: Groups on patterns of topics.
        broadcast: Every running instance gets every message.
        ordered: Order per key.
        delay: Delayed sends.
        requests: Request-reply.
        replay: Handing past messages to a group again.
        start_all: New groups that begin with all that is kept (``start="all"``) or at an instant.
        browse: Looking at kept messages without taking them.
        max_body: Largest body in bytes.
        max_delay: Longest delay.
        max_hold: Longest time a delivery may stay unsettled; None: no limit.
        hold_window: Unsettled messages per lane while a key waits, after which the lane waits; None: no limit.
        holds_keys: Ordered: a key that waits for its retry is held by the core (`Settled.HELD`), its successors too;
            False: the engine lets keys wait by itself.
        retention: After which even unsettled messages may go; None: never.
        pipelined: Whether two publishes under way are quicker than one as large, since the way takes longer than
            storing: a batch that would be alone is halved then. False where each is a commit of its own.
        system: What OpenTelemetry's conventions call the broker (``messaging.system``); the engine's name if empty.
    """

    engine: str
    durable: bool
    settle_confirmed: bool
    atomic: bool
    groups: Capability
    patterns: Capability
    broadcast: Capability
    ordered: Capability
    delay: Capability
    requests: Capability
    replay: Capability
    start_all: Capability
    browse: Capability
    max_body: int
    max_delay: timedelta
    max_hold: timedelta | None
    hold_window: int | None
    retention: timedelta | None
    holds_keys: bool = False
    pipelined: bool = False
    system: str = ""

    def refusal(self, feature: str) -> Unsupported | None:
        """The error for a capability (by its attribute's name) that this engine refuses, or None if it has it."""
        capability = getattr(self, feature)
        if isinstance(capability, Refusal):
            return Unsupported(feature, self.engine, capability.because, capability.instead)
        return None
