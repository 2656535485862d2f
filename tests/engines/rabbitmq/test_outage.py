"""Publishing while the broker is away, or takes its time to say what is there."""

from __future__ import annotations

import asyncio

from pamqp import commands as amqp

from telex.engine import Stored

from .process import WORK, Scene, play, posting, until
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
