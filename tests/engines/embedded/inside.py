"""Reaching under an engine: rows as they lie in its store, and damage to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import apsw

from telex.engine import Engine
from telex.engines.embedded.append import Tail
from telex.engines.embedded.engine import EmbeddedEngine
from telex.engines.embedded.frame import encode_message
from telex.engines.embedded.rows import rows
from telex.engines.embedded.store import Store
from telex.message import Message

T = TypeVar("T")


def store_of(engine: Engine) -> Store:
    """The store of an engine; touch it on its writer's thread only."""
    assert isinstance(engine, EmbeddedEngine)
    assert engine._store is not None
    return engine._store


async def within(engine: Engine, work: Callable[[apsw.Connection], T]) -> T:
    """Runs a function in a transaction of the writer."""
    assert isinstance(engine, EmbeddedEngine)
    assert engine._core is not None
    return await engine._core.writer.call(work)


async def execute(engine: Engine, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Runs SQL in a transaction of the writer; its rows."""
    return await within(engine, lambda db: db.execute(sql, values).fetchall())


async def count(engine: Engine, table: str) -> int:
    """How many rows a table has."""
    return int((await execute(engine, f"SELECT count(*) FROM {table}"))[0][0])


async def flip(engine: Engine, message: Message) -> bytes:
    """Flips a bit in the stored body of a message, and lets the engine forget what it remembers of its own writes.

    Returns:
        What lies in the store now, in the place of the message.
    """
    right = encode_message(message)
    wrong = bytearray(right)
    wrong[right.index(message.body)] ^= 1
    await _change(engine, right, lambda data: data.replace(right, wrong))
    return bytes(wrong)


async def flip_head(engine: Engine, message: Message) -> None:
    """Flips a bit in the head of the run that holds a message: no message of that run can be read any more."""
    await _change(engine, encode_message(message), lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:])


async def _change(engine: Engine, holding: bytes, to: Callable[[bytes], bytes]) -> None:
    """Changes the one run that holds these bytes."""

    def change(db: apsw.Connection) -> int:
        runs = [(pos, data) for pos, data in rows(db.execute("SELECT pos, data FROM log")) if holding in data]
        for pos, data in runs:
            db.execute("UPDATE log SET data = ? WHERE pos = ?", (to(data), pos))
        store_of(engine).tail = Tail()
        return len(runs)

    assert await within(engine, change) == 1
