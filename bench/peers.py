"""The peers, each in the way that suits it best in one process: put, take, handle, acknowledge, with fsync on."""

from __future__ import annotations

import json
from typing import Any

from .measure import Measured, Meter, Setting
from .workload import body

COUNT = 3000


def huey(setting: Setting) -> Measured:
    """huey with SQLite: enqueue, dequeue, execute. No consumer threads, which poll and would only cost."""
    from huey import SqliteHuey  # type: ignore[import-untyped]  # it has no types

    count = setting.count(COUNT)
    queue: Any = SqliteHuey(
        "bench", filename=str(setting.folder / "huey.db"), fsync=True, results=False, journal_mode="wal"
    )
    handled = 0

    @queue.task()  # type: ignore[untyped-decorator]  # huey has no types
    def handle(message: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1

    meter = Meter()
    for number in range(count):
        handle(body(number))
    while (task := queue.dequeue()) is not None:
        queue.execute(task)
    measured = meter.rate(count)
    _complete("huey", handled, count)
    return measured


def litequeue(setting: Setting) -> Measured:
    """litequeue: put, pop, done; its ``synchronous=NORMAL`` is raised to FULL, as all others have it."""
    from litequeue import LiteQueue  # type: ignore[import-untyped]  # it has no types

    count, handled = setting.count(COUNT), 0
    queue: Any = LiteQueue(str(setting.folder / "litequeue.db"))
    queue.conn.execute("PRAGMA synchronous = FULL")
    meter = Meter()
    for number in range(count):
        queue.put(json.dumps(body(number)))
    while (message := queue.pop()) is not None:
        json.loads(message.data)
        handled += 1
        queue.done(message.message_id)
    measured = meter.rate(count)
    _complete("litequeue", handled, count)
    return measured


def persist_queue(setting: Setting) -> Measured:
    """persist-queue on SQLite with acknowledgement: put, get, ack; FULL is its default."""
    from persistqueue import SQLiteAckQueue
    from persistqueue.serializers import json as serializer

    count, handled = setting.count(COUNT), 0
    queue: Any = SQLiteAckQueue(str(setting.folder / "persist"), serializer=serializer)
    meter = Meter()
    for number in range(count):
        queue.put(body(number))
    while queue.size:
        message = queue.get(block=False, raw=True)
        handled += 1
        queue.ack(id=message["pqid"])
    measured = meter.rate(count)
    _complete("persist-queue", handled, count)
    return measured


def _complete(name: str, handled: int, count: int) -> None:
    if handled != count:
        raise RuntimeError(f"{name} handled {handled} of {count} messages: this is no measurement")
