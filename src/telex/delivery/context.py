"""What a handler holds besides its message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from ..clock import Seconds
from ..engine import Fetched, Outgoing
from ..errors import ConfigError
from ..ids import emission_id
from ..message import Message

if TYPE_CHECKING:
    from ..app import Telex
    from ..channels import Queue, Topic


class Delivery(Protocol):
    """One attempt to hand a message, or a batch, to a handler."""

    @property
    def message(self) -> Message:
        """The message; the first one of a batch."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """All messages of a batch; otherwise the one."""
        ...

    @property
    def attempt(self) -> int:
        """From 1: failures + losses + 1, an upper bound of starts; the highest one in a batch."""
        ...

    @property
    def source(self) -> str:
        """What is consumed, for example ``orders.placed/billing``."""
        ...

    @property
    def app(self) -> Telex:
        """The application."""
        ...

    @property
    def state(self) -> Any:
        """What the application's lifespan yielded."""
        ...

    def publish(
        self, topic: Topic[Any] | str, body: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """Publishes if this handler succeeds, together with its settlement; returns the message's id.

        Not awaited. Encoded and checked here; the same id again whenever the handler is run again.

        Raises:
            InvalidMessage: The body, key or headers break a rule.
            ConfigError: A plain name that the application does not declare.
        """
        ...

    def send(
        self,
        queue: Queue[Any] | str,
        body: Any,
        *,
        key: str | None = None,
        delay: Seconds | datetime = 0,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Sends to a queue if this handler succeeds; like `publish`."""
        ...

    def fail(self, index: int, error: Exception) -> None:
        """Fails one message of a batch; the others are settled as the handler returns.

        Raises:
            ConfigError: The handler takes no batch, or the index is out of range.
        """
        ...


Middleware = Callable[[Delivery, Callable[[Delivery], Awaitable[Any]]], Awaitable[Any]]
"""``async def middleware(delivery, call_next)``: around each attempt, after decoding."""


class HandlerDelivery:
    """The delivery as the pipeline makes it."""

    __slots__ = ("_app", "_emitted", "_fetched", "_source", "body", "failed")

    def __init__(self, app: Telex, source: str, fetched: Sequence[Fetched], body: Any) -> None:
        self._app = app
        self._source = source
        self._fetched = fetched
        self._emitted: list[Outgoing] | None = None
        self.body = body
        self.failed: dict[int, Exception] | None = None

    @property
    def message(self) -> Message:
        return self._fetched[0].message

    @property
    def messages(self) -> Sequence[Message]:
        return tuple(f.message for f in self._fetched)

    @property
    def attempt(self) -> int:
        return max(f.failures + f.losses for f in self._fetched) + 1

    @property
    def source(self) -> str:
        return self._source

    @property
    def app(self) -> Telex:
        return self._app

    @property
    def state(self) -> Any:
        return self._app.state

    @property
    def lease(self) -> object:
        """Of the first message: what this delivery is known by while it runs."""
        return self._fetched[0].lease

    @property
    def emitted(self) -> Sequence[Outgoing]:
        return self._emitted or ()

    def publish(
        self, topic: Topic[Any] | str, body: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        return self._emit(self._app.compose_publish(topic, body, key, headers, self._next_id()))

    def send(
        self,
        queue: Queue[Any] | str,
        body: Any,
        *,
        key: str | None = None,
        delay: Seconds | datetime = 0,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        return self._emit(self._app.compose_send(queue, body, key, headers, self._next_id(), delay))

    def fail(self, index: int, error: Exception) -> None:
        if not isinstance(error, Exception):
            raise ConfigError(f"delivery.fail({index!r}, {error!r}): the second argument is the error, an Exception")
        if not isinstance(self.body, list) or not 0 <= index < len(self._fetched):
            raise ConfigError(
                f"delivery.fail({index!r}, …): the index must lie within the batch of {len(self._fetched)}; "
                "a handler of single messages raises its error instead"
            )
        if self.failed is None:
            self.failed = {}
        self.failed[index] = error

    def _next_id(self) -> str:
        ordinal = 0 if self._emitted is None else len(self._emitted)
        return emission_id(self._fetched[0].message.id, self._source, ordinal)

    def _emit(self, outgoing: Outgoing) -> str:
        if self._emitted is None:
            self._emitted = []
        self._emitted.append(outgoing)
        return outgoing.message.id
