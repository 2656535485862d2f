"""The application: channels and handlers on one engine."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from datetime import datetime
from functools import partial
from random import Random, SystemRandom
from typing import Any, Literal, Self, overload

from . import forks
from .bulk import Bodies, store_many
from .channels import Procedure, Queue, Topic
from .clock import Clock, Seconds, SystemClock
from .deadletters import Progress
from .delivery.context import Middleware
from .delivery.runner import Observer
from .engine import ChannelKind, EngineSettings, Outgoing
from .engines import find_settings
from .errors import Closed, ConfigError
from .handlers import Handlers, check_middleware
from .names import check_app_name
from .operating import Operated
from .outbound import Route
from .policy import duration
from .publishing import PublishMiddleware, changed, wrapped
from .session import Session, start
from .sources import find_sources, text_of
from .stats import Stats
from .tracing import Sending, Tracing
from .typevars import A, Q, T
from .worker import Worker

URL = "TELEX_URL"
Headers = Mapping[str, str] | None


class Telex(Operated, Handlers):
    """An application: publishes, requests, and runs the handlers declared on it.

    Opening it (``async with app``) declares its channels and groups, also in a process that only publishes, so that
    nothing is missed before the worker starts. ``run`` or ``running`` run the handlers.

    Args:
        url: Where messages live: a path, ``memory://``, or a broker's URL. None reads ``TELEX_URL`` when opened.
        name: The application's name, and the default group of its subscriptions.
        engines: Typed settings; the URL picks the one it needs.
        topology: ``"verify"`` creates nothing and refuses to start where something is missing.
        middleware: Around every handler, outermost first.
        publish_middleware: Around every publish, outermost first.
        lifespan: Entered around the running of handlers; what it yields is `Delivery.state`.
        publish_timeout: How long a publish waits for the engine.
        grace: How long running handlers may go on after a stop.

    Raises:
        ConfigError: A value is out of its range.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str,
        engines: Sequence[EngineSettings] = (),
        topology: Literal["declare", "verify"] = "declare",
        middleware: Sequence[Middleware] = (),
        publish_middleware: Sequence[PublishMiddleware] = (),
        lifespan: Callable[[Telex], AbstractAsyncContextManager[Any]] | None = None,
        publish_timeout: Seconds = 30,
        grace: Seconds = 25,
    ) -> None:
        super().__init__(middleware=middleware)
        if topology not in ("declare", "verify"):
            raise ConfigError(f"Telex(topology={topology!r}): write 'declare' or 'verify'")
        self.name = check_app_name(name)
        self._url = url
        self._engines = _check_engines(engines)
        self._topology: Literal["declare", "verify"] = topology
        self._publish_middleware: tuple[PublishMiddleware, ...] = check_middleware(
            "publish_middleware", publish_middleware, "(message, call_next)"
        )
        self._tracing: Tracing | None = None
        self._wrapped = bool(self._publish_middleware)
        """Whether anything stands around a publish: one question a message, whatever it is."""
        if lifespan is not None and not callable(lifespan):
            raise ConfigError(f"lifespan={lifespan!r}: write an @asynccontextmanager function of the application")
        self._lifespan = lifespan
        self._publish_timeout = duration("Telex(publish_timeout=…)", publish_timeout, least=0.001)
        self.grace = duration("Telex(grace=…)", grace)
        self._clock: Clock = SystemClock()
        self._random: Random = SystemRandom()
        self._observer: Observer | None = None
        self._session: Session | None = None
        self._opening = False
        self._parents: Session | None = None
        """What was open when this process was forked: the parent's, kept from being collected here."""
        self._worker: Worker | None = None
        self.state: Any = None
        """What the lifespan yielded; None while no handlers run."""

    def __repr__(self) -> str:
        return f"Telex(name={self.name!r})"

    # -- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Opens the engine, checks and declares.

        Raises:
            ConfigError: No URL, or a wrong one; or the application is open already.
            ExceptionGroup: Of everything that is declared wrongly or that the engine refuses.
            Disconnected: The engine is not reachable.
        """
        await self._start(self._topology)
        return self

    async def _start(self, topology: Literal["declare", "verify", "look"]) -> None:
        if self._session is not None or self._opening:
            raise ConfigError(f"{self!r} is open already: open it once, and share it")
        url = self._url if self._url is not None else os.environ.get(URL)
        if not url:
            raise ConfigError(f"{self!r} has no URL: write Telex('telex.db', …) or set {URL}")
        settings, url = find_settings(url, self._engines)
        engine = settings.engine(url, app=self.name, clock=self._clock, random=self._random)
        self._opening = True
        try:
            self._session = await start(
                engine,
                self.registrations,
                name=self.name,
                topology=topology,
                clock=self._clock,
                random=self._random,
                publish_timeout=self._publish_timeout,
            )
            forks.watch(in_child=self._forked)
        finally:
            self._opening = False
        if self._tracing is not None:
            self._tracing.opened(self._session.engine.features)

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[Self]:
        """Opens the application for operators: creates nothing and runs nothing, whatever its ``topology`` says.

        What the engine refuses to run can be looked at too. Raises what entering the application raises otherwise.
        """
        await self._start("look")
        try:
            yield self
        finally:
            await self.__aexit__()

    def relocate(self, url: str) -> None:
        """Takes another URL than the one in code: a profile of the command line names one.

        Raises:
            ConfigError: The application is open.
        """
        self._check_closed("it cannot move to another URL")
        self._url = url

    async def __aexit__(self, *exc: object) -> None:
        """Stops the handlers, flushes what is being published, closes the engine."""
        session, self._session = self._session, None
        if session is not None:
            await session.close(self._clock, self._publish_timeout)

    async def run(self, *, only: Collection[str] = (), until_idle: bool = False) -> None:
        """Runs the handlers until SIGTERM or SIGINT (then drains), or until there is nothing left to do.

        A second signal ends at once: what is in hand comes back. Opens the application if it is not open.

        Args:
            only: Sources to run, for example ``["emails", "orders.placed/billing"]``; all if empty.
            until_idle: Return once these sources have nothing ready, in hand or waiting for a retry. Sends that are
                not due yet do not count.

        Raises:
            ConfigError: ``only`` names a source that has no handler, or handlers run already.
        """
        async with AsyncExitStack() as stack:
            if self._session is None:
                await stack.enter_async_context(self)
            worker = await stack.enter_async_context(self._working(only))
            await worker.wait(until_idle=until_idle)

    def running(self, *, only: Collection[str] = ()) -> AbstractAsyncContextManager[Self]:
        """Runs the handlers in the background of a block; leaving it drains."""
        return self._running(only)

    @asynccontextmanager
    async def _running(self, only: Collection[str]) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            if self._session is None:
                await stack.enter_async_context(self)
            await stack.enter_async_context(self._working(only))
            yield self

    @asynccontextmanager
    async def _working(self, only: Collection[str]) -> AsyncIterator[Worker]:
        session = self._open()
        if self._worker is not None:
            raise ConfigError(f"the handlers of {self!r} run already in this process")
        worker = Worker(self, session, self._clock, self._random, self._observer, self._tracing)
        bounds = worker.choose(only)
        self._worker = worker
        try:
            async with AsyncExitStack() as stack:
                if self._lifespan is not None:
                    self.state = await stack.enter_async_context(self._lifespan(self))
                try:
                    await worker.start(bounds)
                    yield worker
                finally:
                    await worker.stop(self.grace)
        finally:
            self._worker = None
            self.state = None

    def fatal(self, error: BaseException) -> None:
        """A handler asked for the end of the process: drains, then `run` raises it."""
        if self._worker is not None:
            self._worker.fatal(error)

    # -- publishing -------------------------------------------------------------------------------------------------

    async def publish(
        self, topic: Topic[T] | str, body: T, *, key: str | None = None, headers: Headers = None, id: str | None = None
    ) -> str:
        """Publishes to a topic: every group has the message when this returns. Returns the message's id.

        Args:
            topic: The topic, or its name.
            body: Encoded by the topic's type.
            key: What order is kept by; the topic's key function if None.
            headers: At most 32; names ``[a-z0-9-]{1,64}``, values of at most 4 KiB.
            id: Of your own; made if None. Not a deduplication key: publishing twice stores twice.

        Raises:
            InvalidMessage: Something breaks a rule; nothing was sent.
            PublishFailed: Certainly stored nowhere.
            PublishUncertain: May be stored; publish again with the same id.
            UnknownChannel: The topic does not exist and may not be created.
            Closed: The application is not open.
        """
        session = self._here()
        route = session.known(topic)
        if route is None or route.channel.kind is not ChannelKind.TOPIC:
            route = await session.route(topic, ChannelKind.TOPIC)
        outgoing = session.composer.compose(route, body, key, headers, id)
        if id is not None:
            outgoing = session.publisher.again(outgoing)
        if self._wrapped:
            outgoing, sending = self._sending("publish", outgoing)
            if sending is not None or self._publish_middleware:
                return await wrapped(sending, self._publish_middleware, outgoing, session.composer, session.publisher)
        if session.publisher.crowded:
            await session.publisher.room(outgoing)
        await session.publisher.put(outgoing)
        return outgoing.message.id

    async def send(
        self,
        queue: Queue[T] | str,
        body: T,
        *,
        key: str | None = None,
        delay: Seconds | datetime = 0,
        headers: Headers = None,
        id: str | None = None,
    ) -> str:
        """Sends to a queue: one worker gets the message, however late it starts. Returns the message's id.

        Args:
            queue: The queue, or its name.
            body: Encoded by the queue's type.
            key: What order is kept by; the queue's key function if None.
            delay: Deliver no earlier: seconds, a timedelta or an aware datetime; at most a year.
            headers: As in `publish`.
            id: As in `publish`.

        Raises:
            UnknownChannel: A queue given by name does not exist.
            InvalidMessage, PublishFailed, PublishUncertain, Closed: As in `publish`.
        """
        session = self._here()
        route = session.known(queue)
        if route is None or route.channel.kind is not ChannelKind.QUEUE:
            route = await session.route(queue, ChannelKind.QUEUE)
        outgoing = session.composer.compose(route, body, key, headers, id, delay)
        if id is not None:
            outgoing = session.publisher.again(outgoing)
        if self._wrapped:
            outgoing, sending = self._sending("send", outgoing)
            if sending is not None or self._publish_middleware:
                return await wrapped(sending, self._publish_middleware, outgoing, session.composer, session.publisher)
        if session.publisher.crowded:
            await session.publisher.room(outgoing)
        await session.publisher.put(outgoing)
        return outgoing.message.id

    @overload
    async def request(
        self, procedure: Procedure[Q, A], body: Q, *, timeout: Seconds = 30, headers: Headers = None
    ) -> A: ...
    @overload
    async def request(self, procedure: str, body: Any, *, timeout: Seconds = 30, headers: Headers = None) -> Any: ...
    async def request(
        self, procedure: Procedure[Any, Any] | str, body: Any, *, timeout: Seconds = 30, headers: Headers = None
    ) -> Any:
        """Asks a procedure and returns its answer.

        Args:
            procedure: The procedure, or its name.
            body: Encoded by the procedure's request type.
            timeout: How long to wait; the request expires then on its own.
            headers: As in `publish`.

        Raises:
            RequestTimeout: No answer in time; the text says so where nothing was sent.
            RemoteError: The handler raised.
            Undecodable: The answer does not fit the procedure's answer type.
            Disconnected: The engine is not reachable, so that no answer could come; nothing was sent.
            UnknownChannel, InvalidMessage, PublishFailed, PublishUncertain, Closed: As in `send`.
        """
        session = self._here()
        limit = duration("request(timeout=…)", timeout, least=0.001)
        deadline = session.loop.time() + limit
        route = session.known(procedure)
        if route is None or route.channel.kind is not ChannelKind.PROCEDURE:
            route = await session.route(procedure, ChannelKind.PROCEDURE, within=limit)
        outgoing = session.composer.compose(route, body, None, headers, None)
        outgoing, sending = self._sending("request", outgoing)
        with sending or nullcontext():
            reply = await session.requests.ask(outgoing, limit, deadline)
            if sending is not None:
                sending.answered(reply)
            return session.decode_answer(procedure, reply)

    async def publish_many(
        self,
        topic: Topic[T] | str,
        bodies: Bodies[T],
        *,
        key: Callable[[T], str | None] | None = None,
        id: Callable[[T], str] | None = None,
        headers: Headers = None,
        window: int = 4000,
        progress: Progress = None,
    ) -> int:
        """Publishes many messages in order, at most ``window`` unconfirmed; returns how many.

        Args:
            topic: The topic, or its name.
            bodies: Any iterable or async iterable; read as fast as they are stored.
            key: Takes the key out of a body; the topic's key function if None.
            id: Makes the id of a body.
            headers: For every message.
            window: Most messages under way.
            progress: Called with the number stored in each step.

        Raises:
            InvalidMessage, PublishFailed, PublishUncertain, Closed: As in `publish`; ``stored`` tells how many from
                the start are certainly stored.
        """
        session = self._here()
        route = await session.route(topic, ChannelKind.TOPIC)
        return await self._many("publish", session, route, bodies, key, id, headers, window, progress)

    async def send_many(
        self,
        queue: Queue[T] | str,
        bodies: Bodies[T],
        *,
        key: Callable[[T], str | None] | None = None,
        id: Callable[[T], str] | None = None,
        headers: Headers = None,
        window: int = 4000,
        progress: Progress = None,
    ) -> int:
        """Sends many messages to a queue; like `publish_many`."""
        session = self._here()
        route = await session.route(queue, ChannelKind.QUEUE)
        return await self._many("send", session, route, bodies, key, id, headers, window, progress)

    def _sending(self, verb: str, outgoing: Outgoing) -> tuple[Outgoing, Sending | None]:
        """Tells the tracing, if there is one; the message with its trace, and the span under way if one is recorded."""
        return (outgoing, None) if self._tracing is None else self._tracing.sending(verb, outgoing)

    async def _many(
        self,
        verb: str,
        session: Session,
        route: Route,
        bodies: Bodies[Any],
        key: Callable[[Any], str | None] | None,
        id: Callable[[Any], str] | None,
        headers: Headers,
        window: int,
        progress: Progress,
    ) -> int:
        def compose(outgoing: list[Outgoing], bodies: Iterable[Any]) -> None:
            session.composer.compose_into(outgoing, route, bodies, key, headers, id)
            if id is not None:
                outgoing[:] = map(session.publisher.again, outgoing)

        sending = None
        if self._tracing is not None:
            headers, sending = self._tracing.sending_many(verb, route.channel.name, headers)
        middleware = self._publish_middleware
        each = partial(changed, middleware, composer=session.composer) if middleware else None
        with sending or nullcontext():
            count = await store_many(session.publisher, bodies, compose, each, window=window, progress=progress)
            if sending is not None:
                sending.stored(count)
            return count

    # -- for deliveries ---------------------------------------------------------------------------------------------

    def compose_publish(
        self, topic: Topic[Any] | str, body: Any, key: str | None, headers: Headers, id: str
    ) -> Outgoing:
        """An emission to a topic, checked and encoded."""
        session = self._open()
        route = session.emission_route(topic, ChannelKind.TOPIC)
        outgoing = session.composer.compose(route, body, key, headers, id)
        return outgoing if self._tracing is None else self._tracing.emitting("publish", outgoing)

    def compose_send(
        self, queue: Queue[Any] | str, body: Any, key: str | None, headers: Headers, id: str, delay: Seconds | datetime
    ) -> Outgoing:
        """An emission to a queue, checked and encoded."""
        session = self._open()
        route = session.emission_route(queue, ChannelKind.QUEUE)
        outgoing = session.composer.compose(route, body, key, headers, id, delay)
        return outgoing if self._tracing is None else self._tracing.emitting("send", outgoing)

    async def prepare_emissions(self, emitted: Sequence[Outgoing]) -> Exception | None:
        """Declares channels that a handler emits to for the first time; why that cannot be, if it cannot."""
        return await self._open().declare_emitted(emitted)

    # -- operating --------------------------------------------------------------------------------------------------

    async def stats(self) -> Stats:
        """How every source of this engine stands, and what is wrong."""
        session = self._open()
        engine = session.engine
        sources = await engine.admin.stats(sorted(await engine.admin.sources(), key=str))
        return Stats(
            engine.features.engine,
            tuple(sources),
            tuple(self.problems()),
            unrouted=session.publisher.unrouted,
            expired=self._worker.expired if self._worker else 0,
            late=session.requests.late,
        )

    def problems(self) -> list[str]:
        """What is wrong now, one line each; asks no broker."""
        return [*self._open().engine.problems(), *(self._worker.problems() if self._worker else ())]

    @property
    def draining(self) -> bool:
        """Whether the handlers that run here were told to stop, and finish what they have begun."""
        return self._worker is not None and self._worker.stopping

    def instrument(self, *, observer: Observer, middleware: Middleware) -> None:
        """Measures, before it opens: ``observer`` hears every settlement, ``middleware`` goes around every handler.

        Raises:
            ConfigError: The application is open.
        """
        self._check_closed("it cannot be instrumented now")
        self._observer = observer
        self._middleware = (middleware, *self._middleware)

    def trace(self, tracing: Tracing) -> None:
        """Tells a tracing system of every message, from the next opening on; `telex.otel.instrument` calls it.

        Raises:
            ConfigError: The application is open, or traced already.
        """
        self._check_closed("trace it before it is opened, where it is declared")
        if self._tracing is not None:
            raise ConfigError(f"{self!r} is traced already: once is enough, where it is declared")
        self._tracing, self._wrapped = tracing, True

    async def remove(self, source: Topic[Any] | Queue[Any] | str, *, group: str | None = None) -> None:
        """Ends a source with all it holds, its dead letters too. The only way a group ends.

        Raises:
            ConfigError: It does not exist, or this process consumes it.
        """
        admin = self._open().engine.admin
        text = text_of(source, group, self.name)
        (found,) = await find_sources(admin, text)
        if self._worker is not None and self._worker.runs(text):
            raise ConfigError(f"{text} is consumed by this process: stop its handlers first")
        await admin.remove(found)

    def pause(self, source: Topic[Any] | Queue[Any] | str, *, group: str | None = None) -> None:
        """Starts nothing new of a source in this process until `resume`; what runs goes on. Not durable.

        Raises:
            ConfigError: No handler of it runs in this process.
        """
        self._running_worker().runner(text_of(source, group, self.name)).pause()

    def resume(self, source: Topic[Any] | Queue[Any] | str, *, group: str | None = None) -> None:
        """Goes on after `pause`.

        Raises:
            ConfigError: No handler of it runs in this process.
        """
        self._running_worker().runner(text_of(source, group, self.name)).resume()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _open(self) -> Session:
        if self._session is None and self._parents is not None:
            raise Closed(
                f"{self!r} was opened by the process that this one was forked from, and a connection does not survive "
                "that: open it in the child, after the fork"
            )
        if self._session is None:
            raise Closed(f"{self!r} is not open: write `async with app:` around it")
        return self._session

    def _here(self) -> Session:
        """The session, for what waits for an answer: that comes on the loop that opened it.

        Raises:
            Closed: The application is not open, or was opened on another loop, or before a fork.
        """
        session = self._open()
        if asyncio.get_running_loop() is not session.loop:
            raise Closed(
                f"{self!r} was opened on another event loop: use it there "
                "(asyncio.run_coroutine_threadsafe), or open an application of its own here"
            )
        return session

    def _forked(self) -> None:
        """In the child of a fork."""
        if self._session is not None:
            self._parents, self._session, self._worker = self._session, None, None

    def _check_closed(self, otherwise: str) -> None:
        if self._session is not None or self._opening:
            raise ConfigError(f"{self!r} is open: {otherwise}")

    def _running_worker(self) -> Worker:
        if self._worker is None:
            raise ConfigError(f"no handlers of {self!r} run in this process: use `app.run()` or `app.running()`")
        return self._worker

    def _twin(self) -> Telex:
        """For the blocking face: the same application, not open, whatever this one (or a forked parent's) is."""
        twin = copy.copy(self)
        twin._session = twin._worker = twin._parents = None
        twin._opening = False
        return twin

    def _swap(self, *, url: str, clock: Clock, observer: Observer) -> tuple[str | None, Clock, Observer | None]:
        """For the test harness: another place and time for the same application; what they were."""
        if self._session is not None or self._opening:
            raise ConfigError(f"{self!r} is open: give the harness an application that does not run")
        before = (self._url, self._clock, self._observer)
        self._url, self._clock, self._observer = url, clock, observer
        return before

    def _restore(self, before: tuple[str | None, Clock, Observer | None]) -> None:
        """For the test harness: undoes `_swap`."""
        self._url, self._clock, self._observer = before


def _check_engines(engines: object) -> tuple[EngineSettings, ...]:
    if isinstance(engines, str) or not isinstance(engines, Iterable):
        raise ConfigError(f"engines={engines!r}: write a list of settings, for example [Embedded(sync='normal')]")
    found = tuple(engines)
    for settings in found:
        if isinstance(settings, type) or not hasattr(settings, "schemes") or not hasattr(settings, "engine"):
            raise ConfigError(f"engines: {settings!r} is no engine's settings; write for example Embedded()")
    return found
