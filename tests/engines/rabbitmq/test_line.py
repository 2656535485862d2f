"""A connection that comes back, whatever happens to it while the process sets itself up on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from pamqp import commands as amqp

from telex.engine import Stored
from telex.engines.rabbitmq import control as controls
from telex.engines.rabbitmq import line as lines
from telex.engines.rabbitmq import link as links
from telex.engines.rabbitmq import members as memberships
from telex.engines.rabbitmq.address import Address, parse
from telex.engines.rabbitmq.line import Line
from telex.engines.rabbitmq.link import Link
from telex.engines.rabbitmq.members import Members
from telex.errors import Disconnected

from .process import SOME, WORK, Process, Scene, message, play, posting, until
from .scripted import Frame, Peer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(lines, "SET_UP", 0.3, raising=False)
    monkeypatch.setattr(links, "CLOSE", 0.1)


class HalfOpen:
    """The first connection on which this is said falls silent.

    Args:
        kind: What.
        noticed: Called then.
    """

    def __init__(self, kind: type[Frame], noticed: Callable[[], object] = lambda: None) -> None:
        self._kind = kind
        self._noticed = noticed
        self.silent: list[Peer] = []

    async def __call__(self, peer: Peer, channel: int, frame: Frame) -> bool:
        if self.silent or not isinstance(frame, self._kind):
            return False
        self.silent.append(peer)
        peer.silent = True
        self._noticed()
        return True


def drop(line: Line) -> None:
    assert line.link is not None
    line.link.drop("nothing was heard")


async def consuming(scene: Scene) -> Process:
    process = await scene.process(wanted=False)
    process.reader.asked(SOME)
    await until(lambda: scene.broker.consumers)
    return process


def test_a_connection_for_consuming_that_goes_half_open_while_it_is_set_up_is_followed_by_another() -> None:
    async def test(scene: Scene) -> None:
        process = await consuming(scene)
        script = HalfOpen(amqp.Basic.Consume)
        scene.broker.script = script
        scene.broker.consumers[0].peer.abort()
        await until(lambda: script.silent)
        await until(lambda: scene.broker.consumers)
        scene.broker.put(WORK, message("m"))
        assert (await process.next()).message.id == "m"

    play(test)


def test_a_connection_for_publishing_that_goes_half_open_while_it_is_set_up_is_followed_by_another() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        script = HalfOpen(amqp.Confirm.Select)
        scene.broker.script = script
        scene.broker.abort()
        await until(lambda: script.silent)
        deadline = asyncio.get_running_loop().time() + 5
        assert await process.publisher.store([posting("m", "", WORK)], deadline) == [(Stored.YES, None)]
        await process.connected()

    play(test)


class Fragile:
    """A role that the client library ends in the middle: it cancels who waits for it.

    Args:
        time: When that happens, 1 is the first time.
    """

    def __init__(self, time: int) -> None:
        self._time = time
        self.ups = 0

    async def up(self, link: Link) -> None:
        self.ups += 1
        if self.ups == self._time:
            raise asyncio.CancelledError

    def down(self) -> None: ...


@pytest.mark.parametrize("time", [1, 2])
def test_what_the_client_library_cancels_while_a_connection_is_set_up_ends_no_more_than_that(time: int) -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        fragile = Fragile(time)
        await process.consuming.add(fragile)
        scene.broker.abort()
        await until(lambda: fragile.ups == time + 1)
        await process.connected()

    play(test)


class Curious:
    """A role that begins with a question."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.answered = 0

    async def up(self, link: Link) -> None:
        await self._process.control.depth(WORK)
        self.answered += 1

    def down(self) -> None: ...


def test_what_a_connection_begins_with_is_answered_though_others_wait_for_it_with_a_question() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        curious = Curious(process)
        await process.consuming.add(curious)
        scene.broker.abort()
        await process.broken()
        waiting = [asyncio.ensure_future(process.control.depth(WORK)) for _ in range(3)]
        await until(lambda: curious.answered == 2, 2)
        await asyncio.wait(waiting, timeout=2)
        assert all(one.done() for one in waiting)

    play(test)


def test_a_question_that_costs_the_connection_ends_though_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "TIMEOUT", 0.3)
    monkeypatch.setattr(lines, "LONGEST_PAUSE", 0.05)

    async def script(peer: Peer, channel: int, frame: Frame) -> bool:
        if not isinstance(frame, amqp.Queue.Declare) or frame.queue != "ill":
            return False
        peer.send(0, amqp.Connection.Close(541, "INTERNAL_ERROR", 50, 10))
        return True

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        await process.consuming.add(Curious(process))
        scene.broker.script = script
        asking = asyncio.ensure_future(process.control.queue("ill", {}))
        await asyncio.wait([asking], timeout=3)
        assert asking.done()
        assert isinstance(asking.exception(), Disconnected)

    play(test)


def test_a_connection_on_which_the_first_set_up_fails_is_followed_by_another() -> None:
    async def test(scene: Scene) -> None:
        refused: list[Peer] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if refused or not isinstance(frame, amqp.Confirm.Select):
                return False
            refused.append(peer)
            peer.send(channel, amqp.Channel.Close(541, "INTERNAL_ERROR", 0, 0))
            return True

        scene.broker.script = script
        process = await scene.process(wanted=False)
        deadline = asyncio.get_running_loop().time() + 5
        assert await process.publisher.store([posting("m", "", WORK)], deadline) == [(Stored.YES, None)]

    play(test)


def test_whatever_goes_wrong_while_it_connects_again_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library has more ways to fail than it says."""

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        errors: list[BaseException] = [StopAsyncIteration(), asyncio.CancelledError(), Exception()]

        async def connect(address: Address, timeout: float) -> Link:
            if errors:
                raise errors.pop()
            return await links.connect(address, timeout)

        monkeypatch.setattr(lines, "connect", connect)
        scene.broker.abort()
        await until(lambda: not errors)
        await process.connected()

    play(test)


def test_a_connection_that_is_back_hurries_the_others_before_it_is_set_up() -> None:
    """What begins on it may need them."""

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        process.consuming.others = [process.publishing]

        class Needy(Curious):
            async def up(self, link: Link) -> None:
                await process.publishing.up(asyncio.get_running_loop().time() + 10)
                self.answered += 1

        needy = Needy(process)
        await process.consuming.add(needy)
        process.publishing._rest = lambda pause: Line._rest(process.publishing, 60.0)  # type: ignore[method-assign]
        scene.broker.abort()
        await until(lambda: needy.answered == 2)

    play(test)


def test_who_begins_to_announce_while_the_connection_breaks_announces_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memberships, "EVERY", 0.05)

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        broken: list[Peer] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Queue.Bind):
                peer.send(channel, amqp.Queue.BindOk())
                return True
            if broken or not isinstance(frame, amqp.Basic.Consume):
                return False
            broken.append(peer)
            peer.abort()
            return True

        async def nobody() -> dict[str, int]:
            return {}

        members = Members(
            "members",
            "me",
            process.control,
            process.publisher,
            process._decoder,
            nobody,
            process.spared.lost,
            time.time,
        )
        scene.broker.queues["me"] = deque()
        await process.consuming.add(members)
        scene.broker.script = script
        with contextlib.suppress(Disconnected):
            await members.start()
        said = len(scene.broker.published)
        await until(lambda: len(scene.broker.published) > said + 2)
        await members.close()

    play(test)


@pytest.mark.parametrize("question", [amqp.Basic.Qos, amqp.Basic.Cancel])
def test_stopping_returns_though_the_connection_breaks_in_the_middle(question: type[Frame]) -> None:
    async def test(scene: Scene) -> None:
        process = await consuming(scene)
        scene.broker.script = HalfOpen(question, lambda: drop(process.consuming))
        stopping = asyncio.ensure_future(process.reader.stop())
        await asyncio.wait([stopping], timeout=5)
        assert stopping.done()
        assert not stopping.cancelled()
        assert stopping.exception() is None
        await process.connected()

    play(test)


def test_closing_returns_whenever_it_comes_while_the_line_connects_again() -> None:
    async def test(scene: Scene) -> None:
        connecting = asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Connection.Open):
                connecting.set()
            return False

        loop = asyncio.get_running_loop()
        for turns in range(10):
            line = Line("consuming", parse(scene.broker.url, "test"), Random(turns))
            await line.open(loop.time() + 5)
            connecting.clear()
            scene.broker.script = script
            scene.broker.abort()
            await connecting.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            closing = asyncio.ensure_future(line.close())
            await asyncio.wait([closing], timeout=2)
            returned = closing.done()
            await line.close()
            assert returned, f"{turns} turns after the broker was asked to open the connection"

    play(test)
