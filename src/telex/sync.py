"""The blocking face: for Flask, Django, scripts. Thin: everything happens in the async application.

The application lives on an event loop in a thread of its own, opened by the first call in each process, so a client
made before a fork (a prefork web server) works in every child.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, Self, TypeVar, overload

from .app import Telex
from .channels import Procedure, Queue, Topic
from .clock import Seconds
from .deadletters import Cause, DeadLetter, Progress
from .deadletters import DeadLetters as AsyncDeadLetters
from .deadreason import DeadReason
from .errors import Closed
from .stats import Stats
from .typevars import A, Q, T

R = TypeVar("R")
Headers = Mapping[str, str] | None


class Client:
    """Publishes, sends and requests from blocking code; safe to share between threads.

    Args:
        app: The application. The client opens it for itself: with ``memory://`` it would be alone there, so give
            memory a name (``memory://shop``) where both faces are used in one process.
    """

    def __init__(self, app: Telex) -> None:
        self._app = app
        self._lock = threading.Lock()
        """Guards the session: two threads may come first at the same time."""
        self._session: _Session | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Flushes what is being published and closes the application in this process. Idempotent."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if session is not None and session.process == os.getpid():
            session.close()

    def publish(
        self, topic: Topic[T] | str, body: T, *, key: str | None = None, headers: Headers = None, id: str | None = None
    ) -> str:
        """As `Telex.publish`."""
        return self._run(lambda app: app.publish(topic, body, key=key, headers=headers, id=id))

    def send(
        self,
        queue: Queue[T] | str,
        body: T,
        *,
        key: str | None = None,
        delay: Seconds | datetime = 0,
        headers: Headers = None,
        id: str | None = None,
    ) -> str:
        """As `Telex.send`."""
        return self._run(lambda app: app.send(queue, body, key=key, delay=delay, headers=headers, id=id))

    @overload
    def request(self, procedure: Procedure[Q, A], body: Q, *, timeout: Seconds = 30, headers: Headers = None) -> A: ...
    @overload
    def request(self, procedure: str, body: Any, *, timeout: Seconds = 30, headers: Headers = None) -> Any: ...
    def request(
        self, procedure: Procedure[Any, Any] | str, body: Any, *, timeout: Seconds = 30, headers: Headers = None
    ) -> Any:
        """As `Telex.request`."""
        return self._run(lambda app: app.request(procedure, body, timeout=timeout, headers=headers))

    def publish_many(
        self,
        topic: Topic[T] | str,
        bodies: Iterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        id: Callable[[T], str] | None = None,
        headers: Headers = None,
        window: int = 4000,
        progress: Progress = None,
    ) -> int:
        """As `Telex.publish_many`. ``bodies`` is read on the application's thread."""
        return self._run(
            lambda app: app.publish_many(
                topic, bodies, key=key, id=id, headers=headers, window=window, progress=progress
            )
        )

    def send_many(
        self,
        queue: Queue[T] | str,
        bodies: Iterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        id: Callable[[T], str] | None = None,
        headers: Headers = None,
        window: int = 4000,
        progress: Progress = None,
    ) -> int:
        """As `Telex.send_many`. ``bodies`` is read on the application's thread."""
        return self._run(
            lambda app: app.send_many(queue, bodies, key=key, id=id, headers=headers, window=window, progress=progress)
        )

    def dead_letters(
        self, source: Topic[Any] | Queue[Any] | str | None = None, *, group: str | None = None
    ) -> DeadLetters:
        """As `Telex.dead_letters`."""
        return DeadLetters(self, self._here().app.dead_letters(source, group=group))

    def replay(
        self,
        topic: Topic[Any] | str,
        *,
        group: str,
        since: datetime | timedelta | Literal["start"],
        dry_run: bool = False,
    ) -> int:
        """As `Telex.replay`."""
        return self._run(lambda app: app.replay(topic, group=group, since=since, dry_run=dry_run))

    def stats(self) -> Stats:
        """As `Telex.stats`."""
        return self._run(lambda app: app.stats())

    def _run(self, call: Callable[[Telex], Coroutine[Any, Any, R]]) -> R:
        session = self._here()
        return session.run(call(session.app))

    def _here(self) -> _Session:
        """The session of this process; one inherited by a fork is left alone, it belongs to the parent."""
        with self._lock:
            if self._closed:
                raise Closed("the client is closed: make a new one")
            if self._session is None or self._session.process != os.getpid():
                self._session = _Session(self._app)
            return self._session


class DeadLetters:
    """As `telex.DeadLetters`, blocking."""

    def __init__(self, client: Client, letters: AsyncDeadLetters) -> None:
        self._client = client
        self._letters = letters

    def where(
        self,
        *,
        ids: Iterable[str] = (),
        reason: DeadReason | None = None,
        error: str | None = None,
        key: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> DeadLetters:
        """As `telex.DeadLetters.where`."""
        narrowed = self._letters.where(ids=ids, reason=reason, error=error, key=key, since=since, until=until)
        return DeadLetters(self._client, narrowed)

    def __iter__(self) -> Iterator[DeadLetter]:
        """One after another, read as they are asked for."""
        letters = self._letters.__aiter__()
        try:
            while (letter := self._client._run(lambda app: _next(letters))) is not None:
                yield letter
        finally:
            self._client._run(lambda app: _end(letters))

    def count(self) -> int:
        """As `telex.DeadLetters.count`."""
        return self._client._run(lambda app: self._letters.count())

    def causes(self) -> list[Cause]:
        """As `telex.DeadLetters.causes`."""
        return self._client._run(lambda app: self._letters.causes())

    def redrive(
        self, *, limit: int | None = None, rate: float | None = None, dry_run: bool = False, progress: Progress = None
    ) -> int:
        """As `telex.DeadLetters.redrive`."""
        return self._client._run(
            lambda app: self._letters.redrive(limit=limit, rate=rate, dry_run=dry_run, progress=progress)
        )

    def discard(self, *, limit: int | None = None, dry_run: bool = False, progress: Progress = None) -> int:
        """As `telex.DeadLetters.discard`."""
        return self._client._run(lambda app: self._letters.discard(limit=limit, dry_run=dry_run, progress=progress))


class _Session:
    """The application, open in this process, on a loop in a thread."""

    def __init__(self, app: Telex) -> None:
        self.app = app._twin()
        self.process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"telex-sync {app.name}", daemon=True)
        self._thread.start()
        try:
            self.run(self.app.__aenter__())
        except BaseException:
            self._stop()
            raise

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Runs it on the loop and waits; interrupted, it is cancelled there too."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Closes the application and ends the thread."""
        try:
            self.run(self.app.__aexit__())
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._thread.is_alive():
            self._loop.close()


async def _next(letters: AsyncIterator[DeadLetter]) -> DeadLetter | None:
    return await anext(letters, None)


async def _end(letters: AsyncIterator[DeadLetter]) -> None:
    close = getattr(letters, "aclose", None)
    if close is not None:
        await close()
