"""Who is blamed for what comes back: a process that died with a suspect, and nothing else that breaks."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import commands as amqp

from telex.delivery.decide import admit
from telex.engine import Decision, Fetched, Settled
from telex.engines.rabbitmq import line, suspects, trials
from telex.policy import Retry

from .process import DEAD, TRIAL, Process, Scene, message, play, until
from .scripted import Frame, Peer, nothing

RETRY = Retry()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(line, "STEADY", 0.0)
    monkeypatch.setattr(suspects, "POLL", 0.05)


def is_tried(fetched: Fetched) -> bool:
    return fetched.trial == 0 and admit(fetched, RETRY, ordered=False) is None


def stores_again(frame: Frame) -> bool:
    return isinstance(frame, amqp.Basic.Publish) and frame.routing_key == TRIAL


async def published(scene: Scene, number: int) -> None:
    await until(lambda: len(scene.broker.published) >= number)


def summon(process: Process) -> None:
    process.wanted = True
    process.suspects.hint()


async def dies(scene: Scene, before: int) -> None:
    """A new process dies of the suspect, which is known to have killed so many before."""
    victim = await scene.process()
    assert (await victim.next()).trial == before
    await victim.kill()


def test_a_connection_that_breaks_while_a_suspect_is_waited_for_ends_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspects, "POLL", 60.0)  # Nobody but who looked first looks again.

    async def test(scene: Scene) -> None:
        process = await scene.process()
        process.suspects.hint()
        await until(lambda: any(consumer.queue == TRIAL for consumer in scene.broker.consumers))
        scene.broker.abort()
        await process.broken()
        await process.connected()
        await asyncio.sleep(2 * suspects.ARRIVAL)
        scene.broker.put(TRIAL, message("suspect", trial=0))
        process.suspects.hint()
        assert is_tried(await process.next())

    play(test)


# -- who dies ----------------------------------------------------------------------------------------------------------


def test_each_process_that_dies_of_a_suspect_counts_until_it_is_dead() -> None:
    async def test(scene: Scene) -> None:
        scene.broker.put(TRIAL, message("poison", trial=0))
        for deaths in range(RETRY.crashes):
            process = await scene.process()
            fetched = await process.next()
            assert fetched.trial == deaths
            assert admit(fetched, RETRY, ordered=False) is None
            await process.kill()
        process = await scene.process()
        fetched = await process.next()
        assert fetched.trial == RETRY.crashes
        verdict = admit(fetched, RETRY, ordered=False)
        assert verdict is not None
        assert verdict.decision is Decision.DEAD
        assert await process.settle(fetched, Decision.DEAD) is Settled.SENT
        await until(lambda: not any(peer.queues for peer in scene.broker.peers))
        assert [letter.properties.message_id for letter in scene.broker.queues[DEAD]] == ["poison"]
        assert not scene.broker.queues[TRIAL]

    play(test)


def test_a_process_that_dies_counts_though_others_live_who_lost_the_suspect_with_their_connection() -> None:
    async def test(scene: Scene) -> None:
        scene.broker.put(TRIAL, message("poison", trial=0))
        survivor = await scene.process()
        for deaths in range(RETRY.crashes + 1):
            summon(survivor)
            assert (await survivor.next()).trial == deaths
            survivor.wanted = False
            scene.broker.holder(TRIAL).abort()
            await survivor.broken()
            await survivor.connected()
            await dies(scene, deaths)

    play(test)


def test_a_process_that_dies_counts_though_one_that_lives_had_put_the_suspect_back_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has just connected tries nobody yet that was blamed, and puts back what looks like what it got."""
    monkeypatch.setattr(trials, "SETTLING_IN", 60.0)

    async def test(scene: Scene) -> None:
        scene.broker.put(TRIAL, message("poison", trial=1))
        cautious = await scene.process(wanted=False)
        for deaths in range(1, RETRY.crashes + 1):
            stored = len(scene.broker.published)
            cautious.trials.connected()
            summon(cautious)
            times = 1 if deaths == 1 else 2  # What came back is stored with its blame first.
            await published(scene, stored + times)
            cautious.wanted = False
            await dies(scene, deaths)

    play(test)


def test_a_process_that_dies_counts_though_one_that_lives_had_released_the_suspect_before() -> None:
    """Who pauses gives back what is on trial."""

    async def test(scene: Scene) -> None:
        scene.broker.put(TRIAL, message("poison", trial=0))
        pausing = await scene.process(wanted=False)
        for deaths in range(RETRY.crashes + 1):
            summon(pausing)
            fetched = await pausing.next()
            assert fetched.trial == deaths
            pausing.wanted = False
            assert await pausing.settle(fetched, Decision.RELEASE) is Settled.SENT
            await dies(scene, deaths)

    play(test)


def test_a_process_that_dies_counts_though_one_that_lives_had_lost_the_suspect_before_it_began() -> None:
    async def test(scene: Scene) -> None:
        unlucky = await scene.process(wanted=False)

        async def breaks(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, amqp.Basic.Cancel):  # The suspect is there, and nothing else may come.
                unlucky.wanted = False
                peer.abort()
            return isinstance(frame, amqp.Basic.Cancel)

        async def rests(peer: Peer, channel: int, frame: Frame) -> bool:
            if stores_again(frame):
                unlucky.wanted = False
            return False

        scene.broker.put(TRIAL, message("poison", trial=0))
        scene.broker.script = breaks
        summon(unlucky)
        await unlucky.broken()
        scene.broker.script = rests
        await unlucky.connected()
        summon(unlucky)
        await published(scene, 1)
        for deaths in range(RETRY.crashes + 1):
            await dies(scene, deaths)

    play(test)


# -- who does not ------------------------------------------------------------------------------------------------------


def test_an_outcome_whose_acknowledgement_is_lost_again_and_again_is_nobodys_death() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process()
        scene.broker.put(TRIAL, message("innocent", trial=0))
        summon(process)
        for _ in range(5):
            fetched = await process.next()
            assert is_tried(fetched)
            peer = scene.broker.holder(TRIAL)
            peer.silent = True
            assert await process.settle(fetched) is Settled.SENT
            await asyncio.sleep(0.01)
            peer.abort()
            await process.broken()
            await process.connected()

    play(test)


def test_a_suspect_that_is_stored_again_and_whose_acknowledgement_is_lost_is_nobodys_death() -> None:
    async def test(scene: Scene) -> None:
        breaks = 0

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            nonlocal breaks
            if not isinstance(frame, amqp.Basic.Ack) or channel not in peer.prefetch or breaks == 3:
                return False
            breaks += 1
            peer.abort()
            return True

        process = await scene.process()
        scene.broker.put(TRIAL, message("innocent", trial=0))
        summon(process)
        await process.next()
        scene.broker.script = script
        scene.broker.holder(TRIAL).abort()
        for _ in range(4):  # Each acknowledgement that was lost left one more copy.
            fetched = await process.next()
            assert breaks == 3
            assert is_tried(fetched)
            await process.settle(fetched)

    play(test)


def test_a_stall_of_the_broker_while_several_processes_summon_is_at_most_one_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(scene: Scene) -> None:
        late: list[tuple[Peer, int, Frame]] = []

        async def stall(peer: Peer, channel: int, frame: Frame) -> bool:
            if peer.prefetch:
                late.append((peer, channel, frame))
            return bool(peer.prefetch)

        def said(kind: type[Frame]) -> int:
            return sum(isinstance(frame, kind) for _, _, frame in late)

        processes = [await scene.process(wanted=False) for _ in range(3)]
        suspect = message("innocent", trial=0)
        scene.broker.put(TRIAL, suspect)
        scene.broker.script = stall
        with monkeypatch.context() as short:
            short.setattr(suspects, "ANSWER", 0.2)
            for process in processes:
                summon(process)
            await until(lambda: said(amqp.Channel.Close) == 3)
        assert said(amqp.Basic.Consume) == 3
        for process in processes:
            process.wanted = False
        scene.broker.script = nothing
        for peer, channel, frame in late:
            peer.obey(channel, frame)
        assert suspect.returns == 3
        summon(processes[0])
        fetched = await processes[0].next()
        assert fetched.trial in (0, 1)
        assert admit(fetched, RETRY, ordered=False) is None

    play(test)


def test_a_process_that_lives_is_asked_before_a_suspect_that_it_lost_is_stored_again_whoever_meets_it() -> None:
    async def test(scene: Scene) -> None:
        roles = [await scene.process(wanted=number == 0) for number in range(3)]
        scene.broker.put(TRIAL, message("innocent", trial=0))
        summon(roles[0])

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if stores_again(frame):
                roles[1].wanted, roles[2].wanted = False, True
            return False

        scene.broker.script = script
        for _ in range(RETRY.crashes + 1):
            loser, judge, third = roles
            assert is_tried(await loser.next())
            loser.wanted = False
            scene.broker.holder(TRIAL).abort()
            await loser.broken()
            stored = len(scene.broker.published)
            summon(judge)
            await published(scene, stored + 1)
            summon(third)
            await loser.connected()
            roles = [third, loser, judge]

    play(test)


# -- what goes on ------------------------------------------------------------------------------------------------------


def test_a_summon_whose_time_ends_as_the_answer_comes_leaves_its_court_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries are taken out of the stream before the client library has read that there is a consumer."""

    async def test(scene: Scene) -> None:
        answered: list[Peer] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if not isinstance(frame, amqp.Basic.Consume) or answered:
                return False
            answered.append(peer)
            peer.consume(channel, "late", TRIAL)
            return True

        process = await scene.process()
        scene.broker.script = script
        monkeypatch.setattr(suspects, "ANSWER", 0.1)
        scene.broker.put(TRIAL, message("innocent", trial=0))
        summon(process)
        await until(lambda: answered)
        assert is_tried(await process.next())

    play(test)


def test_a_channel_that_ends_right_behind_a_suspect_leaves_its_court_open() -> None:
    async def test(scene: Scene) -> None:
        ended: list[Peer] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if not isinstance(frame, amqp.Basic.Consume) or ended:
                return False
            ended.append(peer)
            peer.send(channel, amqp.Basic.ConsumeOk("short"))
            peer.consume(channel, "short", TRIAL)
            peer.send(channel, amqp.Channel.Close(541, "INTERNAL_ERROR", 0, 0))
            return True

        process = await scene.process()
        scene.broker.script = script
        scene.broker.put(TRIAL, message("innocent", trial=0))
        summon(process)
        assert is_tried(await process.next())

    play(test)


def test_a_suspect_that_cannot_be_stored_again_is_tried_once_a_second() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        scene.broker.full.add(TRIAL)
        suspect = message("lost once", trial=0, returns=1)
        scene.broker.put(TRIAL, suspect)
        began = asyncio.get_running_loop().time()
        summon(process)
        await until(lambda: suspect.returns == 3)
        assert asyncio.get_running_loop().time() - began > 0.9
        scene.broker.full.clear()
        assert (await process.next()).trial == 1

    play(test)


# -- a source that stops -----------------------------------------------------------------------------------------------


def test_who_is_dismissed_while_the_source_stops_is_stored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SETTLING_IN", 60.0)

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        process.trials.connected()  # Who was blamed is dismissed for now.
        stopping: list[asyncio.Future[None]] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if stores_again(frame) and not stopping:
                stopping.append(asyncio.ensure_future(process.reader.stop()))
                process.wanted = False
                await asyncio.sleep(0.2)  # The broker takes its time to confirm.
            return False

        scene.broker.script = script
        scene.broker.put(TRIAL, message("suspect", trial=1))
        summon(process)
        await until(lambda: stopping)
        await stopping[0]
        await asyncio.sleep(0.1)
        assert scene.broker.published == [(TRIAL, "suspect")]
        assert len(scene.broker.queues[TRIAL]) == 1

    play(test)


def test_who_is_dismissed_because_the_source_stops_is_not_handed_out_meanwhile() -> None:
    async def test(scene: Scene) -> None:
        process = await scene.process()
        scene.broker.put(TRIAL, message("suspect", trial=0))
        storing, confirm = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if stores_again(frame):
                storing.set()
                await confirm.wait()
            return False

        scene.broker.script = script
        process.trials.leave(process.suspects)  # The test chooses.
        process.suspects.hint()
        assert await process.suspects.summon()
        stopping = asyncio.ensure_future(process.reader.stop())
        await storing.wait()
        process.suspects.begin()
        confirm.set()
        await stopping
        assert process.given == []
        assert scene.broker.published == [(TRIAL, "suspect")]

    play(test)
