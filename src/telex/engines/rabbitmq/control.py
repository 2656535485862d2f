"""Everything that is asked of the broker besides messages: declaring, looking, deleting. One question at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from aiormq.abc import AbstractChannel
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from ...errors import AccessDenied, ConfigError, Disconnected
from .line import Line
from .link import DROPPED, Link, is_cancelled

TIMEOUT = 30.0
"""Seconds for one question."""
COMING = 0.2
"""Seconds between questions to a broker that is coming up."""
LOST = 0.02
"""Seconds before a question is asked again whose channel was lost."""

T = TypeVar("T")
Arguments = Mapping[str, Any]


class Differs(Exception):
    """It is there with other arguments."""


def _is_coming_up(error: ChannelNotFoundEntity) -> bool:
    """Whether a queue is there, on a node that has just started or has left."""
    return "down or inaccessible" in str(error)


class Depth(msgspec.Struct, frozen=True):
    """What a queue says about itself.

    Attributes:
        ready: Messages that could be delivered.
        consumers: Who consumes it.
    """

    ready: int
    consumers: int


class Control:
    """Asks on a channel of its own: a wrong question closes the channel and hurts nobody else.

    Attributes:
        exchanges: Those known to be there.
        queues: Those known to be there.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._channel: AbstractChannel | None = None
        self._lock = asyncio.Lock()
        self._answered = 0.0
        """When the broker last answered, of the loop's clock."""
        self.exchanges: set[str] = set()
        self.queues: set[str] = set()

    async def up(self, link: Link) -> None:
        """A new connection: what was known may be gone."""
        self.down()

    def down(self) -> None:
        """The connection is gone."""
        self._channel = None
        self.exchanges.clear()
        self.queues.clear()

    async def ask(self, question: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Asks one question; again on a new connection if the old one breaks in the middle.

        Raises:
            AccessDenied: The broker refuses it.
            Disconnected: There was no connection in time.
        """
        loop = asyncio.get_running_loop()
        deadline, asked = loop.time() + TIMEOUT, False
        while True:
            await self._line.up(deadline)  # Without the lock: what a connection begins with asks, too.
            async with self._lock:
                link = self._line.link
                if link is None:
                    continue
                if not asked:  # Others that were answered until now are no silence of the broker.
                    deadline, asked = max(deadline, self._answered + TIMEOUT), True
                try:
                    async with asyncio.timeout_at(deadline):
                        return await self._put(link, question)
                except ChannelAccessRefused as error:
                    raise AccessDenied(f"the broker refuses it: {error}") from None
                except ChannelNotFoundEntity as error:
                    if not _is_coming_up(error):
                        raise
                    if loop.time() + COMING > deadline:
                        raise Disconnected(f"the broker is not ready: {error}") from None
                    pause = COMING
                except (ChannelPreconditionFailed, ChannelLockedResource):
                    raise
                except TimeoutError:
                    raise Disconnected("the broker did not answer in time") from None
                except (asyncio.CancelledError, *DROPPED) as error:
                    if isinstance(error, asyncio.CancelledError) and is_cancelled():
                        raise
                    self._channel, pause = None, LOST
            await asyncio.sleep(pause)

    async def _put(self, link: Link, question: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        if self._channel is None or self._channel.is_closed:
            self._channel = await link.channel()
        answer = await question(self._channel)
        self._answered = asyncio.get_running_loop().time()
        return answer

    # -- looking ----------------------------------------------------------------------------------------------------

    async def has_exchange(self, name: str) -> bool:
        """Whether an exchange is there."""
        if name in self.exchanges:
            return True
        try:
            await self.ask(lambda channel: channel.exchange_declare(name, passive=True))
        except ChannelNotFoundEntity:
            return False
        self.exchanges.add(name)
        return True

    async def depth(self, queue: str) -> Depth | None:
        """How a queue stands; None if it is not there, or may not be looked at."""
        try:
            found = await self.ask(lambda channel: channel.queue_declare(queue, passive=True))
        except ChannelNotFoundEntity:
            self.queues.discard(queue)
            return None
        except ChannelLockedResource:
            return Depth(0, 1)
        self.queues.add(queue)
        return Depth(found.message_count or 0, found.consumer_count or 0)

    # -- making -----------------------------------------------------------------------------------------------------

    async def exchange(self, name: str, kind: str, arguments: Arguments | None = None) -> None:
        """Makes a durable exchange, or finds it.

        Raises:
            Differs: It is there and different.
        """
        wanted = dict(arguments or {})
        try:
            await self.ask(
                lambda channel: channel.exchange_declare(name, exchange_type=kind, durable=True, arguments=wanted)
            )
        except ChannelPreconditionFailed as error:
            raise Differs(str(error)) from None
        self.exchanges.add(name)

    async def queue(
        self, name: str, arguments: Arguments, *, exclusive: bool = False, auto_delete: bool = False
    ) -> Depth:
        """Makes a durable queue, or finds it.

        Raises:
            Differs: It is there and different.
        """
        wanted = dict(arguments)
        durable = not exclusive
        try:
            made = await self.ask(
                lambda channel: channel.queue_declare(
                    name, durable=durable, exclusive=exclusive, auto_delete=auto_delete, arguments=wanted
                )
            )
        except ChannelPreconditionFailed as error:
            raise Differs(str(error)) from None
        except ChannelLockedResource as error:
            raise Differs(str(error)) from None
        self.queues.add(name)
        return Depth(made.message_count or 0, made.consumer_count or 0)

    async def bind(self, queue: str, exchange: str, key: str = "", arguments: Arguments | None = None) -> None:
        """Binds a queue to an exchange.

        Raises:
            ConfigError: One of them is gone.
        """
        try:
            await self.ask(lambda channel: channel.queue_bind(queue, exchange, key, arguments=dict(arguments or {})))
        except ChannelNotFoundEntity as error:
            raise ConfigError(f"{queue} cannot be bound to {exchange}: {error}") from None

    async def bind_exchange(self, to: str, exchange: str, key: str) -> None:
        """Binds an exchange behind another."""
        try:
            await self.ask(lambda channel: channel.exchange_bind(to, exchange, key))
        except ChannelNotFoundEntity as error:
            raise ConfigError(f"{to} cannot be bound to {exchange}: {error}") from None

    # -- ending -----------------------------------------------------------------------------------------------------

    async def delete_queue(self, name: str) -> None:
        """Deletes a queue with what it holds; it need not be there."""
        self.queues.discard(name)
        await self.ask(lambda channel: channel.queue_delete(name))

    async def delete_exchange(self, name: str) -> None:
        """Deletes an exchange; it need not be there."""
        self.exchanges.discard(name)
        await self.ask(lambda channel: channel.exchange_delete(name))

    async def purge(self, name: str) -> int:
        """Drops what is ready in a queue; how many."""
        try:
            purged = await self.ask(lambda channel: channel.queue_purge(name))
        except ChannelNotFoundEntity:
            return 0
        return int(purged.message_count or 0)
