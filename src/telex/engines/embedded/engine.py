"""The embedded engine: a SQLite file that any number of processes of one host share, or memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, TypeVar

import apsw

from ...clock import Clock
from ...engine import (
    Admin,
    Change,
    Channel,
    ChannelKind,
    Consumer,
    Lost,
    Outgoing,
    SourceKind,
    Stored,
    Subscription,
)
from ...errors import Closed, Disconnected
from ...features import Features, Support
from . import declare
from .admin import EmbeddedAdmin
from .broadcast import Listener
from .collect import INBOX
from .consumer import EmbeddedConsumer, PassingConsumer
from .inbox import Inbox
from .leases import Holder
from .opening import open_store
from .platform import ForkGuard
from .store import Store
from .writer import Writer

if TYPE_CHECKING:
    from .. import Embedded

T = TypeVar("T")
MAX_BODY = 1024 * 1024 - 16 * 1024
"""16 KiB below 1 MiB: headers and the history of a dead letter come on top."""
MAX_DELAY = timedelta(days=366)


def features(engine: str, *, durable: bool) -> Features:
    """What the embedded engine can do."""
    return Features(
        engine=engine,
        durable=durable,
        settle_confirmed=True,
        atomic=True,
        groups=Support.NATIVE,
        patterns=Support.NATIVE,
        broadcast=Support.NATIVE,
        ordered=Support.NATIVE,
        delay=Support.NATIVE,
        requests=Support.NATIVE,
        replay=Support.NATIVE,
        start_all=Support.NATIVE,
        browse=Support.NATIVE,
        max_body=MAX_BODY,
        max_delay=MAX_DELAY,
        max_hold=None,
        hold_window=None,
        retention=None,
        system="telex",
    )


class Core:
    """One open store of this process, with its writer's thread; the engines of one ``memory://name`` share it."""

    def __init__(self, path: str | None, name: str, settings: Embedded, clock: Clock, random: Random) -> None:
        self.writer = Writer(
            name,
            lambda: open_store(
                path,
                retention=settings.retention,
                lease=settings.lease,
                max_bytes=settings.max_bytes,
                clock=clock,
                random=random,
            ),
            settings.sync,
        )
        self.users = 0
        clock.on_jump(self.writer.poke)


class Shared:
    """The stores in memory that have a name, by name: the one thing that engines of a process share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cores: dict[str, Core] = {}
        self._watched = False

    def take(self, name: str, make: Callable[[], Core]) -> Core:
        """The store of a name, made if nobody uses it."""
        with self._lock:
            if not self._watched:
                self._watched = True
                os.register_at_fork(after_in_child=self._forked)
            core = self._cores.get(name)
            if core is None:
                core = self._cores[name] = make()
            core.users += 1
            return core

    def leave(self, name: str, core: Core) -> bool:
        """One user less; whether it was the last."""
        with self._lock:
            core.users -= 1
            if core.users:
                return False
            self._cores.pop(name, None)
            return True

    def _forked(self) -> None:
        """In a child: the threads of these stores are gone, and what they hold is the parent's."""
        self._lock = threading.Lock()
        self._cores.clear()


SHARED = Shared()


class EmbeddedEngine:
    """The engine for a path, ``memory://`` and ``memory://name``."""

    def __init__(
        self,
        path: str | None,
        *,
        memory_name: str | None,
        settings: Embedded,
        app: str,
        clock: Clock,
        random: Random,
    ) -> None:
        self._path = path
        self._memory_name = memory_name
        self._settings = settings
        self._app = app
        self._clock = clock
        self._random = random
        self._features = features("memory" if path is None else "embedded", durable=path is not None)
        self._core: Core | None = None
        self._store: Store | None = None
        self._fork = ForkGuard()
        self._consumers: set[EmbeddedConsumer | PassingConsumer] = set()
        self._admin = EmbeddedAdmin(self._run, clock, path)

    @property
    def features(self) -> Features:
        return self._features

    @property
    def admin(self) -> Admin:
        return self._admin

    async def open(self, deadline: float) -> None:
        if self._core is not None:
            raise Closed("the engine was opened before: make a new one")
        if self._memory_name is None:
            core = self._make()
            core.users = 1
        else:
            core = SHARED.take(self._memory_name, self._make)
        self._core = core
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                self._store = await core.writer.start()
        except TimeoutError as error:
            await self.close(deadline)
            raise Disconnected(f"{self._path} could not be opened in time: another process holds it") from error
        except BaseException:
            await self.close(deadline)
            raise

    async def plan(self, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        topology = self._opened().topology
        return await self._call(lambda db: declare.plan(topology, channels, subscriptions))

    async def apply(self, changes: Sequence[Change]) -> None:
        topology = self._opened().topology
        await self._call(lambda db: declare.apply(db, topology, changes), topology.forget)

    async def lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        known = self._opened().topology

        def look(db: apsw.Connection) -> list[Channel | None]:
            return [row.channel if (row := known.channels.get(name)) is not None else None for name in names]

        return await self._call(look)

    def problems(self) -> Sequence[str]:
        store = self._store
        if store is None:
            return []
        found = list(store.problems.values())
        return [*found, store.full_text] if store.full else found

    async def publish(self, batch: Sequence[Outgoing], deadline: float) -> Sequence[tuple[Stored, Exception | None]]:
        self._opened()
        assert self._core is not None
        quick = all(_is_quick(outgoing) for outgoing in batch)
        return await self._core.writer.publish(batch, quick=quick, wait=deadline - self._clock.monotonic())

    async def consume(self, subscription: Subscription, lost: Lost) -> Consumer:
        store, source = self._opened(), subscription.source
        assert self._core is not None
        writer = self._core.writer
        if source.kind is SourceKind.INBOX:
            return self._inbox(writer, store)
        if source.kind is SourceKind.BROADCAST:
            return await self._listener(writer, store, subscription)
        max_hold = None if subscription.max_hold is None else subscription.max_hold.total_seconds()
        holder = Holder(0, 0, source, subscription.window, max_hold)
        holder.began = self._clock.monotonic()

        def begin(db: apsw.Connection) -> bool:
            holder.source_id = declare.ensure_source(db, store.topology, source, subscription.start)
            holder.id = store.register(holder.source_id)
            store.holders.append(holder)
            row = store.topology.channels.get(source.channel)
            return row is not None and row.channel.kind is ChannelKind.PROCEDURE

        def undo() -> None:
            store.topology.forget()
            if holder in store.holders:
                store.holders.remove(holder)

        try:
            quick = await self._call(begin, undo)
        except BaseException:  # Cancelled, most likely: `begin` may run yet, and nobody would close what it makes.
            holder.closing = True
            writer.poke()
            raise
        consumer = EmbeddedConsumer(writer, holder, lost, quick=quick)
        writer.sinks[holder] = consumer
        self._consumers.add(consumer)
        return consumer

    async def close(self, deadline: float) -> None:
        core, self._core, self._store = self._core, None, None
        if core is None or self._fork.forked:
            return
        try:
            # A process that was stopped in its commit may hold the lock for ever: closing goes on without its consent.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.1, deadline - self._clock.monotonic())):
                    for consumer in list(self._consumers):
                        await consumer.close()
        finally:  # Also when that was cancelled: nobody else ends the consumers and the thread.
            for consumer in self._consumers:
                consumer.abandon()
            self._consumers.clear()
            last = self._memory_name is None or SHARED.leave(self._memory_name, core)
            if last:
                core.writer.end()
        if last:
            await core.writer.close(max(0.1, deadline - self._clock.monotonic()))

    # -- parts ------------------------------------------------------------------------------------------------------

    def _make(self) -> Core:
        name = self._path or f"memory {self._memory_name or ''}".strip()
        return Core(self._path, name, self._settings, self._clock, self._random)

    def _opened(self) -> Store:
        self._fork.check(self._path or "the store in memory")
        if self._store is None:
            raise Closed("the store is not open")
        return self._store

    async def _run(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._call(work)

    async def _call(self, function: Callable[[apsw.Connection], T], undo: Callable[[], None] | None = None) -> T:
        self._opened()
        assert self._core is not None
        return await self._core.writer.call(function, undo)

    def _inbox(self, writer: Writer, store: Store) -> PassingConsumer:
        inbox = Inbox(f"{INBOX}{self._random.getrandbits(128):032x}")
        consumer = PassingConsumer(writer, inbox, lambda: store.drop_inbox(inbox))
        writer.sinks[inbox] = consumer
        store.add_inbox(inbox)
        self._consumers.add(consumer)
        return consumer

    async def _listener(self, writer: Writer, store: Store, subscription: Subscription) -> PassingConsumer:
        listener = Listener(subscription.source.channel, subscription.window)
        consumer = PassingConsumer(writer, listener, lambda: store.drop_listener(listener))
        writer.sinks[listener] = consumer

        def begin(db: apsw.Connection) -> None:
            listener.begin(db)
            store.add_listener(listener)

        try:
            await self._call(begin)
        except BaseException:  # As above.
            consumer.abandon()
            raise
        self._consumers.add(consumer)
        return consumer


def _is_quick(outgoing: Outgoing) -> bool:
    """A request or a reply: a power cut ends who waits for it as well, so that it need not be on the disk."""
    to = outgoing.to
    return isinstance(to, str) or (isinstance(to, Channel) and to.kind is ChannelKind.PROCEDURE)
