"""The hot path of the wire: deliveries, confirms and returns are taken out of the byte stream in one loop, publishes
and acknowledgements are written as one piece a batch. Everything else goes through the client library untouched.

The library spends a task, a lock and several awaits on each message (measured: 75 to 160 us); this spends 5. It sits at
the library's transport factory, a public place. Frames as in AMQP 0-9-1, sections 2.3.5 and 4.2.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any, Protocol, SupportsIndex

from aiormq.connection import SSLContextProvider, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

FRAME = Struct(">BHI")
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER = 0x003C0028, 0x003C0032, 0x003C003C
BASIC_ACK, BASIC_REJECT, BASIC_NACK = 0x003C0050, 0x003C005A, 0x003C0078
ALIVE = FRAME.pack(HEARTBEAT, 0, 0) + END
CONNECTION_CLOSE = 0x000A0032
KNOWN = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
LIMIT = 16 * 1024 * 1024
"""Of the library's buffer, for what goes through it."""
OVERHEAD = 8
"""Bytes of a frame around its payload."""

_u32 = Struct(">I")
_u64 = Struct(">Q")
_content = Struct(">HHQ")
_settle = Struct(">BHIIQBB")
_reject = Struct(">BHIIQBB")


class Sink(Protocol):
    """Where the frames of one channel go. Called in the middle of reading: returns at once and does not raise."""

    def delivered(self, consumer: bytes, tag: int, exchange: bytes, key: bytes, header: bytes, body: bytes) -> None:
        """A message came."""
        ...

    def returned(self, code: int, exchange: bytes, key: bytes, header: bytes) -> None:
        """A mandatory message had nowhere to go."""
        ...

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """The broker has stored a publish, or says that it has not."""
        ...

    def ended(self) -> None:
        """A run of frames is over: what came in it can be handed on."""
        ...


class _Content:
    """A message of which not everything has come."""

    __slots__ = ("header", "left", "method", "pieces")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.left = 0
        self.pieces: list[bytes] = []


class WireReader(asyncio.StreamReader):
    """The library's reader, after the frames of channels with a `Sink` were taken out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LIMIT, loop=loop)
        self.sinks: dict[int, Sink] = {}
        self._rest = b""
        self._open: dict[int, _Content] = {}
        self._foreign = False
        self._time = loop.time
        self.heard = loop.time()
        """When bytes came last, of the loop's clock."""
        self._told = self.heard
        self.goodbye: tuple[int, str] | None = None
        """Why the broker closed the connection, if it said so: code and text."""
        self.on_end: Callable[[], None] = _nothing
        """Called when the stream ends."""

    def feed_eof(self) -> None:
        """The other side has closed."""
        super().feed_eof()
        self.on_end()

    def at_eof(self) -> bool:
        """Never: the library, asked for another frame, would take the end for the end of an iteration.

        With TLS the end comes together with what was said before it, so that it would be there before that is read.
        """
        return False

    def set_exception(self, exc: Exception) -> None:
        """The connection broke."""
        super().set_exception(exc)
        self.on_end()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Takes what the socket gave."""
        self.heard = self._time()
        if self._foreign:
            super().feed_data(data)
            return
        stream = self._rest + bytes(data) if self._rest else bytes(data)
        passed, touched, position = self._split(stream)
        self._rest = stream[position:]
        if touched and not passed and self.heard - self._told > 1.0:
            passed.append(ALIVE)  # The library counts frames it sees as signs of life, and has seen none of these.
        if passed:
            self._told = self.heard
            super().feed_data(b"".join(passed))
        for sink in touched:
            sink.ended()

    def _split(self, stream: bytes) -> tuple[list[bytes], set[Sink], int]:
        passed: list[bytes] = []
        touched: set[Sink] = set()
        position, end, unpack, sinks = 0, len(stream), FRAME.unpack_from, self.sinks
        while end - position >= OVERHEAD:
            kind, channel, size = unpack(stream, position)
            if kind not in KNOWN:
                self._foreign = True  # No AMQP: the library knows what to say about it.
                passed.append(stream[position:])
                return passed, touched, end
            begin, position_after = position + 7, position + size + OVERHEAD
            if position_after > end:
                break
            sink = sinks.get(channel)
            if not channel and kind == METHOD and _u32.unpack_from(stream, begin)[0] == CONNECTION_CLOSE:
                self._hear(stream[begin : begin + size])
            if sink is None or not self._taken(sink, kind, channel, stream[begin : begin + size]):
                passed.append(stream[position:position_after])
            else:
                touched.add(sink)
            position = position_after
        return passed, touched, position

    def _hear(self, payload: bytes) -> None:
        after = 7 + payload[6]
        self.goodbye = int.from_bytes(payload[4:6], "big"), payload[7:after].decode("utf-8", "replace")
        self.on_end()

    def _taken(self, sink: Sink, kind: int, channel: int, payload: bytes) -> bool:
        """Whether the frame was ours."""
        if kind == METHOD:
            method = _u32.unpack_from(payload)[0]
            if method in (BASIC_DELIVER, BASIC_RETURN):
                self._open[channel] = _Content(payload)
                return True
            if method in (BASIC_ACK, BASIC_NACK):
                sink.confirmed(_u64.unpack_from(payload, 4)[0], bool(payload[12] & 1), method == BASIC_ACK)
                return True
            return False
        content = self._open.get(channel)
        if content is None:
            return False
        if kind == HEADER:
            content.header = payload
            content.left = _content.unpack_from(payload)[2]
        else:
            content.pieces.append(payload)
            content.left -= len(payload)
        if content.left <= 0:
            del self._open[channel]
            _dispatch(sink, content)
        return True


def _nothing() -> None:
    """Nobody listens yet."""


def _dispatch(sink: Sink, content: _Content) -> None:
    method, pieces = content.method, content.pieces
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if _u32.unpack_from(method)[0] == BASIC_DELIVER:
        after = 5 + method[4]
        consumer, tag = method[5:after], _u64.unpack_from(method, after)[0]
        exchange, key = _two_texts(method, after + 9)
        sink.delivered(consumer, tag, exchange, key, content.header, body)
    else:
        after = 7 + method[6]
        exchange, key = _two_texts(method, after)
        sink.returned(int.from_bytes(method[4:6], "big"), exchange, key, content.header)


def _two_texts(data: bytes, position: int) -> tuple[bytes, bytes]:
    middle = position + 1 + data[position]
    return data[position + 1 : middle], data[middle + 1 : middle + 1 + data[middle]]


# -- writing -----------------------------------------------------------------------------------------------------------


def publish_method(channel: int, exchange: str, key: str) -> bytes:
    """The frame ``basic.publish`` with ``mandatory``.

    Raises:
        ValueError: A name is longer than 255 bytes.
    """
    names = exchange.encode(), key.encode()
    if max(map(len, names)) > 255:
        raise ValueError(f"{exchange!r}, {key!r}: a name on the broker has at most 255 bytes")
    payload = b"".join((_u32.pack(BASIC_PUBLISH), b"\0\0", *(bytes((len(name),)) + name for name in names), b"\x01"))
    return FRAME.pack(METHOD, channel, len(payload)) + payload + END


def content_frames(channel: int, header: bytes, body: bytes, frame_max: int) -> bytes:
    """The frames of a message's header and body."""
    size, most = len(body), frame_max - OVERHEAD
    head = FRAME.pack(HEADER, channel, len(header)) + header + END
    if not size:
        return head
    if size <= most:
        return b"".join((head, FRAME.pack(BODY, channel, size), body, END))
    parts = [head]
    for begin in range(0, size, most):
        piece = body[begin : begin + most]
        parts += (FRAME.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)


def ack(channel: int, tag: int, multiple: bool) -> bytes:
    """The frame ``basic.ack``."""
    return _settle.pack(METHOD, channel, 13, BASIC_ACK, tag, multiple, 0xCE)


def nack(channel: int, tags: Iterable[int]) -> bytes:
    """The frames ``basic.nack`` with ``requeue``, one each."""
    return b"".join([_settle.pack(METHOD, channel, 13, BASIC_NACK, tag, 2, 0xCE) for tag in tags])


def reject(channel: int, tags: Iterable[int], requeue: bool) -> bytes:
    """The frames ``basic.reject``, one each: unlike ``nack`` they count as a failed delivery on every version."""
    return b"".join([_reject.pack(METHOD, channel, 13, BASIC_REJECT, tag, requeue, 0xCE) for tag in tags])


# -- the transport -----------------------------------------------------------------------------------------------------


class Transport(TransportFactory):
    """Opens the socket, and keeps what the library does not hand out: its reader and its writer.

    Attributes:
        reader: Ours.
        writer: Frames may be written to it between the library's own, since both write whole frames.
    """

    reader: WireReader
    writer: asyncio.StreamWriter

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects.

        Raises:
            AMQPConnectionError: It cannot.
        """
        provider: SSLContextProvider = kwargs.pop("ssl_context_provider")
        context: ssl.SSLContext | None = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = WireReader(loop)
        if url.host is None or url.port is None:
            raise AMQPConnectionError("the URL names no host or no port")
        try:
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader, loop=loop), url.host, url.port, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.reader = reader
        self.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return self.reader, self.writer
