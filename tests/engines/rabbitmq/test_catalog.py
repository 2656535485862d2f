"""What exists is read on, whatever happens to the connection, the consumer or the stream."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from pamqp import commands as amqp

from telex.engine import ChannelKind
from telex.engines.rabbitmq import catalog as catalogs
from telex.engines.rabbitmq import line, stream
from telex.engines.rabbitmq.catalog import Catalog, ChannelRecord, Record
from telex.engines.rabbitmq.names import Names
from telex.errors import Disconnected

from .process import Scene, play
from .scripted import Frame, Peer
from .streams import Stream

NAMES = Names("", {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(stream, "EMPTY", 0.05)


def queue(name: str) -> bytes:
    return msgspec.json.encode(Record(channel=ChannelRecord(name, ChannelKind.QUEUE)))


async def reads(scene: Scene, stream: Stream) -> Catalog:
    scene.broker.script = stream
    process = await scene.process(wanted=False)
    catalog = Catalog(NAMES, process.consuming, process.control, process.publisher, "token")
    await process.consuming.add(catalog)
    return catalog


@pytest.mark.parametrize("kind", [amqp.Channel.Open, amqp.Basic.Qos, amqp.Basic.Consume])
def test_a_connection_that_breaks_while_it_is_read_cancels_nobody(kind: type[Frame]) -> None:
    """The client library ends what it was asked on a connection that is lost as if it had been cancelled."""

    async def test(scene: Scene) -> None:
        kept = Stream(NAMES.catalog, queue("one"))
        catalog = await reads(scene, kept)
        assert await catalog._control.depth(NAMES.catalog) is not None
        broken: list[Peer] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, kind) and not broken:
                broken.append(peer)
                peer.abort()
                return True
            return await kept(peer, channel, frame)

        scene.broker.script = script
        await catalog.sync()
        assert broken
        assert [*catalog.channels] == ["one"]

    play(test)


def test_who_gives_up_reading_is_cancelled() -> None:
    async def test(scene: Scene) -> None:
        kept = Stream(NAMES.catalog, queue("one"))
        catalog = await reads(scene, kept)
        asked = asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Basic.Consume):
                asked.set()
                return True
            return await kept(peer, channel, frame)

        scene.broker.script = script
        syncing = asyncio.ensure_future(catalog.sync())
        await asked.wait()
        syncing.cancel()
        await asyncio.wait([syncing])
        assert syncing.cancelled()

    play(test)


def test_a_consumer_that_the_broker_ends_is_followed_by_another() -> None:
    async def test(scene: Scene) -> None:
        kept = Stream(NAMES.catalog, queue("one"))
        catalog = await reads(scene, kept)
        await catalog.sync()
        kept.end_consumers()
        kept.records.append(queue("two"))
        await catalog.sync()
        assert [*catalog.channels] == ["one", "two"]

    play(test)


def test_a_stream_that_is_deleted_and_made_again_is_read_from_its_start() -> None:
    async def test(scene: Scene) -> None:
        kept = Stream(NAMES.catalog, queue("one"))
        catalog = await reads(scene, kept)
        await catalog.sync()
        kept.end_consumers()
        kept.is_there = False
        await catalog.sync()
        assert not catalog.channels
        kept.is_there, kept.records = True, [queue("two"), queue("three")]
        await catalog.sync()
        assert [*catalog.channels] == ["two", "three"]

    play(test)


def test_a_stream_that_is_made_again_meanwhile_is_read_from_its_start() -> None:
    """It may be as long as the old one, or longer: its length says nothing."""

    async def test(scene: Scene) -> None:
        kept = Stream(NAMES.catalog, queue("one"))
        catalog = await reads(scene, kept)
        await catalog.sync()
        kept.end_consumers()
        kept.records = [queue("two"), queue("three")]
        await catalog.sync()
        assert [*catalog.channels] == ["two", "three"]

    play(test)


def test_a_consumer_that_gives_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "PATIENCE", 0.2)

    async def test(scene: Scene) -> None:
        kept = Stream(NAMES.catalog, queue("one"))
        catalog = await reads(scene, kept)
        await catalog.sync()
        kept.records.append(queue("two"))  # The scripted stream tells only those who begin to read.
        with pytest.raises(Disconnected):
            await catalog.sync()
        await catalog.sync()
        assert [*catalog.channels] == ["one", "two"]
        assert len(kept.readings) == 2

    play(test)
