"""Publishing while the broker is away, or takes its time to say what is there."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random

import pytest
from pamqp import commands as amqp

from telex.clock import SystemClock
from telex.engine import Channel, ChannelKind, Outgoing, Stored
from telex.engines.rabbitmq import control, line
from telex.engines.rabbitmq.address import parse
from telex.engines.rabbitmq.names import Names
from telex.engines.rabbitmq.publisher import CHANNEL
from telex.engines.rabbitmq.works import Works
from telex.errors import Disconnected
from telex.message import Message

from .process import WORK, Scene, now, play, posting, until
from .scripted import Frame, Peer

TOPICS = "telex"


def test_what_nobody_waits_for_any_more_is_not_kept_during_an_outage() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        scene.broker.accepting = False
        scene.broker.abort()
        await until(lambda: process.publishing.problem)
        loop = asyncio.get_running_loop()
        outcomes = await process.publisher.store([posting("given up", "", WORK)] * 50, loop.time() + 0.02)
        assert {stored for stored, _ in outcomes} == {Stored.NO}
        assert process.publisher.idle
        scene.broker.accepting = True
        assert await process.publisher.store([posting("in time", "", WORK)], loop.time() + 5) == [(Stored.YES, None)]
        assert scene.broker.published == [(WORK, "in time")]
        await process.connected()

    play(test)


def test_publishes_keep_their_order_while_their_exchange_is_being_asked_for() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        deadline = asyncio.get_running_loop().time() + 5
        publishing: list[asyncio.Future[object]] = []
        names: list[str] = []
        later = 0
        while later < 20:
            names.append(f"m{len(names)}")
            publishing.append(asyncio.ensure_future(process.publisher.store([posting(names[-1], TOPICS)], deadline)))
            await asyncio.sleep(0)
            later += publishing[0].done()
        await asyncio.gather(*publishing)
        assert scene.broker.published == [(TOPICS, name) for name in names]

    play(test)


def test_who_gives_up_soon_is_not_held_up_by_who_waits_longer_for_the_same_exchange() -> None:
    async def test(scene: Scene) -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Exchange.Declare):
                asked.set()
                await go_on.wait()
            return False

        process = await scene.process(wanted=False)
        scene.broker.script = script
        now = asyncio.get_running_loop().time
        patient = asyncio.ensure_future(process.publisher.store([posting("patient", TOPICS)], now() + 10))
        await asked.wait()
        began = now()
        [(stored, _)] = await process.publisher.store([posting("hasty", TOPICS)], began + 0.05)
        assert stored is Stored.NO
        assert now() - began < 2
        go_on.set()
        assert await patient == [(Stored.YES, None)]
        assert scene.broker.published == [(TOPICS, "patient")]

    play(test)


def test_publishing_goes_on_when_the_broker_opens_no_new_channel_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.02)

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        error = amqp.Channel.Close(541, "INTERNAL_ERROR", 0, 0)
        refused: list[Peer] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if refused or not isinstance(frame, amqp.Confirm.Select):
                return False
            refused.append(peer)
            peer.send(channel, error)
            return True

        scene.broker.script = script
        publishing = next(peer for peer in scene.broker.peers if peer._confirms)
        publishing.send(CHANNEL, error)  # Nothing is unconfirmed: nothing waits for the broker.
        await until(lambda: refused)
        deadline = asyncio.get_running_loop().time() + 3
        assert await process.publisher.store([posting("after", "", WORK)], deadline) == [(Stored.YES, None)]

    play(test)


def outgoing(id: str, delay: float = 0) -> Outgoing:
    message = Message(id=id, channel=WORK, body=b"1", time=now())
    due = now() + timedelta(seconds=delay) if delay else None
    return Outgoing(message=message, to=Channel(WORK, ChannelKind.QUEUE), not_before=due)


def test_delayed_messages_are_answered_by_their_deadline_though_nothing_says_where_they_can_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 2.0)

    async def test(scene: Scene) -> None:
        works = Works(parse(scene.broker.url, "test"), Names("", {}), SystemClock(), Random(1))
        loop = asyncio.get_running_loop()
        await works.open(loop.time() + 5)
        scene.broker.accepting = False
        scene.broker.abort()
        await until(lambda: len(works.problems()) == 2)
        began = loop.time()
        batch = [outgoing("late", 3600), outgoing("later", 7200), outgoing("now")]
        outcomes = await works.publish(batch, 0.2)
        assert loop.time() - began < 1.5
        assert [stored for stored, _ in outcomes] == [Stored.NO] * 3
        assert all(isinstance(error, Disconnected) and str(error) for _, error in outcomes)
        await works.close(0.1)

    play(test)


def test_what_is_not_delayed_does_not_wait_for_what_is() -> None:
    async def test(scene: Scene) -> None:
        works = Works(parse(scene.broker.url, "test"), Names("", {}), SystemClock(), Random(1))
        await works.open(asyncio.get_running_loop().time() + 5)
        scene.broker.accepting = False
        assert works._consuming.link is not None
        works._consuming.link.drop("nothing was heard")
        outcomes = await works.publish([outgoing("late", 3600), outgoing("now")], 0.3)
        assert [stored for stored, _ in outcomes] == [Stored.NO, Stored.YES]
        assert [id for _, id in scene.broker.published] == ["now"]
        await works.close(0.1)

    play(test)
