"""One connection: opened by the client library, with the hot path of the wire beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress

from aiormq.abc import AbstractChannel
from aiormq.connection import Connection
from aiormq.exceptions import AMQPError

from ...errors import Disconnected
from .address import Address, refusal
from .versions import Gates, gates
from .wire import Sink, Transport

CLOSE = 3.0
"""Seconds the broker has to say goodbye."""
DROPPED = (AMQPError, RuntimeError, OSError, asyncio.TimeoutError)
"""What the library raises when a channel or connection is gone (`ChannelInvalidStateError` is a RuntimeError)."""


def is_cancelled() -> bool:
    """Whether a `CancelledError` is meant for this task: the client library raises it too, where a channel ends."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


@contextmanager
def ending_quietly() -> Iterator[None]:
    """What is asked of a channel or connection that is gone, or ends meanwhile, needs no answer."""
    try:
        with suppress(Disconnected, *DROPPED):
            yield
    except asyncio.CancelledError:
        if is_cancelled():
            raise


class Link:
    """An open connection. Used on the engine's loop.

    Attributes:
        lost: Set, with the reason as text, as soon as it is known to be gone.
    """

    def __init__(self, connection: Connection, transport: Transport, address: Address) -> None:
        self._connection = connection
        self._transport = transport
        self._address = address
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gates: Gates = gates(connection.server_properties)
        self.frame_max: int = connection.connection_tune.frame_max or 131072
        connection.closing.add_done_callback(self._closed)
        # The end of the stream is the end of the link, before the library has tidied up.
        transport.reader.on_end = lambda: self._end("the connection broke")

    @property
    def is_open(self) -> bool:
        """Whether it is not known to be gone."""
        return not self.lost.done()

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes from it, being short of memory or disk."""
        waiting = self._connection.ready()
        try:
            waiting.send(None)
        except StopIteration:
            return False
        else:
            return True
        finally:
            waiting.close()

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken."""
        return self._transport.writer.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Writes whole frames."""
        if self.is_open and not self._transport.writer.transport.is_closing():
            self._transport.writer.write(data)

    async def drained(self) -> None:
        """Returns once the socket has taken most; or is gone."""
        with suppress(OSError):
            await self._transport.writer.drain()

    async def channel(
        self, *, sink: Sink | None = None, confirms: bool = False, number: int | None = None
    ) -> AbstractChannel:
        """Opens a channel; frames of deliveries and confirms go to its sink, if it has one.

        Raises:
            Disconnected: The connection is gone.
        """
        try:
            channel = await self._connection.channel(number, publisher_confirms=confirms, timeout=10)
        except DROPPED as error:
            raise Disconnected(f"the broker at {self._address.place} is gone: {error}") from error
        if sink is not None:
            self._transport.reader.sinks[channel.number] = sink
            channel.closing.add_done_callback(lambda _: self._forget(channel.number, sink))
        return channel

    def _forget(self, number: int, sink: Sink) -> None:
        if self._transport.reader.sinks.get(number) is sink:
            del self._transport.reader.sinks[number]

    def check(self) -> None:
        """Ends a connection that has been silent for two heartbeats."""
        silent = asyncio.get_running_loop().time() - self._transport.reader.heard
        if silent > 2 * self._address.heartbeat + 1:
            self.drop(f"nothing was heard for {silent:.0f} s")

    def drop(self, reason: str) -> None:
        """Gives it up without a word: it answers no more."""
        self._end(reason)
        self._transport.writer.transport.abort()

    def _closed(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._end(str(error) if error is not None and str(error) else "it was closed")

    def _end(self, reason: str) -> None:
        if self._transport.reader.goodbye is not None:
            reason = self._transport.reader.goodbye[1]
        self._transport.reader.sinks.clear()
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        """Says goodbye, for a moment."""
        self._end("closed here")
        with suppress(asyncio.TimeoutError, *DROPPED):
            await asyncio.wait_for(asyncio.shield(_quiet(self._connection.close())), CLOSE)
        self._transport.writer.transport.abort()


async def _quiet(work: Awaitable[object]) -> None:
    with suppress(Exception):
        await work


def _heard(work: asyncio.Future[object]) -> None:
    """Whoever waited may have been cancelled, since another connection was refused first: then nobody asks for it."""
    if not work.cancelled():
        work.exception()


async def connect(address: Address, timeout: float) -> Link:
    """Opens a connection.

    Raises:
        AccessDenied: The broker refuses the user or the virtual host.
        Disconnected: It cannot be reached in time.
        ConfigError: Its version is not supported.
    """
    client = logging.getLogger("aiormq")
    if client.level == logging.NOTSET:  # It logs each try with a traceback; who wants that sets a level.
        client.setLevel(logging.CRITICAL)
    transport = Transport()
    connection = Connection(address.url, transport_factory=transport)
    try:
        connecting = asyncio.ensure_future(connection.connect())
        connecting.add_done_callback(_heard)
        await asyncio.wait_for(connecting, max(0.05, timeout))
    except TimeoutError:
        raise Disconnected(f"the broker at {address.place} did not answer within {timeout:.0f} s") from None
    except (*DROPPED, AMQPError) as error:
        reader = getattr(transport, "reader", None)
        raise refusal(error, reader and reader.goodbye, address) from None
    return Link(connection, transport, address)
