"""Header tables and properties in their wire form: what is ours is read, what is foreign is carried byte for byte.

Types as RabbitMQ writes them (its errata of AMQP 0-9-1): ``S`` text, ``l`` 64 bits, ``I`` 32 bits, and so on.
"""

from __future__ import annotations

from struct import Struct, error

TEXT = ord("S")
BYTES = ord("x")
CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE, PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP = 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 6
TYPE, USER_ID, APP_ID, CLUSTER_ID = 1 << 5, 1 << 4, 1 << 3, 1 << 2
ORDER = (
    CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE, PRIORITY, CORRELATION_ID, REPLY_TO, EXPIRATION,
    MESSAGE_ID, TIMESTAMP, TYPE, USER_ID, APP_ID, CLUSTER_ID,
)  # fmt: skip
"""Properties by their flag, in the order they are written in."""

_u32, _i32, _i64, _i16, _f32, _f64 = Struct(">I"), Struct(">i"), Struct(">q"), Struct(">h"), Struct(">f"), Struct(">d")
_u16, _u64, _i8, _u8 = Struct(">H"), Struct(">Q"), Struct(">b"), Struct(">B")
_head = Struct(">HHQH")

_NUMBERS = {
    ord("b"): _i8, ord("B"): _u8, ord("s"): _i16, ord("u"): _u16, ord("I"): _i32, ord("i"): _u32,
    ord("l"): _i64, ord("L"): _u64, ord("f"): _f32, ord("d"): _f64, ord("T"): _u64,
}  # fmt: skip
_SIZES = {**{code: number.size for code, number in _NUMBERS.items()}, ord("t"): 1, ord("D"): 5, ord("V"): 0}
_LONG = frozenset(map(ord, "SxAF"))

Item = tuple[bytes, bytes]
"""A header: its name, and its value with the type before it."""


class Damaged(Exception):
    """Bytes that are no table."""


def items(data: bytes) -> list[Item]:
    """The headers of a table, without the length before it.

    Raises:
        Damaged: It is none.
    """
    found: list[Item] = []
    position, end = 0, len(data)
    try:
        while position < end:
            begin = position + 1
            position = begin + data[position]
            name = data[begin:position]
            code = data[position]
            if code in _LONG:
                size = 5 + _u32.unpack_from(data, position + 1)[0]
            else:
                size = 1 + _SIZES[code]
            found.append((name, data[position : position + size]))
            position += size
    except (IndexError, KeyError, error) as cause:
        raise Damaged(f"a header table of {end} bytes cannot be read at byte {position}") from cause
    return found


def shown(value: bytes) -> str:
    """A value as people read it."""
    code, rest = value[0], value[1:]
    if code in (TEXT, BYTES):
        return rest[4:].decode("utf-8", "replace")
    if code == ord("t"):
        return "true" if rest[0] else "false"
    number = _NUMBERS.get(code)
    if number is not None:
        return str(number.unpack(rest)[0])
    return ""


def integer(value: bytes | None) -> int | None:
    """A value as a whole number; None where it is none."""
    if not value:
        return None
    number = _NUMBERS.get(value[0])
    if number is not None and value[0] not in b"fd":
        return int(number.unpack_from(value, 1)[0])
    if value[0] == TEXT:
        try:
            return int(value[5:])
        except ValueError:
            return None
    return None


def text_item(name: bytes, text: bytes) -> bytes:
    """A header with a text."""
    return b"".join((bytes((len(name),)), name, b"S", _u32.pack(len(text)), text))


def integer_item(name: bytes, number: int) -> bytes:
    """A header with a number of 64 bits."""
    return b"".join((bytes((len(name),)), name, b"l", _i64.pack(number)))


def raw_item(name: bytes, value: bytes) -> bytes:
    """A header with a value that stands as it is."""
    return b"".join((bytes((len(name),)), name, value))


def short(text: bytes) -> bytes:
    """A text with its length in one byte.

    Raises:
        ValueError: It is longer than 255 bytes.
    """
    return bytes((len(text),)) + text


def header(size: int, properties: dict[int, bytes]) -> bytes:
    """The payload of a content header; properties in their wire form, by flag."""
    flags = 0
    for flag in properties:
        flags |= flag
    parts = [_head.pack(60, 0, size, flags)]
    parts += [properties[flag] for flag in ORDER if flag in properties]
    return b"".join(parts)


def properties(payload: bytes) -> dict[int, bytes]:
    """The properties of a content header in their wire form, by flag.

    Raises:
        Damaged: It is none.
    """
    found: dict[int, bytes] = {}
    try:
        flags = _head.unpack_from(payload)[3]
        position = 14
        for flag in ORDER:
            if not flags & flag:
                continue
            if flag == HEADERS:
                size = 4 + _u32.unpack_from(payload, position)[0]
            elif flag in (DELIVERY_MODE, PRIORITY):
                size = 1
            elif flag == TIMESTAMP:
                size = 8
            else:
                size = 1 + payload[position]
            found[flag] = payload[position : position + size]
            position += size
    except (IndexError, error) as cause:
        raise Damaged("the properties of a message cannot be read") from cause
    if position > len(payload):
        raise Damaged("the properties of a message are cut off")
    return found
