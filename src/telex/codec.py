"""Bodies on the wire: plain JSON, or raw bytes. No pickle, no class named by data."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from .errors import ConfigError, InvalidMessage, Undecodable
from .message import BYTES, JSON, Message

Encode = Callable[[Any], tuple[bytes, str]]
Decode = Callable[[Message], Any]


def encoder(type: Any) -> Encode:
    """From a body to bytes and content type. What it returns raises `InvalidMessage`.

    Raises:
        ConfigError: Bodies of this type cannot be written.
    """
    if _bare(type) is bytes:
        return _encode_bytes
    if (adapter := pydantic_adapter(type)) is not None:
        return _pydantic_encoder(adapter)
    _supported(type)
    return _json_encoder(type)


def decoder(type: Any) -> Decode:
    """From a message to a body of this type. What it returns raises `Undecodable`, whatever goes wrong.

    Raises:
        ConfigError: Bodies of this type cannot be read.
    """
    if _bare(type) is bytes:
        return lambda message: message.body
    if (adapter := pydantic_adapter(type)) is not None:
        return _guard(adapter.validate_json, type)
    _supported(type)
    return _guard(msgspec.json.Decoder(type).decode, type)


def _encode_bytes(body: Any) -> tuple[bytes, str]:
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise InvalidMessage(f"the body is {_named(body)}, and this channel takes bytes")
    return bytes(body), BYTES


def _json_encoder(type: Any) -> Encode:
    encode = msgspec.json.Encoder(enc_hook=_unknown).encode
    allowed = _classes(_bare(type))
    names = " or ".join(dict.fromkeys(cls.__qualname__ for cls in allowed or ()))
    read_back = None if _is_loose(type) else msgspec.json.Decoder(type).decode

    def run(body: Any) -> tuple[bytes, str]:
        if allowed is None:
            if isinstance(body, bytes):
                return bytes(body), BYTES
        elif not isinstance(body, allowed):
            raise InvalidMessage(f"the body is {_named(body)}, and this channel takes {names}")
        try:
            encoded = encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidMessage(f"the body cannot be written as JSON: {error}") from error
        # JSON has no NaN and no infinity: msgspec writes null, which would come back as another value.
        if encoded.find(b"null") >= 0:
            _refuse_non_finite(body, encoded)
        if read_back is not None:
            try:
                read_back(encoded)
            except msgspec.MsgspecError as error:  # Its consumers would find it undecodable, one and all.
                raise InvalidMessage(f"the body does not fit the channel's type: {error}") from error
        return encoded, JSON

    return run


def _is_loose(type: Any) -> bool:
    """Whether every JSON value of the right class fits: reading such a body back would prove nothing."""
    bare = _bare(type)
    if bare in (Any, object, str, bool, dict, list):
        return True
    return (get_origin(bare), *get_args(bare)) in ((dict, str, Any), (list, Any))


def _classes(type: Any) -> tuple[Any, ...] | None:
    """What bodies of a type are instances of; None where that says nothing about them."""
    cls = get_origin(type) or type
    if cls is UnionType or cls is Union:
        members = [_classes(_bare(member)) for member in get_args(type)]
        found = [classes for classes in members if classes is not None]
        return tuple(one for classes in found for one in classes) if len(found) == len(members) else None
    if not isinstance(cls, builtin_type) or cls in (object, Any) or getattr(cls, "__total__", None) is not None:
        return None
    if cls in (float, complex):
        return (float, int)
    return None if cls.__module__ == "collections.abc" else (cls,)


builtin_type = type


def _unknown(value: Any) -> Any:
    raise TypeError(f"{_named(value)} is no JSON value: give a dataclass, Struct, TypedDict, attrs class or builtin")


def _refuse_non_finite(body: Any, encoded: bytes) -> None:
    """Looks for the float behind a null."""
    for value in _floats(body, 0):
        if not math.isfinite(value):
            raise InvalidMessage(f"the body contains {value!r}, which JSON cannot carry: send None or a text instead")


def _floats(value: Any, depth: int) -> Any:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _floats(item, depth + 1)
    elif not isinstance(value, (str, bytes, int, type(None))):
        for name in _fields(value):
            yield from _floats(getattr(value, name, None), depth + 1)


def _fields(value: Any) -> tuple[str, ...]:
    cls = type(value)
    if (fields := getattr(cls, "__struct_fields__", None)) is not None:
        return tuple(fields)
    if (fields := getattr(cls, "__dataclass_fields__", None)) is not None:
        return tuple(fields)
    if (fields := getattr(cls, "__attrs_attrs__", None)) is not None:
        return tuple(field.name for field in fields)
    return ()


def _guard(decode: Callable[[bytes], Any], type: Any) -> Decode:
    def run(message: Message) -> Any:
        try:
            return decode(message.body)
        except Exception as error:  # A decoder may raise anything on hostile bytes; none of it may stop the consumer.
            what = getattr(type, "__qualname__", None) or str(type)
            raise Undecodable(f"the body does not fit {what}: {_without_values(error)}") from error

    return run


def _supported(type: Any) -> None:
    try:
        msgspec.json.Decoder(type)
        unknown = _unknown_class(msgspec.inspect.type_info(type), set())
    except TypeError as error:
        text = str(error)
        if "union" in text.lower():
            raise ConfigError(
                f"bodies of {type!r} cannot be told apart: {_short(error)}. Give each member a tag: "
                "class Shipped(msgspec.Struct, tag=True)"
            ) from error
        raise ConfigError(f"bodies cannot have the type {type!r}: {_short(error)}") from error
    except Exception as error:
        raise ConfigError(f"bodies cannot have the type {type!r}: {_short(error)}") from error
    if unknown is not None:
        raise ConfigError(
            f"bodies cannot have the type {type!r}: {unknown!r} is a class that JSON knows nothing of; "
            "make it a dataclass, a Struct, a TypedDict, an attrs class or a pydantic model"
        )


def _unknown_class(info: object, seen: set[int]) -> object:
    """The first class inside a type that only its author could read and write; None if there is none."""
    if isinstance(info, msgspec.inspect.CustomType):
        return None if info.cls is object else info.cls
    if id(info) in seen:
        return None
    seen.add(id(info))
    inner: list[object] = []
    for name in ("item_type", "item_types", "key_type", "value_type", "types", "type", "fields"):
        value = getattr(info, name, ())
        inner += value if isinstance(value, (tuple, list)) else [value]
    for one in inner:
        if isinstance(one, msgspec.Struct) and (found := _unknown_class(one, seen)) is not None:
            return found
    return None


def pydantic_adapter(type: Any) -> Any:
    """A TypeAdapter if the type is, or contains, a pydantic model; pydantic is used only if the application did."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _contains_model(type, pydantic.BaseModel):
        return None
    try:
        return pydantic.TypeAdapter(type)
    except Exception as error:
        raise ConfigError(f"bodies cannot have the type {type!r}: {_short(error)}") from error


def _contains_model(type: Any, model: type[Any]) -> bool:
    if isinstance(type, builtin_type) and issubclass(type, model):
        return True
    return any(_contains_model(argument, model) for argument in get_args(type))


def _pydantic_encoder(adapter: Any) -> Encode:
    def run(body: Any) -> tuple[bytes, str]:
        try:
            adapter.validate_python(body, strict=True)
            encoded: bytes = adapter.dump_json(body, warnings="error")
        except Exception as error:  # pydantic raises errors of its own and whatever a validator raises.
            raise InvalidMessage(f"the body cannot be written: {_without_values(error)}") from error
        if b"null" in encoded:
            _refuse_non_finite(adapter.dump_python(body), encoded)
        return encoded, JSON

    return run


def _bare(type: Any) -> Any:
    return get_args(type)[0] if get_origin(type) is Annotated else type


def _named(value: object) -> str:
    return f"a {type(value).__qualname__}"


def _without_values(error: BaseException) -> str:
    """What is wrong and where, without the values themselves: this text is logged, and bodies are not."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg']}" for one in found[:5]]
        return f"ValidationError: {'; '.join(places)}"[:300]
    if type(error).__module__.startswith("pydantic_core"):
        return _INPUT.sub("", _short(error))
    if isinstance(error, msgspec.ValidationError) and error.__cause__ is None:
        return _VALUE.sub("'…'", _short(error))
    return _short(error)


_INPUT = re.compile(r", input_value=.*(?=, input_type=|$)", re.DOTALL)
"""What pydantic shows of a value that it cannot write."""
_VALUE = re.compile(r"(['\"]).*\1", re.DOTALL)
"""msgspec quotes types and places with backticks, and values as `repr` does."""


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
