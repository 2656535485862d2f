"""A delivery without an application, for unit tests of handlers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..app import Telex
from ..channels import Queue, Topic
from ..clock import Seconds
from ..codec import encoder
from ..errors import ConfigError
from ..message import Message
from ..names import check_delay, check_headers, check_key
from ..outbound import key_of, name_of, route_to
from ..typevars import T
from .clock import START


@dataclass(slots=True)
class FakeDelivery:
    """What a handler holds besides its message, recorded instead of sent.

    Bodies, keys and headers are checked as in an application, so that a handler which would fail there fails here.

    Attributes:
        message: A message without a body of its own: handlers take the decoded body as their first argument.
        messages: The one message, or those of a batch.
        attempt: From 1.
        source: What the handler believes to consume.
        app: An application that is not open, unless one was given.
        state: What the lifespan would have yielded.
        published: (topic name, body) of everything published, in order.
        sent: (queue name, body) of everything sent, in order.
        failed: The items of a batch that were failed, by index.
    """

    message: Message
    messages: Sequence[Message]
    attempt: int
    source: str
    app: Telex
    state: Any
    published: list[tuple[str, Any]] = field(default_factory=list)
    sent: list[tuple[str, Any]] = field(default_factory=list)
    failed: dict[int, Exception] = field(default_factory=dict)

    def publish(
        self, topic: Topic[T] | str, body: T, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """Records a publish; returns an id.

        Raises:
            InvalidMessage: The body does not fit the topic, or the key or a header breaks a rule.
            ConfigError: It is no topic.
        """
        self.published.append((_checked(topic, Topic, body, key, headers), body))
        return self._id()

    def send(
        self,
        queue: Queue[T] | str,
        body: T,
        *,
        key: str | None = None,
        delay: Seconds | datetime = 0,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Records a send; returns an id.

        Raises:
            InvalidMessage: The body does not fit the queue, or the key, the delay or a header breaks a rule.
            ConfigError: It is no queue.
        """
        check_delay(delay, START)
        self.sent.append((_checked(queue, Queue, body, key, headers), body))
        return self._id()

    def fail(self, index: int, error: Exception) -> None:
        """Fails one message of a batch.

        Raises:
            ConfigError: The index is out of range, or ``error`` is no exception.
        """
        if not isinstance(error, Exception):
            raise ConfigError(f"delivery.fail({index!r}, {error!r}): the second argument is the error, an Exception")
        if not 0 <= index < len(self.messages):
            raise ConfigError(
                f"delivery.fail({index!r}, …): the index must lie within the batch of {len(self.messages)}"
            )
        self.failed[index] = error

    def _id(self) -> str:
        return f"{self.message.id}-{len(self.published) + len(self.sent)}"


def delivery(
    *,
    key: str | None = None,
    attempt: int = 1,
    headers: Mapping[str, str] | None = None,
    state: Any = None,
    size: int = 1,
    app: Telex | None = None,
) -> FakeDelivery:
    """A delivery for calling a handler directly.

    Args:
        key: The message's key.
        attempt: Which attempt the handler is in, from 1.
        headers: The message's headers.
        state: What the handler finds in ``delivery.state``.
        size: How many messages, for handlers of batches.
        app: What the handler finds in ``delivery.app``; an application that is not open if None.

    Raises:
        ValueError: ``attempt`` or ``size`` is less than 1.
        InvalidMessage: The key or a header breaks a rule.
    """
    if attempt < 1 or size < 1:
        raise ValueError(f"delivery(attempt={attempt!r}, size={size!r}): both count from 1")
    if key is not None:
        check_key(key)
    checked = check_headers(headers or {})
    messages = tuple(
        Message(id=f"test-{number}", channel="test", body=b"null", time=START, key=key, headers=checked)
        for number in range(1, size + 1)
    )
    return FakeDelivery(
        message=messages[0],
        messages=messages,
        attempt=attempt,
        source="test",
        app=app or Telex("memory://", name="test"),
        state=state,
    )


def _checked(
    channel: Topic[Any] | Queue[Any] | str,
    kind: type[Topic[Any]] | type[Queue[Any]],
    body: Any,
    key: str | None,
    headers: Mapping[str, str] | None,
) -> str:
    """The channel's name, once everything a real publish would check is checked."""
    name = name_of(channel, kind)
    check_headers(headers or {})
    if isinstance(channel, str):
        encoder(Any)(body)
    else:
        route = route_to(channel)
        route.encode(body)
        if key is None and route.key is not None:
            key_of(route, body)
    if key is not None:
        check_key(key)
    return name
