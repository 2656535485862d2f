"""The limit: SQLite alone, one row per message, ``synchronous=FULL``, write-ahead log.

A row holds what a message is: id, channel, time, kind of content, body. Everything is made and encoded beforehand.
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw
import msgspec

from .measure import Measured, Meter, Setting
from .workload import body

BULK = 1000
CHANNEL = "bench.messages"
INSERT = "INSERT INTO message (id, channel, at, type, body) VALUES (?, ?, ?, ?, ?)"


def bulk(setting: Setting) -> Measured:
    """``executemany`` in transactions of 1,000. Bodies are encoded beforehand."""
    count = setting.count(200_000)
    rows = _rows(count)
    db = _open(setting.folder)
    meter = Meter()
    for start in range(0, count, BULK):
        with db:
            db.executemany(INSERT, rows[start : start + BULK])
    return meter.rate(count)


def single(setting: Setting) -> Measured:
    """A transaction for each row, one after another."""
    count = setting.count(3000)
    rows = _rows(count)
    db = _open(setting.folder)
    meter = Meter()
    for row in rows:
        with db:
            db.execute(INSERT, row)
    return meter.rate(count)


def _rows(count: int) -> list[tuple[str, str, int, str, bytes]]:
    return [
        (
            f"{number:032x}",
            "bench.messages",
            time.time_ns() // 1000,
            "application/json",
            msgspec.json.encode(body(number)),
        )
        for number in range(count)
    ]


def _open(folder: Path) -> apsw.Connection:
    db = apsw.Connection(str(folder / "raw.db"))
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    db.execute("CREATE TABLE message (no INTEGER PRIMARY KEY, id TEXT, channel TEXT, at INT, type TEXT, body BLOB)")
    return db
