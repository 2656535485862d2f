"""An application as an AsyncAPI 3.0 document: its channels, what it receives and sends, and the bodies' schemas."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .app import Telex
from .binding import bind, own_channels
from .channels import Procedure, Queue, Topic
from .codec import decoder, pydantic_adapter
from .delivery.bound import Bound
from .engine import Channel, ChannelKind, SourceKind
from .handlers import Registration
from .message import BYTES, JSON
from .names import is_pattern
from .signature import inspect_handler

VERSION = "3.0.0"
"""Of the specification, https://www.asyncapi.com/docs/reference/specification/v3.0.0."""
SCHEMAS = "#/components/schemas/"
ANSWER = "-answer"
"""Ends the id of an answer's channel; a channel's name has no dash, so the two never meet."""

Target = Topic[Any] | Queue[Any] | Procedure[Any, Any]


def document(app: Telex, *, version: str = "0.0.0", sends: Iterable[Target] = ()) -> dict[str, Any]:
    """The application as an AsyncAPI 3.0 document, ready for `json.dumps`. Opens nothing.

    It names no servers: where messages live is a matter of each deployment, and its URL may hold a password. What the
    specification has no word for (kind, order, group, attempts) stands under ``x-telex``.

    Args:
        app: The application; it need not be open.
        version: Of the application's messages, as its team counts them.
        sends: Channels it publishes, sends or requests to. A program's text cannot tell them; handlers can.

    Raises:
        ExceptionGroup: Of a `ConfigError` for everything that is declared wrongly.
        ConfigError: Bodies of a channel in ``sends`` cannot have its type.
    """
    registrations = app.registrations
    plan = bind(registrations, app.name, {})
    own = own_channels(registrations)
    paper = _Paper()
    for registration, bound in zip(registrations, plan.bounds, strict=True):
        name = bound.source.channel
        paper.receive(registration, bound, plan.channels.get(name), own.get(name))
    for target in sends:
        paper.send(target)
    return paper.written(app.name, version)


class _Body(msgspec.Struct, frozen=True):
    """One kind of message: the id it has in the document, and what its body is."""

    id: str
    type: Any


class _Paper:
    """The document while it is written: types are gathered first, their schemas are made together at the end."""

    def __init__(self) -> None:
        self._channels: dict[str, dict[str, Any]] = {}
        self._bodies: dict[str, list[_Body]] = {}
        """By channel id."""
        self._operations: dict[str, dict[str, Any]] = {}

    def receive(self, registration: Registration, bound: Bound, channel: Channel | None, target: Target | None) -> None:
        """Adds what one handler consumes."""
        name, source = bound.source.channel, bound.source
        at = self._channel(name, channel)
        extra: dict[str, Any] = {"source": bound.name}
        if source.kind is SourceKind.GROUP:
            extra["group"] = source.group
        if source.kind is SourceKind.BROADCAST:
            extra["broadcast"] = True
        if not bound.answers and source.kind is not SourceKind.BROADCAST:
            extra |= {"attempts": bound.retry.attempts, "ordered": source.ordered}
        body = self._body(at, _type_of(registration, target))
        operation = self._operation("receive", at, body, extra)
        operation |= _said(bound.function)
        if bound.answers:
            operation["reply"] = self._reply(at, target.answer if isinstance(target, Procedure) else Any)
        verb = "broadcast" if source.kind is SourceKind.BROADCAST else registration.verb
        group = f"-{source.group}" if source.kind is SourceKind.GROUP else ""
        self._operations[f"{verb}-{at}{group}"] = operation

    def send(self, target: Target) -> None:
        """Adds what the application sends to one channel."""
        verb = {ChannelKind.TOPIC: "publish", ChannelKind.QUEUE: "send", ChannelKind.PROCEDURE: "request"}
        type = target.request if isinstance(target, Procedure) else target.type
        decoder(type)
        at = self._channel(target.name, target.channel)
        operation = self._operation("send", at, self._body(at, type), {})
        if isinstance(target, Procedure):
            decoder(target.answer)
            operation["reply"] = self._reply(at, target.answer)
        self._operations[f"{verb[target.channel.kind]}-{at}"] = operation

    def written(self, title: str, version: str) -> dict[str, Any]:
        """The whole document."""
        bodies = [body for bodies in self._bodies.values() for body in bodies]
        schemas, components = _schemas([body.type for body in bodies])
        for at, channel in self._channels.items():
            refs = {body.id: {"$ref": f"#/components/messages/{body.id}"} for body in self._bodies.get(at, ())}
            if refs:
                channel["messages"] = refs
        messages = {body.id: _message(body, schema) for body, schema in zip(bodies, schemas, strict=True)}
        return {
            "asyncapi": VERSION,
            "info": {"title": title, "version": version},
            "defaultContentType": JSON,
            "channels": self._channels,
            "operations": self._operations,
            "components": {"messages": messages, "schemas": components},
        }

    def _channel(self, name: str, channel: Channel | None) -> str:
        """Adds a channel, or a pattern of topics (no channel); its id."""
        if channel is None:
            at = _pattern_id(name) if is_pattern(name) else name
            text = f"Every topic whose name fits {name}: * stands for one word, # for any number of words."
            self._channels.setdefault(
                at, {"address": None, "description": text, "x-telex": {"kind": "topic", "pattern": name}}
            )
            return at
        extra: dict[str, Any] = {"kind": channel.kind.value, "ordered": channel.ordered}
        if channel.ordered:
            extra["lanes"] = channel.lanes
        self._channels.setdefault(name, {"address": name, "x-telex": extra})
        return name

    def _body(self, at: str, type: Any) -> _Body:
        """The message of a channel with this type; several handlers of a plain name may each have their own."""
        bodies = self._bodies.setdefault(at, [])
        for body in bodies:
            if body.type == type:
                return body
        body = _Body(at if not bodies else f"{at}-{len(bodies) + 1}", type)
        bodies.append(body)
        return body

    def _operation(self, action: str, at: str, body: _Body, extra: Mapping[str, Any]) -> dict[str, Any]:
        operation: dict[str, Any] = {"action": action, **self._place(at, body)}
        if extra:
            operation["x-telex"] = dict(extra)
        return operation

    def _reply(self, at: str, type: Any) -> dict[str, Any]:
        answers = at + ANSWER
        text = "The inbox of the process that asked; each request carries its address."
        self._channels.setdefault(answers, {"address": None, "description": text})
        return self._place(answers, self._body(answers, type))

    def _place(self, at: str, body: _Body) -> dict[str, Any]:
        return {
            "channel": {"$ref": f"#/channels/{at}"},
            "messages": [{"$ref": f"#/channels/{at}/messages/{body.id}"}],
        }


def _type_of(registration: Registration, target: Target | None) -> Any:
    """What a handler's messages are: as their channel says, else as the handler's annotation does."""
    if isinstance(target, Procedure):
        return target.request
    if target is not None and target.type is not Any:
        return target.type
    annotation = inspect_handler(registration.function, batch=registration.batch is not None).body
    return Any if annotation is bytes else annotation  # Bytes as they come, whatever they are.


def _pattern_id(pattern: str) -> str:
    """A pattern as a part of a reference. Names have small letters only, so ANY and ALL meet no name."""
    return "pattern-" + pattern.replace("*", "ANY").replace("#", "ALL")


def _said(function: Any) -> dict[str, str]:
    """Summary and description, from the docstring."""
    text = inspect.getdoc(inspect.unwrap(function)) if inspect.isroutine(function) else None
    if not text:
        return {}
    summary, _, description = text.partition("\n")
    said = {"summary": summary.strip()}
    if description.strip():
        said["description"] = description.strip()
    return said


def _message(body: _Body, schema: Mapping[str, Any]) -> dict[str, Any]:
    name = getattr(body.type, "__name__", None) or str(body.type)
    if body.type is bytes:
        return {"name": name, "contentType": BYTES, "payload": {"type": "string", "format": "binary"}}
    if body.type is Any:
        return {"name": "any", "payload": {}}
    return {"name": name, "contentType": JSON, "payload": dict(schema)}


def _schemas(types: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schema of each type, and the schemas they refer to, by name."""
    adapters = {number: found for number, type in enumerate(types) if (found := pydantic_adapter(type)) is not None}
    plain = [type for number, type in enumerate(types) if number not in adapters]
    made, components = msgspec.json.schema_components(plain, ref_template=SCHEMAS + "{name}")
    schemas = iter(made)
    models, definitions = _pydantic_schemas(adapters)
    # A name that both families use belongs to msgspec; the model of that name gets another.
    names = {name: f"{name}-model" for name in definitions if name in components}
    found = [_draft_7(models[n], names) if n in adapters else _draft_7(next(schemas), {}) for n in range(len(types))]
    named = {name: _draft_7(schema, {}) for name, schema in components.items()}
    named |= {names.get(name, name): _draft_7(schema, names) for name, schema in definitions.items()}
    return found, named


def _pydantic_schemas(adapters: Mapping[int, Any]) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    if not adapters:
        return {}, {}
    pydantic = sys.modules["pydantic"]
    inputs = [(number, "validation", adapter) for number, adapter in adapters.items()]
    made, rest = pydantic.TypeAdapter.json_schemas(inputs, ref_template=SCHEMAS + "{model}")
    return {number: schema for (number, _), schema in made.items()}, rest.get("$defs", {})


_ONE = ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("patternProperties", "properties")


def _draft_7(schema: Any, names: Mapping[str, str]) -> Any:
    """The schema in the words of draft 7, on which AsyncAPI's own schemas stand; both makers write 2020-12.

    Tuples are said differently there. ``discriminator`` is an object for OpenAPI and another thing for AsyncAPI; it
    goes, since the members of a union are told apart by the constant in their tag.

    Args:
        schema: A schema, or True or False.
        names: New names of what it refers to.
    """
    if not isinstance(schema, Mapping):
        return schema
    new: dict[str, Any] = {}
    for word, value in schema.items():
        if word == "discriminator":
            continue
        if word == "$ref":
            name = str(value).removeprefix(SCHEMAS)
            new[word] = SCHEMAS + names.get(name, name)
        elif word in _ONE:
            new[word] = _draft_7(value, names)
        elif word in _SEVERAL:
            new[word] = [_draft_7(one, names) for one in value]
        elif word in _NAMED:
            new[word] = {name: _draft_7(one, names) for name, one in value.items()}
        else:
            new[word] = value
    if "prefixItems" in new:
        rest = new.pop("items", None)
        new["items"] = new.pop("prefixItems")
        if rest is not None:
            new["additionalItems"] = rest
    return new
