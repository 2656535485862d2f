"""What reads a source stays what the broker knows of it, whenever the broker or the application ends it."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import commands as amqp

from telex.engine import Settled

from .process import SOME, WORK, Scene, message, play, until
from .scripted import Frame, Peer


def test_a_consumer_that_ends_right_behind_consume_ok_is_opened_again() -> None:
    async def test(scene: Scene) -> None:
        ended: list[int] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if not isinstance(frame, amqp.Basic.Consume) or frame.queue != WORK or ended:
                return False
            ended.append(channel)
            peer.send(channel, amqp.Basic.ConsumeOk("early"), amqp.Basic.Cancel("early", True))
            return True

        process = await scene.process(wanted=False)
        scene.broker.script = script
        process.reader.asked(SOME)
        await until(lambda: ended)
        scene.broker.put(WORK, message("m"))
        assert (await process.next()).message.id == "m"

    play(test)


@pytest.mark.parametrize("closed", [False, True])
def test_who_stops_while_a_channel_is_being_opened_leaves_no_consumer_behind(closed: bool) -> None:
    async def test(scene: Scene) -> None:
        opening, go_on = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Channel.Open) and not opening.is_set():
                opening.set()
                await go_on.wait()
            return False

        process = await scene.process(wanted=False)

        async def leave() -> None:
            await process.reader.stop()
            if closed:
                await process.reader.close()

        scene.broker.script = script
        process.reader.asked(SOME)
        await opening.wait()
        leaving = asyncio.ensure_future(leave())
        await asyncio.sleep(0.02)
        go_on.set()
        await leaving
        await asyncio.sleep(0.1)
        scene.broker.put(WORK, message("m"))
        await asyncio.sleep(0.02)
        assert (scene.broker.consumers, process.given, len(scene.broker.queues[WORK])) == ([], [], 1)

    play(test)


def test_who_only_looks_and_is_cancelled_in_the_middle_costs_nobody_what_is_in_hand() -> None:
    """The client library closes a channel whose question is cancelled."""

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        process.reader.asked(SOME)
        scene.broker.put(WORK, message("m"))
        fetched = await process.next()
        asked = asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Basic.Qos):
                asked.set()
                await asyncio.sleep(0.05)
            return False

        scene.broker.script = script
        looking = asyncio.ensure_future(process.reader.fence())
        await asked.wait()
        looking.cancel()
        await asyncio.wait([looking])
        await asyncio.sleep(0.1)
        assert await process.settle(fetched) is Settled.SENT

    play(test)
