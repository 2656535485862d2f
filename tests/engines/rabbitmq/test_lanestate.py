"""What is known about a lane is written down one state at a time, and never by who has lost the lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest
from pamqp import commands as amqp
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from telex.engine import Stored
from telex.engines.rabbitmq.control import Control
from telex.engines.rabbitmq.lanestate import LaneState, StateStore, Waits
from telex.engines.rabbitmq.outbound import Outbound
from telex.engines.rabbitmq.publisher import Outcome, Posting, Publisher

from ...core.kit import run, turns
from .process import Scene, play
from .scripted import Frame, Peer

BOTH = b'{"waiting":{"m1":[1,0,""],"m2":[1,0,""]},"releases":{},"alone":null}'


class Written:
    """Stands for `Outbound` and `Publisher`: what is to be written is the state's JSON, and waits for an answer."""

    is_up = True

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._answers: list[asyncio.Future[Stored]] = []

    def state(self, queue: str, id: str, header: bytes, body: bytes) -> Posting:
        return Posting("", queue, id, body, once=True)

    async def store(self, postings: Sequence[Posting], deadline: float) -> Sequence[Outcome]:
        self.bodies += [posting.content for posting in postings]
        self._answers.append(asyncio.get_running_loop().create_future())
        return [(await self._answers[-1], None)]

    def answer(self, stored: Stored) -> None:
        self._answers[-1].set_result(stored)


class Known:
    """The state of a lane, as it is now."""

    def __init__(self) -> None:
        self.state = LaneState()

    def fails(self, id: str) -> None:
        self.state.waiting[id] = Waits(1, 0)

    def is_lost(self) -> None:
        self.state = LaneState()


Test = Callable[[StateStore, Written, Known], Coroutine[Any, Any, None]]


def use(test: Test) -> None:
    async def main() -> None:
        written, known = Written(), Known()
        outbound, publisher = cast(Outbound, written), cast(Publisher, written)
        await test(StateStore("s:3", cast(Control, None), outbound, publisher, lambda: known.state), written, known)

    run(main())


def test_saves_that_wait_for_another_are_written_together() -> None:
    async def test(store: StateStore, written: Written, known: Known) -> None:
        saves = []
        for id in ("m1", "m2"):
            known.fails(id)
            saves += [asyncio.ensure_future(store.save()) for _ in range(2)]
            await turns()
        written.answer(Stored.NO)
        await turns()
        assert len(written.bodies) == 2
        assert written.bodies[1] == BOTH
        written.answer(Stored.YES)
        assert await asyncio.gather(*saves) == [False, True, True, True]

    use(test)


def test_a_save_that_waits_while_its_lane_is_lost_writes_nothing() -> None:
    """What it would write replaces what the lane's next owner needs."""

    async def test(store: StateStore, written: Written, known: Known) -> None:
        known.fails("m1")
        first = asyncio.ensure_future(store.save())
        await turns()
        known.fails("m2")
        second = asyncio.ensure_future(store.save())
        await turns()
        written.answer(Stored.YES)
        known.is_lost()
        await turns()
        assert len(written.bodies) == 1
        assert (await first, await second) == (True, False)

    use(test)


def test_a_save_while_nothing_can_be_published_says_so_at_once_and_writes_nothing() -> None:
    """It would be written when the lane may be another's."""

    async def test(store: StateStore, written: Written, known: Known) -> None:
        written.is_up = False
        known.fails("m1")
        saving = asyncio.ensure_future(store.save())
        await turns()
        assert written.bodies == []
        assert saving.done()
        assert not saving.result()
        written.is_up = True
        saving = asyncio.ensure_future(store.save())
        await turns()
        written.answer(Stored.YES)
        assert await saving

    use(test)


GOT = bytes.fromhex("003c0047")
"""How the frame of a `GetOk` begins."""


@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_a_state_whose_reading_is_given_up_as_it_comes_is_put_back(late: int) -> None:
    """Whoever owns the lane next would find none, until this connection ends."""

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        await process.control.depth("work")
        put_back, came = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Basic.Get):
                header = ContentHeader(body_size=2, properties=amqp.Basic.Properties())
                peer.send(channel, amqp.Basic.GetOk(7, False, "", "s", 0), header, ContentBody(b"{}"))
            elif isinstance(frame, amqp.Basic.Nack | amqp.Channel.Close):
                put_back.set()
                return isinstance(frame, amqp.Basic.Nack)
            return isinstance(frame, amqp.Basic.Get)

        scene.broker.script = script
        assert process.consuming.link is not None
        reader = process.consuming.link._transport.reader
        feed = reader.feed_data

        def fed(data: bytes) -> None:
            feed(data)
            if GOT in bytes(data):
                came.set()

        reader.feed_data = fed  # type: ignore[method-assign]
        store = StateStore("s", process.control, cast(Outbound, None), process.publisher, LaneState)
        loading = asyncio.ensure_future(store.load())
        await came.wait()
        await turns(late)
        loading.cancel()
        async with asyncio.timeout(2):
            await put_back.wait()

    play(test)
