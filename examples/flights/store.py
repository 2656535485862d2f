"""The example's own results, in SQLite: each message counts once, however often it comes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

SCHEMA = """
CREATE TABLE IF NOT EXISTS carrier  (code TEXT PRIMARY KEY, flights INT, departed INT, minutes INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aircraft (tail TEXT PRIMARY KEY, flights INT, early INT, back INT, chain INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alert    (flight TEXT PRIMARY KEY, carrier TEXT, delay INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cancelled(flight TEXT PRIMARY KEY, carrier TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen     (handler TEXT, id TEXT, PRIMARY KEY (handler, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeat   (handler TEXT PRIMARY KEY, count INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS setting  (name TEXT PRIMARY KEY, value INT) WITHOUT ROWID;
"""


class Store:
    """The results. Jobs that wait together share one transaction: a commit each would cost more than all the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="results")
        self._waiting: list[tuple[Job[Any], asyncio.Future[Any]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Opens the file and makes its tables."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    async def close(self) -> None:
        """Finishes what waits and closes the file."""
        if self._committing is not None:
            await self._committing
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def run(self, job: Job[T]) -> T:
        """Runs a job in a transaction; its effects are durable when this returns.

        Raises:
            sqlite3.Error: The transaction, with every job in it, had no effect.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await future

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results = await loop.run_in_executor(self._thread, self._commit, [job for job, _ in batch])
            except Exception as error:  # Every job of the transaction hears of it, and Telex tries again.
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        self._committing = None

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        for _ in range(100):  # Two workers that start together: SQLite does not wait for who changes the mode first.
            try:
                self._db.execute("PRAGMA journal_mode = wal")
                break
            except sqlite3.OperationalError:
                time.sleep(0.05)
        self._db.executescript(SCHEMA)

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()

    def _commit(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        assert self._db is not None
        self._db.execute("BEGIN IMMEDIATE")
        try:
            results = [job(self._db) for job in jobs]
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return results


def first_time(db: sqlite3.Connection, handler: str, id: str) -> bool:
    """Whether a handler has not had this message before; from now on it has. Counts repeats."""
    if db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (handler, id)).rowcount:
        return True
    db.execute(
        "INSERT INTO repeat VALUES (?, 1) ON CONFLICT (handler) DO UPDATE SET count = count + 1",
        (handler,),
    )
    return False
