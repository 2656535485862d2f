"""The wire: what the library writes we read, what we write the library reads, however the bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pamqp.frame
import pytest
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from telex.engines.rabbitmq import wire


class Heard:
    """Writes down what comes."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def delivered(self, consumer: bytes, tag: int, exchange: bytes, key: bytes, header: bytes, body: bytes) -> None:
        self.said.append(("delivered", consumer, tag, exchange, key, body))

    def returned(self, code: int, exchange: bytes, key: bytes, header: bytes) -> None:
        self.said.append(("returned", code, exchange, key))

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        self.said.append(("confirmed", tag, multiple, stored))

    def ended(self) -> None:
        self.said.append(("ended",))


def frames(channel: int, *values: object) -> bytes:
    return b"".join(pamqp.frame.marshal(value, channel) for value in values)  # type: ignore[arg-type]


def message(method: object, body: bytes, piece: int = 1000) -> Iterable[object]:
    yield method
    yield ContentHeader(body_size=len(body), properties=commands.Basic.Properties(message_id="m1"))
    for begin in range(0, len(body), piece):
        yield ContentBody(body[begin : begin + piece])


STREAM = (
    frames(0, Heartbeat())
    + frames(1, *message(commands.Basic.Deliver("tag", 7, False, "ex", "key"), b"x" * 2500))
    + frames(2, commands.Queue.DeclareOk("q", 3, 1))
    + frames(1, *message(commands.Basic.Deliver("tag", 8, True, "", "key"), b""))
    + frames(1, *message(commands.Basic.Return(312, "NO_ROUTE", "ex", "nowhere"), b"back"))
    + frames(1, commands.Basic.Ack(9, True), commands.Basic.Nack(10, False, False))
    + frames(1, commands.Basic.CancelOk("tag"))
)
WANTED = [
    ("delivered", b"tag", 7, b"ex", b"key", b"x" * 2500),
    ("delivered", b"tag", 8, b"", b"key", b""),
    ("returned", 312, b"ex", b"nowhere"),
    ("confirmed", 9, True, True),
    ("confirmed", 10, False, False),
]
PASSED = (
    frames(0, Heartbeat()) + frames(2, commands.Queue.DeclareOk("q", 3, 1)) + frames(1, commands.Basic.CancelOk("tag"))
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 100, 1001, 100_000])
def test_frames_are_taken_out_of_the_stream_however_it_is_cut(size: int) -> None:
    async def run() -> None:
        reader, heard = wire.WireReader(asyncio.get_running_loop()), Heard()
        reader.sinks[1] = heard
        for begin in range(0, len(STREAM), size):
            reader.feed_data(STREAM[begin : begin + size])
        assert [said for said in heard.said if said != ("ended",)] == WANTED
        assert await reader.readexactly(len(PASSED)) == PASSED
        assert heard.said[-1] == ("ended",)

    asyncio.run(run())


def test_without_a_sink_nothing_is_taken() -> None:
    async def run() -> None:
        reader = wire.WireReader(asyncio.get_running_loop())
        reader.feed_data(STREAM)
        assert await reader.readexactly(len(STREAM)) == STREAM

    asyncio.run(run())


def test_what_is_no_amqp_goes_to_the_library_as_it_is() -> None:
    async def run() -> None:
        reader = wire.WireReader(asyncio.get_running_loop())
        reader.sinks[1] = Heard()
        reader.feed_data(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert await reader.readexactly(8) == b"HTTP/1.1"

    asyncio.run(run())


def test_why_the_broker_left_is_heard() -> None:
    async def run() -> None:
        reader = wire.WireReader(asyncio.get_running_loop())
        left: list[object] = []
        reader.on_end = lambda: left.append(reader.goodbye)
        reader.feed_data(frames(0, commands.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)))
        assert left == [(320, "CONNECTION_FORCED - shutdown")]

    asyncio.run(run())


def unmarshal(data: bytes) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    while data:
        used, channel, frame = pamqp.frame.unmarshal(data)
        found.append((channel, frame))
        data = data[used:]
    return found


def test_a_publish_is_what_the_library_would_write() -> None:
    method = wire.publish_method(5, "telex", "orders.placed")
    assert method == frames(5, commands.Basic.Publish(exchange="telex", routing_key="orders.placed", mandatory=True))
    header = ContentHeader(body_size=20, properties=commands.Basic.Properties(message_id="m")).marshal()
    parts = unmarshal(wire.content_frames(5, header, b"0123456789" * 2, 16))
    assert [channel for channel, _ in parts] == [5] * 4
    assert b"".join(frame.value for _, frame in parts[1:]) == b"0123456789" * 2  # type: ignore[attr-defined]


def test_acknowledgements_are_what_the_library_would_write() -> None:
    assert wire.ack(3, 70_000, True) == frames(3, commands.Basic.Ack(70_000, True))
    assert wire.nack(3, [1, 2]) == frames(3, *(commands.Basic.Nack(tag, False, True) for tag in (1, 2)))
    assert wire.reject(3, [9], True) == frames(3, commands.Basic.Reject(9, True))


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="255"):
        wire.publish_method(1, "", "k" * 256)


def test_the_end_is_not_there_before_what_was_said_is_read() -> None:
    """With TLS both come together, and the library would end an iteration where the connection has broken."""

    async def main() -> None:
        reader = wire.WireReader(asyncio.get_running_loop())
        reader.feed_eof()
        assert not reader.at_eof()
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)

    asyncio.run(main())
