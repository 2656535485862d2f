"""One channel that consumes one queue: what came over it and is not settled, and its acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiormq.abc import AbstractChannel

from ...errors import Disconnected
from . import wire
from .codec import Incoming, Reader
from .control import Control
from .leases import Held, Lease
from .link import Link, ending_quietly, is_cancelled

PREFETCH = 2000
"""Most unsettled deliveries of a channel; later versions cap it there (RabbitMQ 4.3, quorum queues)."""

TOGETHER = 0.05
"""Seconds that settled deliveries wait for those before them."""
IN_FLIGHT = 16
"""Acknowledgements that a channel passes on at once; from 32 on it keeps some back (`rabbit_fifo_client`)."""
ANSWER = 10.0
"""Seconds the broker has to answer a question on a channel that is being opened."""
LOOKS = 100
"""How often it is asked whether the broker has anything left to send; after that a few messages may count as lost."""

Arrived = Callable[["Intake", Sequence[tuple[Incoming, Lease]]], None]
Ended = Callable[["Intake", str], None]


class Intake:
    """A channel with one consumer.

    Args:
        reader: Takes messages apart.
        arrived: Is given what came, a run of frames at once.
        ended: Is told when it is over without `close`: the channel, the consumer or the connection.

    Attributes:
        open: What is not settled, by delivery tag, in the order it came.
        prefetch: Most of that.
        queue: Where it comes from.
    """

    def __init__(self, reader: Reader, arrived: Arrived, ended: Ended) -> None:
        self._reader = reader
        self._arrived = arrived
        self._ended = ended
        self.open: dict[int, Lease] = {}
        self._run: list[tuple[Incoming, Lease]] = []
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._tag = ""
        self.prefetch = 1
        self.queue = ""
        self._late: set[int] = set()
        """Settled, and not acknowledged yet."""
        self._flushing: asyncio.TimerHandle | None = None
        self._singles = (0.0, 0)
        """When how many were last acknowledged one by one."""
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._over = False
        self._started = False
        self._leaving: asyncio.Task[None] | None = None
        self._dry = 0

    async def start(self, link: Link, queue: str, prefetch: int, arguments: Mapping[str, object] | None = None) -> None:
        """Opens a channel and begins to consume.

        Raises:
            ChannelNotFoundEntity: The queue is not there.
            Disconnected, AMQPError: The connection is gone, or the broker refuses.
        """
        await self.open_channel(link, prefetch)
        await self.consume(queue, arguments)

    async def open_channel(self, link: Link, prefetch: int) -> None:
        """Opens a channel that consumes nothing yet.

        Raises:
            Disconnected, AMQPError: The connection is gone, or the broker refuses.
        """
        self._link = link
        self.prefetch = min(prefetch, PREFETCH)
        try:
            channel = await link.channel(sink=self)
            self._channel = channel
            channel.on_consumer_cancel_callbacks.add(self._cancelled)
            channel.closing.add_done_callback(self._closed)
            await channel.basic_qos(prefetch_count=self.prefetch, timeout=ANSWER)
            self._check()
        except BaseException as error:
            await self._failed(error)
            raise

    async def consume(self, queue: str, arguments: Mapping[str, object] | None = None) -> None:
        """Begins to consume.

        Raises:
            ChannelNotFoundEntity: The queue is not there.
            Disconnected, AMQPError: The connection is gone, or the broker refuses.
        """
        self.queue = queue
        try:
            table: Any = dict(arguments or {})  # The library's type for the values of a table is recursive.
            found = await self.channel.basic_consume(queue, _never, arguments=table, timeout=ANSWER)
            self._check()
        except BaseException as error:
            await self._failed(error)
            raise
        self._tag = str(found.consumer_tag)
        self._started = True

    def _check(self) -> None:
        """Raises if it was over before it began."""
        if self._over:
            raise Disconnected("the channel was closed while it was being opened")

    async def _failed(self, error: BaseException) -> None:
        await self._abandon()
        if isinstance(error, asyncio.CancelledError) and not is_cancelled():
            raise Disconnected("the channel was closed") from None

    async def _abandon(self) -> None:
        """Nobody reads it: no consumer may stay behind on the broker."""
        self._over = True
        if self._channel is not None and not self._channel.is_closed:
            with ending_quietly():
                await asyncio.wait_for(asyncio.shield(self._channel.close()), 5)

    @property
    def is_over(self) -> bool:
        """Whether nothing comes over it any more, and nothing can be settled."""
        return self._over

    @property
    def channel(self) -> AbstractChannel:
        """Its channel."""
        assert self._channel is not None
        return self._channel

    async def is_dry(self, queue: str, control: Control) -> bool:
        """Whether nothing comes although there is something; asked every few seconds, and true the second time.

        A node that has just started may forget a consumer of a queue that had no leader yet (seen on 3.10.8).
        """
        if self._over or self.open:
            self._dry = 0
            return False
        depth = await control.depth(queue)
        self._dry = self._dry + 1 if depth is not None and depth.ready and not self.open else 0
        return self._dry > 1

    async def settled_down(self, queue: str, control: Control) -> None:
        """Returns when the broker has nothing more to send: the window is full, or the queue is empty.

        What is on its way when a consumer is cancelled goes back as a failed delivery (measured on 3.10.8: a third
        of the messages of workers that stop soon after their start).
        """
        for _ in range(LOOKS):
            await self.fence()
            if self._over or len(self.open) >= self.prefetch:
                return
            depth = await control.depth(queue)
            if depth is None or not depth.ready:
                await self.fence()
                return
            await asyncio.sleep(0.002)

    async def cancel(self) -> None:
        """Takes no more; what was under way has come when this returns."""
        if not self._over and self._channel is not None and self._tag:
            tag, self._tag = self._tag, ""
            with ending_quietly():
                await asyncio.shield(self._channel.basic_cancel(tag, timeout=ANSWER))  # As in `fence`.

    async def fence(self) -> None:
        """Returns when everything has come that the broker sent before."""
        if not self._over and self._channel is not None:
            with ending_quietly():
                # The library closes a channel whose question is cancelled: all that is in hand would be lost.
                await asyncio.shield(self._channel.basic_qos(prefetch_count=self.prefetch, timeout=ANSWER))

    async def close(self) -> None:
        """Ends the channel: what is not settled goes back, at the place it had, and the broker counts it."""
        if self._over:
            return
        self._flush()
        await self._passed_on()
        self._over = True
        for lease in self.open.values():
            lease.state = Held.LOST
        if self._channel is not None:
            with ending_quietly():
                await asyncio.wait_for(self._channel.close(), 5)

    # -- settling ---------------------------------------------------------------------------------------------------

    def ack(self, leases: Iterable[Lease]) -> None:
        """Settles deliveries: all that came first with one frame.

        Those behind one that is still in hand wait a moment for it: a quorum queue writes every single one down, and a
        channel that is closed forgets those that it has not passed on.
        """
        if self._link is None or self._over:
            return
        opened, late = self.open, self._late
        for lease in leases:
            if opened.pop(lease.tag, None) is not None:
                late.add(lease.tag)
        first = next(iter(opened), None)
        ready = late if first is None else {tag for tag in late if tag < first}
        if ready:
            self._link.write(wire.ack(self.channel.number, max(ready), True))
            self._late = late = late - ready
        if late:
            if len(late) * 4 > self.prefetch:
                self._flush()
            elif self._flushing is None:
                self._flushing = self._loop.call_later(TOGETHER, self._flush)

    def _flush(self) -> None:
        """Acknowledges one by one what could not be acknowledged together."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        late, self._late = self._late, set()
        if late and self._link is not None and not self._over:
            number = self.channel.number
            self._link.write(b"".join([wire.ack(number, tag, False) for tag in sorted(late)]))
            self._singles = (self._loop.time(), len(late))

    async def _passed_on(self) -> None:
        """Returns when the channel has passed on what was acknowledged one by one: nothing says when it has."""
        at, number = self._singles
        if number > IN_FLIGHT:
            await asyncio.sleep(max(0.0, at + 0.05 + 0.001 * number - self._loop.time()))

    def give_back(self, leases: Iterable[Lease], *, counted: bool) -> None:
        """Puts deliveries back to where they came from.

        Args:
            leases: Which.
            counted: As failed deliveries. Uncounted works only from 4.3 on.
        """
        tags = [lease.tag for lease in leases if self.open.pop(lease.tag, None) is not None]
        if self._link is None or self._over or not tags:
            return
        frames = wire.reject(self.channel.number, tags, True) if counted else wire.nack(self.channel.number, tags)
        self._link.write(frames)

    # -- what comes -------------------------------------------------------------------------------------------------

    def delivered(self, consumer: bytes, tag: int, exchange: bytes, key: bytes, header: bytes, body: bytes) -> None:
        """A message came."""
        if self._over:
            return
        incoming = self._reader.read(key, header, body)
        lease = Lease(self, tag, incoming.message, incoming.counts, incoming.returns, self._time())
        self.open[tag] = lease
        self._run.append((incoming, lease))

    def returned(self, code: int, exchange: bytes, key: bytes, header: bytes) -> None:
        """Nothing is published here."""

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def ended(self) -> None:
        """Hands a run on."""
        if self._run:
            run, self._run = self._run, []
            self._arrived(self, run)

    def lose(self, reason: str) -> None:
        """It is over: what is in hand will come again."""
        if self._over:
            return
        self._over = True
        for lease in self.open.values():
            lease.state = Held.LOST
        if self._started and self._link is not None and self._link.is_open:
            self._leaving = self._loop.create_task(self._abandon())
        if self._started:  # Otherwise `start` raises, and whoever called it tries again.
            self._ended(self, reason)

    def _cancelled(self, frame: object) -> None:
        self.lose("the broker ended the consumer: its queue was deleted, or lost its leader")

    def _closed(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.lose(str(error) if error is not None and str(error) else "the channel was closed")


async def _never(message: object) -> None:
    """Deliveries are taken out of the stream of bytes before the library sees them."""
