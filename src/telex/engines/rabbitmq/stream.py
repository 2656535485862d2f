"""Reading streams: from an offset on, and where they end. AMQP does not say how long a stream is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from aiormq.abc import AbstractChannel

from . import table
from .link import Link, ending_quietly
from .wire import ack

PREFETCH = 1000
PATIENCE = 10.0
EMPTY = 0.5
"""Seconds after which a stream that has given nothing is taken to be empty."""
GOODBYE = 5.0
"""Seconds the broker has to end a channel."""

Arrived = Callable[[int, bytes, bytes, bytes], None]
"""Is given offset, routing key, content header and body."""


class Tail:
    """Reads a stream, and gives the broker credit for more as it reads.

    Args:
        link: The connection.
        arrived: Is given what comes.
        over: Called when nothing comes any more.

    Attributes:
        channel: Its channel, once it reads.
        is_cancelled: Whether the broker ended it: the stream was deleted, or lost a replica. The channel stays open.
    """

    def __init__(self, link: Link, arrived: Arrived, over: Callable[[], None] = lambda: None) -> None:
        self._link = link
        self._arrived = arrived
        self._over = over
        self._last = 0
        self._number = 0
        self._stopped = False
        self.channel: AbstractChannel | None = None
        self.is_cancelled = False

    @property
    def is_open(self) -> bool:
        """Whether anything can come."""
        return self.channel is not None and not self.channel.is_closed and not self.is_cancelled

    async def start(self, stream: str, offset: int | str | datetime) -> AbstractChannel:
        """Reads from an offset on: a number, ``first``, ``last`` (the last chunk) or an instant.

        Raises:
            ChannelNotFoundEntity: There is no such stream.
            Disconnected, AMQPError: The connection is gone, or the broker refuses.
        """
        channel = await self._link.channel(sink=self)
        self._number = channel.number
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        channel.closing.add_done_callback(lambda _: self._over())
        await channel.basic_qos(prefetch_count=PREFETCH)
        await channel.basic_consume(stream, _never, arguments={"x-stream-offset": offset})
        self.channel = channel
        return channel

    async def stop(self) -> None:
        """Ends reading: nothing arrives any more, also of what is under way."""
        self._stopped = True
        if self.channel is not None and not self.channel.is_closed:
            with ending_quietly():
                await asyncio.wait_for(asyncio.shield(self.channel.close()), GOODBYE)

    def _cancelled(self, frame: object) -> None:
        self.is_cancelled = True
        self._over()

    def delivered(self, consumer: bytes, tag: int, exchange: bytes, key: bytes, header: bytes, body: bytes) -> None:
        """A record came."""
        self._last = tag
        if self._stopped:
            return
        try:
            fields = table.properties(header)
            found = dict(table.items(fields[table.HEADERS][4:]))
        except (table.Damaged, KeyError):
            return
        offset = table.integer(found.get(b"x-stream-offset"))
        if offset is not None:
            self._arrived(offset, key, header, body)

    def returned(self, code: int, exchange: bytes, key: bytes, header: bytes) -> None:
        """Nothing is published here."""

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def ended(self) -> None:
        """Gives credit."""
        if self._last:
            self._link.write(ack(self._number, self._last, True))
            self._last = 0


async def last_offset(link: Link, stream: str, *, filled: bool) -> int:
    """The offset of the last record; -1 if there is none.

    Args:
        link: The connection.
        stream: Its name.
        filled: Whether it is known to hold anything.

    Raises:
        TimeoutError: It is filled, and the broker gave nothing.
        ChannelNotFoundEntity, Disconnected, AMQPError: As `Tail.start`.
    """
    found: list[int] = []
    came = asyncio.Event()

    def arrived(offset: int, key: bytes, header: bytes, body: bytes) -> None:
        found.append(offset)
        came.set()

    tail = Tail(link, arrived)
    try:
        channel = await tail.start(stream, "last")
        try:
            await asyncio.wait_for(came.wait(), PATIENCE if filled else EMPTY)
        except TimeoutError:
            if filled:
                raise
        await channel.basic_qos(prefetch_count=PREFETCH)  # Its answer comes after the rest of the last chunk.
    finally:
        await tail.stop()
    return max(found, default=-1)


async def _never(message: object) -> None:
    """Deliveries are taken out of the stream of bytes before the library sees them."""
