"""A broker in memory that follows a script: it counts what comes back as a quorum queue does, and falls silent."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from copy import copy
from itertools import count
from typing import NamedTuple, Self

import pamqp.frame
from pamqp import commands as amqp
from pamqp.body import ContentBody
from pamqp.common import FieldTable
from pamqp.frame import FrameTypes
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

Frame = FrameTypes
Script = Callable[["Peer", int, Frame], Awaitable[bool]]
CAPABILITIES: FieldTable = {"publisher_confirms": True, "consumer_cancel_notify": True, "basic.nack": True}
SERVER: FieldTable = {"product": "RabbitMQ", "version": "3.10.8", "capabilities": CAPABILITIES}


class Stored:
    """A message in a queue; its body is one frame."""

    def __init__(self, properties: amqp.Basic.Properties, body: bytes, returns: int = 0) -> None:
        self.properties = properties
        self.body = body
        self.returns = returns


class Consumer(NamedTuple):
    """Who consumes a queue."""

    peer: Peer
    channel: int
    tag: str
    queue: str


class Peer:
    """A connection, seen from the broker.

    Attributes:
        silent: It is half open: nothing that is said is heard on the other side.
        held: What was delivered and is not settled, by channel and delivery tag, with its queue.
        prefetch: By channel.
    """

    def __init__(self, broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._broker = broker
        self._reader = reader
        self._writer = writer
        self._publishing: dict[int, tuple[str, str]] = {}
        self._header: dict[int, ContentHeader] = {}
        self._confirms: dict[int, count[int]] = {}
        self.silent = False
        self.held: dict[int, dict[int, tuple[str, Stored]]] = defaultdict(dict)
        self.prefetch: dict[int, int] = {}

    @property
    def queues(self) -> set[str]:
        """Those of which it has something in hand."""
        return {queue for held in self.held.values() for queue, _ in held.values()}

    async def serve(self) -> None:
        """Does what it is told until the connection ends."""
        try:
            await self._reader.readexactly(8)
            self.send(0, amqp.Connection.Start(0, 9, SERVER))
            while True:
                head = await self._reader.readexactly(7)
                rest = await self._reader.readexactly(int.from_bytes(head[3:], "big") + 1)
                _, channel, frame = pamqp.frame.unmarshal(head + rest)
                if not self.silent and not await self._broker.script(self, channel, frame):
                    self.obey(channel, frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.abort()

    def send(self, channel: int, *frames: Frame) -> None:
        """Says something."""
        if not self.silent:
            self._writer.write(b"".join(pamqp.frame.marshal(frame, channel) for frame in frames))

    def abort(self) -> None:
        """Ends the connection without a word; what it held comes back."""
        self._writer.transport.abort()
        self._broker.consumers = [one for one in self._broker.consumers if one.peer is not self]
        for channel in list(self.held):
            self._leave(channel)

    def consume(self, channel: int, tag: str, queue: str) -> None:
        """Begins to deliver."""
        self._broker.consumers.append(Consumer(self, channel, tag, queue))
        self._broker.deliver(queue)

    def deliver(self, consumer: Consumer, message: Stored) -> None:
        """Hands a message over."""
        tag = next(self._broker.tags)
        self.held[consumer.channel][tag] = (consumer.queue, message)
        properties = copy(message.properties)
        properties.headers = {**(properties.headers or {}), "x-delivery-count": message.returns}
        method = amqp.Basic.Deliver(consumer.tag, tag, message.returns > 0, "", consumer.queue)
        header = ContentHeader(body_size=len(message.body), properties=properties)
        self.send(consumer.channel, method, header, ContentBody(message.body))

    def obey(self, channel: int, frame: Frame) -> None:
        """Does what a broker does on a frame."""
        broker = self._broker
        match frame:
            case Heartbeat() | amqp.Connection.TuneOk() | amqp.Connection.CloseOk():
                pass
            case amqp.Connection.StartOk():
                self.send(0, amqp.Connection.Tune(2047, 131072, 15))
            case amqp.Connection.Open():
                self.send(0, amqp.Connection.OpenOk())
            case amqp.Connection.Close():
                self.send(0, amqp.Connection.CloseOk())
                self._writer.close()
            case amqp.Channel.Open():
                self.send(channel, amqp.Channel.OpenOk())
            case amqp.Channel.Close():
                self.send(channel, amqp.Channel.CloseOk())
                self._leave(channel)
            case amqp.Channel.CloseOk():
                self._leave(channel)
            case amqp.Confirm.Select():
                self._confirms[channel] = count(1)
                self.send(channel, amqp.Confirm.SelectOk())
            case amqp.Exchange.Declare():
                self.send(channel, amqp.Exchange.DeclareOk())
            case amqp.Queue.Declare():
                self.send(channel, amqp.Queue.DeclareOk(frame.queue, len(broker.queues[frame.queue]), 0))
            case amqp.Basic.Qos():
                self.prefetch[channel] = frame.prefetch_count
                self.send(channel, amqp.Basic.QosOk())
            case amqp.Basic.Consume():
                self.send(channel, amqp.Basic.ConsumeOk(frame.consumer_tag))
                self.consume(channel, frame.consumer_tag, frame.queue)
            case amqp.Basic.Cancel():
                broker.consumers = [one for one in broker.consumers if one.tag != frame.consumer_tag]
                self.send(channel, amqp.Basic.CancelOk(frame.consumer_tag))
            case amqp.Basic.Ack():
                held, last = self.held[channel], frame.delivery_tag
                for tag in [tag for tag in held if tag == last or (frame.multiple and tag < last)]:
                    broker.deliver(held.pop(tag)[0])
            case amqp.Basic.Publish():
                self._publishing[channel] = (frame.exchange, frame.routing_key)
            case ContentHeader():
                self._header[channel] = frame
            case ContentBody():
                self._published(channel, frame.value)
            case _:
                raise AssertionError(f"{frame.name} is not scripted")

    def _published(self, channel: int, body: bytes) -> None:
        exchange, key = self._publishing.pop(channel)
        properties, tag = self._header.pop(channel).properties, next(self._confirms[channel])
        if key in self._broker.full:
            self.send(channel, amqp.Basic.Nack(tag))
        else:
            self._broker.published.append((exchange or key, properties.message_id or ""))
            if not exchange:
                self._broker.put(key, Stored(properties, body))
            self.send(channel, amqp.Basic.Ack(tag))

    def _leave(self, channel: int) -> None:
        """A channel is over: what it holds goes back to where it was, and is counted."""
        broker = self._broker
        broker.consumers = [one for one in broker.consumers if (one.peer, one.channel) != (self, channel)]
        back = self.held.pop(channel, {}).values()
        for queue, message in reversed(back):
            message.returns += 1
            broker.queues[queue].appendleft(message)
        for queue, _ in back:
            broker.deliver(queue)


class Broker:
    """Queues of these names, and who is connected. To be entered.

    Attributes:
        script: Sees each frame before it is obeyed; true: it was dealt with.
        accepting: Whether it takes connections.
        full: Queues that take no more.
        published: What was confirmed: exchange or queue, and the message's id.
    """

    def __init__(self, *queues: str) -> None:
        self.queues: dict[str, deque[Stored]] = {name: deque() for name in queues}
        self.consumers: list[Consumer] = []
        self.peers: list[Peer] = []
        self.script: Script = nothing
        self.accepting = True
        self.full: set[str] = set()
        self.published: list[tuple[str, str]] = []
        self.tags = count(1)
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"amqp://guest:guest@127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        self.abort()
        for task in self._serving:
            task.cancel()
        ended = await asyncio.gather(*self._serving, return_exceptions=True)
        assert not [error for error in ended if isinstance(error, Exception)]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.accepting:
            self.peers.append(Peer(self, reader, writer))
            self._serving.add(asyncio.create_task(self.peers[-1].serve()))
        else:
            writer.transport.abort()

    def abort(self) -> None:
        """Ends all connections."""
        for peer in self.peers:
            peer.abort()

    def put(self, queue: str, message: Stored) -> None:
        """Stores a message."""
        self.queues[queue].append(message)
        self.deliver(queue)

    def deliver(self, queue: str) -> None:
        """Hands over what somebody has room for."""
        for consumer in self.consumers:
            peer, channel = consumer.peer, consumer.channel
            while consumer.queue == queue and self.queues[queue] and len(peer.held[channel]) < peer.prefetch[channel]:
                peer.deliver(consumer, self.queues[queue].popleft())

    def holder(self, queue: str) -> Peer:
        """Who has something of a queue in hand."""
        return next(peer for peer in self.peers if queue in peer.queues)


async def nothing(peer: Peer, channel: int, frame: Frame) -> bool:
    """Lets the broker do what a broker does."""
    return False
