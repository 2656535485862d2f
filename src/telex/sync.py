"""The blocking face: for Flask, Django, scripts. Thin: everything happens in the async application.

The application lives on an event loop in a thread of its own, opened by the first call in each process, so a client
made before a fork (a prefork web server) works in every child, also where the parent uses it before and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from datetime import datetime, timedelta
from typing import Any, Literal, Self, TypeVar, overload

from . import forks
from .app import Telex
from .channels import Procedure, Queue, Topic
from .clock import Seconds
from .deadletters import Cause, DeadLetter, Progress
from .deadletters import DeadLetters as AsyncDeadLetters
from .deadreason import DeadReason
from .errors import Closed, ConfigError
from .stats import Stats
from .typevars import A, Q, T

R = TypeVar("R")
PATIENCE = 10.0
"""Seconds for the thread to end."""
FORK_WAIT = 5.0
"""Seconds that a fork waits for calls that other threads have under way."""
Headers = Mapping[str, str] | None


class Client:
    """Publishes, sends and requests from blocking code; safe to share between threads, and over a fork.

    Args:
        app: The application. The client opens it for itself: with ``memory://`` it would be alone there, so give
            memory a name (``memory://shop``) where both faces are used in one process.

    Raises:
        ConfigError: ``app`` is no application; from any method: it is called on the client's own thread, by a function
            that was given to it (``bodies``, ``key``, ``id``, ``progress``), which would wait for itself for ever.
        Closed: From any method: the client is closed.
    """

    def __init__(self, app: Telex) -> None:
        if not isinstance(app, Telex):
            raise ConfigError(f"Client({app!r}): give the application, a Telex")
        self._app = app
        self._changed = threading.Condition()
        """Guards what follows: two threads may come first at the same time."""
        self._session: _Session | None = None
        self._calls = 0
        self._forking = 0
        self._closed = False
        self._inherited: list[_Session] = []
        """Of processes that this one was forked from: theirs to close, and kept from being collected here."""
        forks.watch(before=self._before_fork, in_parent=self._after_fork, in_child=self._forked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Flushes what is being published and closes the application in this process. Idempotent."""
        with self._changed:
            self._closed = True
            session, self._session = self._session, None
        if session is not None:
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
        return DeadLetters(self, self._app, lambda app: app.dead_letters(source, group=group))

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
        with self._using() as session:
            return session.run(call(session.app))

    @contextlib.contextmanager
    def _using(self) -> Iterator[_Session]:
        """The session of this process, opened by whoever comes first; not closed for a fork meanwhile."""
        with self._changed:
            while self._forking:
                self._changed.wait()
            if self._closed:
                raise Closed("the client is closed: make a new one")
            if self._session is None:
                self._session = _Session(self._app)
            session = self._session
            self._calls += 1
        try:
            yield session
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _before_fork(self) -> None:
        """Closes the session between two calls, since no engine's connection survives a fork; the next call opens it
        again. Where calls do not end in time it stays open for the parent, and the child is refused what cannot be
        shared."""
        with self._changed:
            self._forking += 1
            session = self._session
            if session is None or session.is_here or not session.app.features.durable:
                return
            if self._changed.wait_for(lambda: not self._calls, FORK_WAIT):
                self._session = None
                session.close()

    def _after_fork(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def _forked(self) -> None:
        """In the child: another thread of the parent's may hold the lock, and nobody here would let it go."""
        self._changed = threading.Condition()
        self._forking = self._calls = 0
        if self._session is not None:
            self._inherited.append(self._session)
            self._session = None


class DeadLetters:
    """As `telex.DeadLetters`, blocking."""

    def __init__(self, client: Client, app: Telex, letters: Callable[[Telex], AsyncDeadLetters]) -> None:
        letters(app)  # What is written wrongly is said here.
        self._client = client
        self._app = app
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
        wanted = ids if isinstance(ids, str) else tuple(ids)
        letters = self._letters
        return DeadLetters(
            self._client,
            self._app,
            lambda app: letters(app).where(ids=wanted, reason=reason, error=error, key=key, since=since, until=until),
        )

    def __iter__(self) -> Iterator[DeadLetter]:
        """One after another, read as they are asked for."""
        with self._client._using() as session:
            letters = self._letters(session.app).__aiter__()
            letter = session.run(_next(letters))
        try:
            while letter is not None:
                yield letter
                letter = session.run(_next(letters))
        finally:
            with contextlib.suppress(Closed):  # Then nothing is left to end.
                session.run(_end(letters))

    def count(self) -> int:
        """As `telex.DeadLetters.count`."""
        return self._client._run(lambda app: self._letters(app).count())

    def causes(self) -> list[Cause]:
        """As `telex.DeadLetters.causes`."""
        return self._client._run(lambda app: self._letters(app).causes())

    def redrive(
        self, *, limit: int | None = None, rate: float | None = None, dry_run: bool = False, progress: Progress = None
    ) -> int:
        """As `telex.DeadLetters.redrive`."""
        return self._client._run(
            lambda app: self._letters(app).redrive(limit=limit, rate=rate, dry_run=dry_run, progress=progress)
        )

    def discard(self, *, limit: int | None = None, dry_run: bool = False, progress: Progress = None) -> int:
        """As `telex.DeadLetters.discard`."""
        return self._client._run(
            lambda app: self._letters(app).discard(limit=limit, dry_run=dry_run, progress=progress)
        )


class _Session:
    """The application, open in this process, on a loop in a thread."""

    def __init__(self, app: Telex) -> None:
        self.app = app._twin()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"telex-sync {app.name}", daemon=True)
        self._lock = threading.Lock()
        """Held while something is put on the loop: what comes after it has ended would wait for ever."""
        self._ended = False
        self._thread.start()
        try:
            self.run(self.app.__aenter__())
        except BaseException:
            self._stop()
            raise

    @property
    def is_here(self) -> bool:
        """Whether this is the session's own thread."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Runs it on the loop and waits; interrupted, it is cancelled there too."""
        if self.is_here:
            coroutine.close()
            raise ConfigError(
                "the client is used by a function that runs on its own thread (bodies, key, id or progress of another "
                "call), which would wait for itself: collect there, and call the client afterwards"
            )
        with self._lock:
            if self._ended:
                coroutine.close()
                raise Closed("the client is closed: make a new one")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            if self._ended:
                raise Closed("the client was closed meanwhile; what was being published may be stored") from None
            raise
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Closes the application and ends the thread; calls that still wait in other threads raise `Closed`."""
        try:
            self.run(self.app.__aexit__())
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._lock:
            self._ended = True
            ending = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        with contextlib.suppress(TimeoutError):
            ending.result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _next(letters: AsyncIterator[DeadLetter]) -> DeadLetter | None:
    return await anext(letters, None)


async def _end(letters: AsyncIterator[DeadLetter]) -> None:
    close = getattr(letters, "aclose", None)
    if close is not None:
        await close()
