"""From what was written with decorators to what the pipeline runs: names, types, sources, checks. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .channels import Procedure, Queue, Topic
from .codec import decoder, encoder
from .delivery.bound import ONCE, Bound
from .engine import Channel, ChannelKind, Source, SourceKind
from .errors import ConfigError, Unsupported
from .features import Features
from .handlers import Registration
from .names import is_pattern
from .signature import inspect_handler


class Plan(msgspec.Struct, frozen=True):
    """What an application consumes.

    Attributes:
        bounds: One for each source.
        channels: The channels they need, by name; patterns need none.
    """

    bounds: tuple[Bound, ...]
    channels: Mapping[str, Channel]


def plain_names(registrations: Iterable[Registration]) -> list[str]:
    """Channels that are subscribed to by name only; the engine may know them."""
    return sorted({r.target for r in registrations if isinstance(r.target, str) and not is_pattern(r.target)})


def own_channels(registrations: Iterable[Registration]) -> dict[str, Topic[Any] | Queue[Any] | Procedure[Any, Any]]:
    """The channel objects that handlers were declared on, by name.

    Raises:
        ConfigError: Two objects of one name differ.
    """
    own: dict[str, Topic[Any] | Queue[Any] | Procedure[Any, Any]] = {}
    for registration in registrations:
        target = registration.target
        if isinstance(target, str):
            continue
        known = own.setdefault(target.name, target)
        if known.channel != target.channel:
            raise ConfigError(
                f"{target.name} is declared twice and differently ({_describe(known.channel)}; "
                f"{_describe(target.channel)}): declare it once and import it"
            )
    return own


def bind(registrations: Iterable[Registration], app: str, known: Mapping[str, Channel]) -> Plan:
    """Binds handlers to sources.

    Args:
        registrations: The handlers.
        app: The application's name, the default group.
        known: Channels of plain names as the engine has them.

    Raises:
        ExceptionGroup: Of every `ConfigError` in the declarations.
    """
    registrations = tuple(registrations)
    own = own_channels(registrations)
    bounds: dict[Source, Bound] = {}
    channels: dict[str, Channel] = {name: target.channel for name, target in own.items()}
    errors: list[Exception] = []
    for registration in registrations:
        try:
            channel = _channel(registration, channels, known)
            bound = _bind(registration, channel, app)
            _unique(bounds, bound)
        except ConfigError as error:
            errors.append(error)
            continue
        bounds[bound.source] = bound
        if channel is not None:
            channels[channel.name] = channel
    if errors:
        raise ExceptionGroup("the application's handlers cannot be started", errors)
    return Plan(tuple(bounds.values()), channels)


def unsupported(plan: Plan, features: Features) -> list[Unsupported]:
    """Everything the application asks for that the engine refuses."""
    asked: dict[str, None] = {}
    for bound in plan.bounds:
        source = bound.source
        if source.kind is SourceKind.GROUP:
            asked["groups"] = None
            if is_pattern(source.channel):
                asked["patterns"] = None
        if source.kind is SourceKind.BROADCAST:
            asked["broadcast"] = None
        if source.ordered:
            asked["ordered"] = None
        if bound.start != "new":
            asked["start_all"] = None
        if bound.answers:
            asked["requests"] = None
    return [refusal for feature in asked if (refusal := features.refusal(feature)) is not None]


def _channel(
    registration: Registration, channels: Mapping[str, Channel], known: Mapping[str, Channel]
) -> Channel | None:
    target = registration.target
    if not isinstance(target, str):
        return target.channel
    if is_pattern(target):
        return None
    found = channels.get(target) or known.get(target)
    if found is not None:
        return found
    return Channel(target, _KINDS[registration.verb])


_KINDS = {"subscribe": ChannelKind.TOPIC, "receive": ChannelKind.QUEUE, "reply": ChannelKind.PROCEDURE}


def _bind(registration: Registration, channel: Channel | None, app: str) -> Bound:
    target = registration.target
    wanted = _KINDS[registration.verb]
    if channel is not None and channel.kind is not wanted:
        raise ConfigError(
            f"{channel.name} is a {channel.kind.value}, and {registration.verb}() takes a {wanted.value}: "
            f"use {_VERBS[channel.kind]}()"
        )
    call = inspect_handler(registration.function, batch=registration.batch is not None)
    encode = None
    body = call.body
    if isinstance(target, Procedure):
        body, encode = target.request, encoder(target.answer)
    elif registration.verb == "reply":
        encode = encoder(Any)
    elif not isinstance(target, str) and body is not bytes and target.type is not Any:
        body = target.type
    source = _source(registration, channel, app)
    return Bound(
        source=source,
        name=str(source),
        function=call.function,
        is_async=call.is_async,
        takes_delivery=call.takes_delivery,
        decode=decoder(body),
        encode=encode,
        start=registration.start,
        concurrency=registration.concurrency,
        retry=registration.retry if encode is None else ONCE,
        timeout=registration.timeout,
        rate=registration.rate,
        batch=registration.batch,
        middleware=registration.middleware,
    )


_VERBS = {ChannelKind.TOPIC: "subscribe", ChannelKind.QUEUE: "receive", ChannelKind.PROCEDURE: "reply"}


def _source(registration: Registration, channel: Channel | None, app: str) -> Source:
    target = registration.target
    name = target if isinstance(target, str) else target.name
    ordered = channel is not None and channel.ordered
    if registration.verb != "subscribe":
        return Source(name, SourceKind.QUEUE, ordered=ordered)
    if registration.ordered is not None:
        if registration.ordered and not ordered:
            raise ConfigError(
                f"subscribe({name}, ordered=True): the topic is not ordered; declare it as "
                f'Topic("{name}", …, ordered=True, key=…), so that its publishers keep order too'
            )
        ordered = registration.ordered
    if registration.batch is not None and ordered:
        raise ConfigError(
            f"subscribe({name}, batch=…) on an ordered topic: a batch has no order per key; "
            "write ordered=False beside batch, or take single messages"
        )
    if registration.broadcast:
        return Source(name, SourceKind.BROADCAST)
    return Source(name, SourceKind.GROUP, registration.group or app, ordered)


def _unique(bounds: Mapping[Source, Bound], bound: Bound) -> None:
    for other in bounds.values():
        if other.name == bound.name and other.source.kind is bound.source.kind:
            raise ConfigError(
                f"{bound.name} has two handlers, {_name(other)} and {_name(bound)}: "
                'give each a group of its own (group="…"), or call both from one handler'
            )


def _name(bound: Bound) -> str:
    return getattr(bound.function, "__qualname__", repr(bound.function))


def _describe(channel: Channel) -> str:
    order = f"ordered, {channel.lanes} lanes" if channel.ordered else "unordered"
    return f"{channel.kind.value}, {order}, history {channel.history}"
