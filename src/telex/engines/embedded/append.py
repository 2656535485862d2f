"""Storing messages: the runs of one transaction, and reading runs back."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32

import apsw

from ...errors import StoreDamaged
from ...message import Message
from . import frame
from .rows import rows as fetch
from .schema import SEQUENCE_BITS
from .topology import ChannelRow

RUN_BYTES = 256 * 1024
"""A run above this size begins another row: a reader of one message reads a whole run."""
TAIL_BYTES = 16 * 1024 * 1024
OVERHEAD = 200
"""Bytes of a message besides its body, roughly."""

Stored = Message | StoreDamaged


def stream_for(row: ChannelRow, message: Message) -> int:
    """The stream of a message: that of its key's lane."""
    if len(row.streams) == 1:
        return row.streams[0]
    return row.streams[crc32((message.key or message.id).encode()) % len(row.streams)]


class Tail:
    """The newest runs of this process as they were given: what is published and consumed here is never decoded.

    What a transaction adds is dropped again if it is rolled back: the same positions may then hold other messages.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[int, Sequence[Message]] = OrderedDict()
        self._bytes = 0
        self._sizes: dict[int, int] = {}
        self._fresh: list[int] = []

    def add(self, pos: int, messages: Sequence[Message], size: int) -> None:
        """Keeps a run that is being written."""
        self._runs[pos] = messages
        self._sizes[pos] = size + OVERHEAD * len(messages)
        self._bytes += self._sizes[pos]
        self._fresh.append(pos)

    def get(self, pos: int) -> Sequence[Message] | None:
        """The run that begins at a position."""
        return self._runs.get(pos)

    def commit(self) -> None:
        """What was added is stored."""
        self._fresh.clear()
        while self._bytes > TAIL_BYTES:
            pos, _ = self._runs.popitem(last=False)
            self._bytes -= self._sizes.pop(pos)

    def roll_back(self) -> None:
        """What was added is not stored."""
        for pos in self._fresh:
            self._bytes -= self._sizes.pop(pos)
            del self._runs[pos]
        self._fresh.clear()


def append(db: apsw.Connection, tail: Tail, stream: int, messages: Sequence[Message], now: int) -> int:
    """Stores messages at the end of a stream; returns the position of the first."""
    rows = fetch(db.execute("UPDATE stream SET next = next + ? WHERE no = ? RETURNING next", (len(messages), stream)))
    first = int(stream << SEQUENCE_BITS | (rows[0][0] - len(messages)))
    frames = list(map(frame.encode_message, messages))
    ends = list(accumulate(map(len, frames)))
    begin = 0
    while begin < len(frames):
        before = ends[begin - 1] if begin else 0
        end = max(bisect_right(ends, before + RUN_BYTES), begin + 1)
        _store(db, tail, first + begin, messages[begin:end], frames[begin:end], now)
        begin = end
    return first


def append_to_source(
    db: apsw.Connection, tail: Tail, source: int, stream: int, messages: Sequence[Message], now: int
) -> None:
    """Stores messages for one source alone, in its private stream: each needs a row to be found by."""
    first = append(db, tail, stream, messages, now)
    db.executemany(
        "INSERT INTO item(source, pos, key, state, due) VALUES (?,?,?,'wait',0)",
        [(source, first + index, message.key) for index, message in enumerate(messages)],
    )


def read(db: apsw.Connection, tail: Tail, stream: int, first: int, count: int) -> list[Stored]:
    """Messages of a stream in their order; an error in the place of each that cannot be read."""
    pos = stream << SEQUENCE_BITS | first
    end = pos + count
    found: list[Stored] = []
    while pos < end:
        kept = tail.get(pos)
        if kept is not None:
            taken = kept if len(kept) <= end - pos else kept[: end - pos]
            found.extend(taken)
            pos += len(taken)
            continue
        row = fetch(db.execute("SELECT pos, count, data FROM log WHERE pos <= ? ORDER BY pos DESC LIMIT 1", (pos,)))
        if not row or row[0][0] + row[0][1] <= pos:
            found.append(StoreDamaged(f"message {pos} is missing from the store"))
            pos += 1
            continue
        start, held, data = row[0]
        number = min(end, start + held) - pos
        found.extend(_open(data, pos - start, number))
        pos += number
    return found


def read_one(db: apsw.Connection, tail: Tail, pos: int) -> Stored:
    """The message at a position, or an error if it cannot be read."""
    return read(db, tail, pos >> SEQUENCE_BITS, pos & ((1 << SEQUENCE_BITS) - 1), 1)[0]


def find(db: apsw.Connection, stream: int, id: str, since: int) -> bool:
    """Whether a stream holds a message of this id that was stored at ``since`` or later. Newest first."""
    low = stream << SEQUENCE_BITS
    rows = db.execute(
        "SELECT at, data FROM log WHERE pos >= ? AND pos < ? ORDER BY pos DESC", (low, low + (1 << SEQUENCE_BITS))
    )
    found = False
    for at, data in rows:
        if at < since:
            break
        if any(not isinstance(m, StoreDamaged) and m.id == id for m in _open(data, 0, None)):
            found = True
            break
    rows.close()
    return found


def _store(
    db: apsw.Connection, tail: Tail, pos: int, messages: Sequence[Message], frames: Sequence[bytes], now: int
) -> None:
    data = frame.join(frames)
    db.execute("INSERT INTO log(pos, count, at, data) VALUES (?,?,?,?)", (pos, len(frames), now, data))
    tail.add(pos, messages, len(data))


def _open(data: bytes, first: int, count: int | None) -> list[Stored]:
    try:
        return list(frame.decode(data, first, count))
    except StoreDamaged as error:
        if count is None or count == 1:
            return [error]
    return [_open(data, index, 1)[0] for index in range(first, first + count)]
