"""From what the application says to what the engine stores: routes, checks, encoding. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from .channels import Procedure, Queue, Topic
from .clock import Clock, Seconds
from .codec import encoder
from .engine import Address, Channel, ChannelKind, Outgoing
from .errors import ConfigError, InvalidMessage, MessageTooLarge
from .ids import Ids
from .message import Message
from .names import check_channel_name, check_delay, check_headers, check_id, check_key

NO_HEADERS: Mapping[str, str] = {}
ANYTHING = encoder(Any)

Target = Topic[Any] | Queue[Any] | Procedure[Any, Any]


class Route(msgspec.Struct, frozen=True):
    """One channel as this application publishes to it.

    Attributes:
        channel: For the engine.
        encode: Its body type's encoder.
        key: Takes the key out of a body, if the channel has one.
    """

    channel: Channel
    encode: Callable[[Any], tuple[bytes, str]]
    key: Callable[[Any], str | None] | None = None


def route_to(target: Target) -> Route:
    """The route of a declared channel.

    Raises:
        ConfigError: Its body type cannot be encoded.
    """
    if isinstance(target, Procedure):
        return Route(target.channel, encoder(target.request))
    return Route(target.channel, encoder(target.type), target.key)


def plain_route(channel: Channel) -> Route:
    """The route of a channel known by its name alone: any JSON value, or bytes."""
    return Route(channel, ANYTHING)


class Composer:
    """Makes messages ready to be stored, and refuses bad ones before anything else happens."""

    def __init__(self, clock: Clock, ids: Ids, max_body: int, max_delay: timedelta) -> None:
        self._now = clock.now
        self._next_id = ids.next
        self._max_body = max_body
        self._max_delay = max_delay

    def compose(
        self,
        route: Route,
        body: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        id: str | None,
        delay: Seconds | datetime = 0,
    ) -> Outgoing:
        """An outgoing message.

        Raises:
            InvalidMessage: The id, key, headers, delay or body breaks a rule.
            MessageTooLarge: The encoded body is over the engine's limit.
        """
        id = self._next_id() if id is None else check_id(id)
        encoded, content_type = route.encode(body)
        if len(encoded) > self._max_body:
            raise MessageTooLarge(len(encoded), self._max_body, id=id)
        if key is not None:
            key = check_key(key)
        elif route.key is not None:
            key = key_of(route, body)
        now = self._now()
        message = Message(
            id=id,
            channel=route.channel.name,
            body=encoded,
            time=now,
            key=key,
            headers=NO_HEADERS if not headers else check_headers(headers),
            content_type=content_type,
        )
        if delay == 0:
            return Outgoing(route.channel, message)
        return Outgoing(route.channel, message, not_before=self._due(delay, now))

    def compose_into(
        self,
        outgoing: list[Outgoing],
        route: Route,
        bodies: Iterable[Any],
        key: Callable[[Any], str | None] | None,
        headers: Mapping[str, str] | None,
        id: Callable[[Any], str] | None,
    ) -> None:
        """Appends an outgoing message for each body; those before one that is refused are there when it raises.

        `compose` for many: what is the same for all of them is looked up once.

        Raises:
            InvalidMessage: As `compose`.
            MessageTooLarge: As `compose`.
        """
        encode, channel, limit, next_id, add = (
            route.encode,
            route.channel,
            self._max_body,
            self._next_id,
            outgoing.append,
        )
        name = channel.name
        for option, function in (("key", key), ("id", id)):
            if function is not None and not callable(function):
                raise ConfigError(f"{option}={function!r}: write a function of the body")
        checked = NO_HEADERS if not headers else check_headers(headers)
        now = self._now()
        for body in bodies:
            message_id = next_id() if id is None else check_id(_called(f"id function given for {name}", id, body))
            encoded, content_type = encode(body)
            if len(encoded) > limit:
                raise MessageTooLarge(len(encoded), limit, id=message_id)
            if key is not None:
                found = _called(f"key function given for {name}", key, body)
                message_key = None if found is None else check_key(found)
            else:
                message_key = None if route.key is None else key_of(route, body)
            add(
                Outgoing(
                    channel,
                    Message(
                        id=message_id,
                        channel=name,
                        body=encoded,
                        time=now,
                        key=message_key,
                        headers=checked,
                        content_type=content_type,
                    ),
                )
            )

    def checked(self, before: Message, after: Message) -> Message:
        """What middleware made of a message, checked like one that an application composes.

        Raises:
            InvalidMessage: It is no message, goes elsewhere, or its id, key, headers or body breaks a rule.
            MessageTooLarge: Its body is over the engine's limit.
        """
        if not isinstance(after, Message) or after.channel != before.channel:
            raise InvalidMessage(f"publish middleware handed on {type(after).__name__}: hand on message.replace(…)")
        check_id(after.id)
        if after.key is not None:
            check_key(after.key)
        if not isinstance(after.body, bytes):
            raise InvalidMessage(f"publish middleware made the body {type(after.body).__name__}: it must be bytes")
        if len(after.body) > self._max_body:
            raise MessageTooLarge(len(after.body), self._max_body, id=after.id)
        return msgspec.structs.replace(after, headers=check_headers(after.headers))

    def reply(self, address: Address, message: Message) -> Outgoing:
        """A message to an inbox.

        Raises:
            MessageTooLarge: The encoded body is over the engine's limit.
        """
        if len(message.body) > self._max_body:
            raise MessageTooLarge(len(message.body), self._max_body, id=message.id)
        return Outgoing(address, message)

    def _due(self, delay: Seconds | datetime, now: datetime) -> datetime | None:
        due = check_delay(delay, now)
        if due is not None and due - now > self._max_delay:
            raise InvalidMessage(f"the delay {delay!r} is longer than the {self._max_delay} that this engine can wait")
        return due


def key_of(route: Route, body: Any) -> str | None:
    """The key that the channel takes out of a body.

    Raises:
        InvalidMessage: It breaks a rule, or the channel's function raised.
    """
    assert route.key is not None
    key = _called(f"key function of {route.channel.name}", route.key, body)
    return None if key is None else check_key(key)


def _called(what: str, function: Callable[[Any], Any], body: Any) -> Any:
    try:
        return function(body)
    except Exception as error:
        raise InvalidMessage(
            f"the {what} raised {type(error).__name__}: {error}: it must return a text for every body"
        ) from error


def name_of(target: object, *wanted: type) -> str:
    """The name of a channel given as an object or as its name.

    Raises:
        ConfigError: It is neither, or of another kind.
    """
    if isinstance(target, str):
        return check_channel_name(target)
    if isinstance(target, wanted) and isinstance(target, (Topic, Queue, Procedure)):
        return target.name
    kinds = " or ".join(w.__name__ for w in wanted)
    raise ConfigError(f"{target!r} is not a {kinds}: give one, or its name")


KINDS = {Topic: ChannelKind.TOPIC, Queue: ChannelKind.QUEUE, Procedure: ChannelKind.PROCEDURE}
