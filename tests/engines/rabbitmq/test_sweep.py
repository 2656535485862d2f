"""What is said of dead letters is what became of them, whatever happens to the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, cast

import pytest
from pamqp import commands as amqp

from telex.engine import Letter, Source, SourceKind, Swept
from telex.engines.rabbitmq import control, line, sweep
from telex.engines.rabbitmq.outbound import Outbound
from telex.engines.rabbitmq.sweep import Sweeper
from telex.errors import Disconnected

from .process import DEAD, WORK, Process, Scene, message, play, until
from .scripted import Frame, Peer

SOURCE = Source(WORK, SourceKind.QUEUE)
Verb = Literal["keep", "redrive", "discard"]
HOLD = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sweep, "QUIET", 0.3)


def sweeper(process: Process) -> Sweeper:
    return Sweeper(
        process.consuming,
        process.control,
        cast(Outbound, None),
        process.publisher,
        lambda source: DEAD,
        lambda source: process._decoder,
    )


def put(scene: Scene, number: int) -> None:
    for each in range(number):
        scene.broker.put(DEAD, message(f"letter {each}"))


def always(verb: Verb) -> Callable[[Letter], Verb]:
    return lambda letter: verb


def test_letters_whose_connection_breaks_before_all_have_come_are_not_decided_about() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        put(scene, 6)
        decided: list[Letter] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if not isinstance(frame, amqp.Basic.Consume) or frame.queue != DEAD:
                return False
            peer.prefetch[channel] = 3
            peer.obey(channel, frame)
            asyncio.get_running_loop().call_later(0.05, peer.abort)
            return True

        def discard(letter: Letter) -> Verb:
            decided.append(letter)
            return "discard"

        scene.broker.script = script
        with pytest.raises(Disconnected):
            await sweeper(process).sweep(SOURCE, discard, None, 6, HOLD)
        assert not decided
        assert len(scene.broker.queues[DEAD]) == 6

    play(test)


def test_letters_whose_connection_breaks_while_they_are_discarded_are_perhaps_gone() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        put(scene, 4)

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Basic.Ack):
                peer.abort()
                return True
            return False

        scene.broker.script = script
        swept = await sweeper(process).sweep(SOURCE, always("discard"), None, 4, HOLD)
        assert swept == Swept(seen=4, moved=0, uncertain=4, after=None, complete=True)
        assert len(scene.broker.queues[DEAD]) == 4

    play(test)


def test_letters_that_are_discarded_are_gone() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        put(scene, 4)
        swept = await sweeper(process).sweep(SOURCE, always("discard"), None, 4, HOLD)
        assert swept == Swept(seen=4, moved=4, uncertain=0, after=None, complete=True)
        assert not scene.broker.queues[DEAD]

    play(test)


def test_who_goes_on_after_the_session_has_expired_is_shown_what_was_not_seen() -> None:
    """What was discarded is not there any more: it is not counted among what is passed over."""

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        put(scene, 5)
        shown: list[str] = []

        def decide(letter: Letter) -> Verb:
            shown.append(letter.message.id)
            return "discard" if len(shown) == 2 else "keep"

        sweeping = sweeper(process)
        after = (await sweeping.sweep(SOURCE, decide, None, 3, 0.01)).after
        await until(lambda: len(scene.broker.queues[DEAD]) == 4)
        await sweeping.sweep(SOURCE, decide, after, 3, HOLD)
        assert shown == [f"letter {each}" for each in range(5)]

    play(test)


def test_closing_waits_for_no_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 5.0)

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        put(scene, 4)
        sweeping = sweeper(process)
        assert (await sweeping.sweep(SOURCE, always("keep"), None, 2, HOLD)).after is not None
        scene.broker.accepting = False
        scene.broker.abort()
        await process.broken()
        async with asyncio.timeout(2):
            await sweeping.close()

    play(test)
