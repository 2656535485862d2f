"""How messages lie in the file.

A run holds the messages that one commit added to one stream: a head (format, count), a table of (end, CRC32) for each
message, the CRC32 of head and table, then the messages, each one msgpack array. A single message elsewhere (delayed,
dead, in an inbox) is a run of one. Every message is checked when it is read: a flipped bit is found and named,
never delivered.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32

import msgspec

from ...errors import StoreDamaged
from ...message import Message

FORMAT = 1
HEAD = struct.Struct("<BxxxI")
CHECK = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode

encode_message = _encode
"""One message without check sums, for `join`."""


class Damaged(StoreDamaged):
    """A message whose bytes are not what was written.

    Attributes:
        raw: What is there instead.
    """

    def __init__(self, text: str, raw: bytes) -> None:
        super().__init__(text)
        self.raw = raw


def join(frames: Sequence[bytes]) -> bytes:
    """A run of messages that `encode_message` made."""
    # Slices of arrays, since a loop over the frames would take half as long as writing them.
    table = array("I", bytes(8 * len(frames)))
    table[0::2] = array("I", accumulate(map(len, frames)))
    table[1::2] = array("I", map(crc32, frames))
    if sys.byteorder == "big":
        table.byteswap()
    head = HEAD.pack(FORMAT, len(frames)) + table.tobytes()
    return b"".join((head, CHECK.pack(crc32(head)), *frames))


def encode(message: Message) -> bytes:
    """A run of one."""
    return join((_encode(message),))


def decode(data: bytes, first: int = 0, count: int | None = None) -> list[Message]:
    """``count`` messages of a run, from the ``first``; None: to the end.

    Raises:
        StoreDamaged: The bytes are not what was written.
    """
    table, start = _table(data)
    last = len(table) // 2 if count is None else first + count
    messages = []
    for index in range(first, last):
        begin = start + (table[2 * index - 2] if index else 0)
        frame = data[begin : start + table[2 * index]]
        if crc32(frame) != table[2 * index + 1]:
            text = f"message {index} of a run of {len(table) // 2} is damaged: its check sum differs"
            raise Damaged(text, frame)
        messages.append(_message(frame))
    return messages


def size(data: bytes) -> int:
    """How many messages a run holds.

    Raises:
        StoreDamaged: The bytes are not what was written.
    """
    return len(_table(data)[0]) // 2


def _table(data: bytes) -> tuple[array[int], int]:
    try:
        version, count = HEAD.unpack_from(data)
        end = HEAD.size + 8 * count
        (check,) = CHECK.unpack_from(data, end)
    except struct.error as error:
        raise StoreDamaged("a run of messages is cut short") from error
    if version != FORMAT or crc32(data[:end]) != check:
        raise StoreDamaged("the head of a run of messages is damaged: its check sum differs")
    table = array("I", data[HEAD.size : end])
    if sys.byteorder == "big":
        table.byteswap()
    return table, end + CHECK.size


def _message(frame: bytes) -> Message:
    try:
        return _decode(frame)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"a message passes its check sum and cannot be read: {error}") from error
