"""What a handler takes, read from its signature when the application opens."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from .errors import ConfigError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Call(msgspec.Struct, frozen=True):
    """How a handler is called.

    Attributes:
        function: The handler.
        is_async: Whether it is a coroutine function.
        takes_delivery: Whether its second argument is the `Delivery`.
        body: The annotation of its first argument, of one item for a batch; Any where there is none.
    """

    function: Callable[..., Any]
    is_async: bool
    takes_delivery: bool
    body: Any


def inspect_handler(function: Callable[..., Any], *, batch: bool) -> Call:
    """Reads a handler's signature.

    Raises:
        ConfigError: It cannot be called with a body, or with a body and a delivery; or an annotation cannot be read.
    """
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"handler {name}: its signature cannot be read: {error}") from error
    wants_delivery = _takes_delivery(name, parameters)
    body = _annotation(function, name, parameters[0])
    return Call(function, _is_async(function), wants_delivery, _item(name, body) if batch else body)


def takes_delivery(function: Callable[..., Any]) -> bool:
    """Whether a handler wants the delivery as its second argument.

    Raises:
        ConfigError: It takes no message, or needs more than a message and a delivery.
    """
    name = getattr(function, "__qualname__", repr(function))
    return _takes_delivery(name, list(inspect.signature(function).parameters.values()))


def _takes_delivery(name: str, parameters: list[inspect.Parameter]) -> bool:
    plain = [p for p in parameters if p.kind in _POSITIONAL]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not plain:
        raise ConfigError(f"handler {name} takes no message: write {name}(body) or {name}(body, delivery)")
    extra = [p for p in needed if p not in plain[:2]]
    if extra:
        raise ConfigError(
            f"handler {name} needs the argument {extra[0].name!r}, and Telex gives a body and a delivery only: "
            "give it a default, or take it from delivery.state"
        )
    return len(plain) > 1 and (plain[1] in needed or plain[1].name == "delivery")


def _annotation(function: Callable[..., Any], name: str, parameter: inspect.Parameter) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    target = inspect.unwrap(function)
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)[parameter.name]
    except Exception as error:  # An annotation is code of the user's: evaluating it may raise anything.
        raise ConfigError(
            f"handler {name}: the annotation {parameter.annotation!r} of {parameter.name!r} cannot be read: {error}; "
            "import the type at the top of the module"
        ) from error


def _item(name: str, body: Any) -> Any:
    if body is Any or body is list:
        return Any
    if typing.get_origin(body) is list:
        return typing.get_args(body)[0]
    raise ConfigError(f"handler {name} takes batches, and its first argument is {body!r}: annotate it as list[…]")


def _is_async(function: Callable[..., Any]) -> bool:
    target = inspect.unwrap(function)
    while hasattr(target, "func"):  # functools.partial
        target = target.func
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)
