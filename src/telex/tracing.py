"""What a tracing system is told of messages. The core knows none of them, and pays nothing where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from .engine import Fetched, Letter, Outgoing, Settlement, Source
from .features import Features
from .message import Message


class Sending(AbstractContextManager["Sending"], Protocol):
    """A publish, send or request under way: current inside the block, which may raise."""

    def stored(self, count: int) -> None:
        """How many messages were stored, of a bulk publish."""
        ...

    def answered(self, reply: Message) -> None:
        """The reply to a request, as it came."""
        ...


class Handling(Protocol):
    """What was taken from a source at once, from before its decoding until its decision."""

    def enter(self) -> None:
        """The handler is about to run; called in the context that it will run in."""
        ...

    def settled(self, fetched: Fetched, settlement: Settlement, error: BaseException | None) -> Settlement:
        """What was decided about one message; the same with replies that carry the trace on."""
        ...

    def end(self, *, left: bool) -> None:
        """It is over; ``left`` if nothing was decided, since the lease was lost or the process ends."""
        ...


class Consuming(Protocol):
    """One source at work."""

    def handling(self, taken: Sequence[Fetched]) -> Handling | None:
        """Something was taken and is about to be decoded; None where nothing is recorded of it."""
        ...

    def prepare(self) -> None:
        """Called once, in the context that every handler gets a copy of."""
        ...

    def enter(self, message: Message) -> None:
        """As `Handling.enter`, where nothing is recorded of this message."""
        ...


class Tracing(Protocol):
    """A tracing system."""

    def opened(self, features: Features) -> None:
        """The application is open, on this engine."""
        ...

    def sending(self, verb: str, outgoing: Outgoing) -> tuple[Outgoing, Sending | None]:
        """Before a publish, send or request: the message with its trace's headers; None where nothing is recorded."""
        ...

    def sending_many(
        self, verb: str, channel: str, headers: Mapping[str, str] | None
    ) -> tuple[Mapping[str, str] | None, Sending | None]:
        """Before a bulk publish: the headers of every message."""
        ...

    def emitting(self, verb: str, outgoing: Outgoing) -> Outgoing:
        """A handler emitted a message, which leaves if it succeeds; called in its context, from any thread."""
        ...

    def consuming(self, source: Source, name: str, *, batch: bool) -> Consuming:
        """Handlers of a source begin to run, one message at a time or in batches."""
        ...

    def moved(self, verb: str, letters: Sequence[Letter]) -> None:
        """Dead letters were redriven or discarded."""
        ...
