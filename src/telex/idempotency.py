"""Handling each message id once, as far as that can be promised."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from .delivery.context import Delivery
from .errors import ConfigError
from .signature import takes_delivery

H = TypeVar("H", bound=Callable[..., Any])


class IdempotencyStore(Protocol):
    """Where ids of handled messages are remembered. Called from threads."""

    def seen(self, source: str, id: str) -> bool:
        """Whether this message was handled."""
        ...

    def mark(self, source: str, id: str) -> None:
        """This message was handled."""
        ...


class SQLiteStore:
    """Remembers ids in an SQLite file of its own.

    Args:
        path: The file; made if it is not there.
    """

    def __init__(self, path: str) -> None:
        import sqlite3  # Only applications that use this store need it.

        self._lock = threading.Lock()
        """Guards the connection, which handlers' threads share."""
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id)) WITHOUT ROWID"
        )

    def seen(self, source: str, id: str) -> bool:
        with self._lock:
            row = self._db.execute("SELECT 1 FROM handled WHERE source=? AND id=?", (source, id)).fetchone()
        return row is not None

    def mark(self, source: str, id: str) -> None:
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO handled VALUES (?, ?)", (source, id))

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()


class DBAPIStore:
    """Remembers ids in a table of your database, through a DB-API 2.0 connection (PEP 249).

    The table ``telex_handled (source, id)`` must exist with a primary key over both columns.

    Args:
        connect: Makes a connection; called once a call, so that a pool may answer.
        mark: How the driver writes a parameter: ``%s`` or ``?``.
    """

    def __init__(self, connect: Callable[[], Any], *, mark: str = "%s") -> None:
        self._connect = connect
        self._select = f"SELECT 1 FROM telex_handled WHERE source={mark} AND id={mark}"
        self._insert = f"INSERT INTO telex_handled (source, id) VALUES ({mark}, {mark})"

    def seen(self, source: str, id: str) -> bool:
        connection = self._connect()
        try:
            cursor = connection.cursor()
            cursor.execute(self._select, (source, id))
            return cursor.fetchone() is not None
        finally:
            connection.close()

    def mark(self, source: str, id: str) -> None:
        connection = self._connect()
        try:
            connection.cursor().execute(self._insert, (source, id))
            connection.commit()
        finally:
            connection.close()


def idempotent(store: IdempotencyStore) -> Callable[[H], H]:
    """Runs a handler once a message id and source.

    The id is marked after the handler returned. A process killed between the handler's effect and the mark runs the
    handler again: this removes almost all repetitions, not all. Where none may remain, write the id in the same
    transaction as the effect.

    Args:
        store: Where handled ids are remembered.

    Raises:
        ConfigError: It decorates a handler of batches, whose messages have many ids.
    """

    def decorate(handler: H) -> H:
        wants_delivery = takes_delivery(handler)

        if inspect.iscoroutinefunction(handler):

            async def run(body: Any, delivery: Delivery) -> Any:
                _single(delivery)
                if await asyncio.to_thread(store.seen, delivery.source, delivery.message.id):
                    return None
                result = await (handler(body, delivery) if wants_delivery else handler(body))
                await asyncio.to_thread(store.mark, delivery.source, delivery.message.id)
                return result

            wrapper: Any = run
        else:

            def run_plain(body: Any, delivery: Delivery) -> Any:
                _single(delivery)
                if store.seen(delivery.source, delivery.message.id):
                    return None
                result = handler(body, delivery) if wants_delivery else handler(body)
                store.mark(delivery.source, delivery.message.id)
                return result

            wrapper = run_plain
        signed: H = _signed(wrapper, handler)
        return signed

    return decorate


def _signed(wrapper: Any, handler: Any) -> Any:
    """Looks like the handler, and takes a delivery, whatever the handler takes."""
    functools.update_wrapper(wrapper, handler)
    first = next(iter(inspect.signature(handler).parameters.values()))
    second = inspect.Parameter("delivery", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wrapper.__signature__ = inspect.Signature([first.replace(default=inspect.Parameter.empty), second])
    return wrapper


def _single(delivery: Delivery) -> None:
    if len(delivery.messages) > 1:
        raise ConfigError(
            "idempotent() decorates a handler of batches: a batch has many ids; check them in the handler"
        )
