"""An ordered source of one process, when connections break and lanes change hands at the wrong moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from telex import Queue, Reject, Retry
from telex.engine import Decision, Settled, Settlement
from telex.engines.rabbitmq import consumer as consumers
from telex.engines.rabbitmq.intake import Intake
from telex.engines.rabbitmq.link import Link
from telex.engines.rabbitmq.wire import Sink

from ...core.kit import run, turns, until
from .rig import Broker, Copy, Other, Process, make_app

JOBS = Queue("jobs", str, ordered=True, lanes=1)
SOON = Retry(attempts=9, delay=0.02, jitter=0)
BEHIND = [f"m{number}" for number in range(2, 21)]


@pytest.mark.parametrize("write", ["fails", "takes long"])
def test_a_retry_that_is_lost_with_its_connection_keeps_the_order(broker: Broker, write: str) -> None:
    """Its message comes again, as do those behind it, before the core hears that the retry is lost."""
    app, rig = make_app()
    seen: list[str] = []
    broker.plan("m1")
    broker.plan(Copy("m1", returns=1), *BEHIND)

    @app.receive(JOBS, concurrency=1, retry=SOON)
    async def work(job: str) -> None:
        seen.append(job)
        if len(seen) == 1:
            rig.process.store.stored = write != "fails"
            if write == "takes long":
                rig.process.store.gate.clear()
            raise ValueError

    async def main() -> None:
        async with app.running():
            await until(lambda: seen and rig.process.store.saved)
            await turns()
            await rig.process.flap()
            await turns(100)
            rig.process.store.stored = True
            rig.process.store.gate.set()
            await until(lambda: len(seen) == 21)

    run(main())
    assert seen == ["m1", "m1", *BEHIND]


def test_a_retry_that_is_stored_and_answered_after_its_connection_was_lost_keeps_the_order(broker: Broker) -> None:
    """It is settled together with a dead letter, which takes longer."""
    app, rig = make_app()
    seen: list[str] = []
    both = asyncio.Event()
    broker.plan("m1", Copy("z1", "z"))
    broker.plan("m1", Copy("z1", "z"), *BEHIND)

    @app.receive(JOBS, concurrency=2, retry=SOON)
    async def work(job: str) -> None:
        seen.append(job)
        if len(seen) > 2:
            return
        if len(seen) == 2:
            rig.process.copies.gate.clear()
            both.set()
        await both.wait()
        raise Reject("bad") if job == "z1" else ValueError

    async def main() -> None:
        async with app.running():
            await until(lambda: len(seen) == 2 and rig.process.store.saved)
            await rig.process.flap()
            await until(lambda: rig.process.lane.handed_out >= 2)
            await turns()
            rig.process.copies.gate.set()
            await until(lambda: len(seen) == 23)

    run(main())
    assert sorted(seen[:2]) == ["m1", "z1"]
    assert [job for job in seen[2:] if job != "z1"] == ["m1", *BEHIND]


def use(test: Callable[[Process], Awaitable[None]]) -> None:
    async def main() -> None:
        process = Process(lambda leases: None)
        await process.begin()
        await test(process)
        await process.consumer.close()

    run(main())


def test_a_source_that_stops_while_its_lane_is_being_left_passes_it_on_after_the_last_lease(broker: Broker) -> None:
    async def test(process: Process) -> None:
        (fetched,) = await process.consumer.fetch(10, 2)
        process.peers.become("other")
        await process.consumer.stop()
        await turns()
        assert process.lane.is_open
        assert await process.consumer.settle([Settlement(fetched.lease, Decision.ACCEPT)]) == [Settled.SENT]
        await until(lambda: not process.lane.is_open)
        assert broker.channels[-1].acked == ["m1"]

    broker.plan("m1")
    use(test)


@pytest.mark.parametrize("comes", ["long after", "right after"])
def test_a_source_that_nobody_fetches_from_holds_up_no_trial_of_another(
    broker: Broker, comes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its suspect comes after the last fetch: it is not handed out, or given back when nobody fetches it."""

    async def test(process: Process) -> None:
        assert await process.consumer.fetch(10, 0.01) == []
        if comes == "long after":
            await asyncio.sleep(0.06)
        await process.flap()
        other = Other()
        await turns()
        process.trials.offer(other)
        await until(lambda: other.begun)
        if comes == "long after":
            assert process.store.saved == [], "it was not said to be in hand"
        process.trials.end(other)
        (fetched,) = await process.consumer.fetch(10, 2)
        assert (fetched.message.id, fetched.trial) == ("m1", 0)

    monkeypatch.setattr(consumers, "WANTED", 0.05)
    broker.plan()
    broker.plan(Copy("m1", returns=1), "m2")
    use(test)


def test_a_suspect_whose_turn_comes_when_nobody_fetches_any_more_is_not_handed_out(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next has its turn, and who dies now did not die of the suspect."""

    async def test(process: Process) -> None:
        first, next = Other(), Other()
        process.trials.offer(first)
        fetching = asyncio.ensure_future(process.consumer.fetch(10, 0.02))
        await process.flap()
        assert await fetching == []
        await asyncio.sleep(0.06)
        process.trials.end(first)
        process.trials.offer(next)
        await until(lambda: process.store.saved)
        await turns()
        assert process.lane.handed_out == 0
        await until(lambda: next.begun)
        in_hand, spared = (state.alone for state in process.store.saved)
        assert in_hand is not None
        assert spared is not None
        assert (spared.mark, spared.trial, spared.losses) == ("m1", 0, in_hand.losses + 1), "the next loss is no death"
        process.trials.end(next)
        (fetched,) = await process.consumer.fetch(10, 2)
        assert (fetched.message.id, fetched.trial) == ("m1", 0)

    monkeypatch.setattr(consumers, "WANTED", 0.05)
    broker.plan()
    broker.plan(Copy("m1", returns=1), "m2")
    use(test)


def test_leaving_a_lane_ends_with_the_channel_it_was_about(broker: Broker) -> None:
    """The connection is lost and back while the lane's state is written for the next in line."""

    async def test(process: Process) -> None:
        await until(lambda: process.lane.in_hand)
        await turns()
        process.store.gate.clear()
        process.peers.become("other")
        await until(lambda: process.store.saved)
        process.peers.become("me")
        await process.flap()
        process.store.gate.set()
        fetched = await process.consumer.fetch(10, 2)
        await turns()
        assert [one.message.id for one in fetched] == ["m1", "m2"]
        accepted = [Settlement(one.lease, Decision.ACCEPT) for one in fetched]
        assert await process.consumer.settle(accepted) == [Settled.SENT] * 2
        assert [channel.is_over for channel in broker.channels] == [True, False]
        assert broker.channels[-1].acked == ["m1", "m2"]
        broker.channels[-1].deliver([Copy("m3")])
        assert [one.message.id for one in await process.consumer.fetch(10, 2)] == ["m3"]

    broker.plan("m1", "m2")
    broker.plan("m1", "m2")
    use(test)


class Consuming:
    """Stands for a channel of the client library."""

    number = 7

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.on_consumer_cancel_callbacks: set[object] = set()
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.consumes = False
        self.is_closed = False

    async def basic_qos(self, prefetch_count: int, timeout: float) -> None:
        await asyncio.sleep(0)

    async def basic_consume(
        self, queue: str, never: object, arguments: Mapping[str, object], timeout: float
    ) -> SimpleNamespace:
        await asyncio.sleep(0)
        self.consumes = True
        return SimpleNamespace(consumer_tag="tag")

    async def close(self) -> None:
        self.is_closed = True


class Slow:
    """A connection on which a channel is opened when the gate is."""

    is_open = True

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0
        self.channels: list[Consuming] = []

    async def channel(self, *, sink: Sink) -> Consuming:
        self.asked += 1
        await self.gate.wait()
        self.channels.append(Consuming(sink))
        return self.channels[-1]


def test_a_lane_that_is_left_while_it_is_being_opened_has_one_consumer_that_is_read() -> None:
    """It stands at the end of the line again, and nothing is sent to a consumer that nobody reads."""

    async def main() -> None:
        process, link = Process(lambda leases: None), Slow()
        await process.reader.join()
        coming = asyncio.ensure_future(process.up(cast(Link, link)))
        await until(lambda: link.asked)
        process.peers.become("other")
        await turns()
        link.gate.set()
        await coming
        await until(lambda: len(link.channels) > 1 and process.lane.is_open)
        await turns()
        consumers = [channel for channel in link.channels if channel.consumes and not channel.is_closed]
        assert len(consumers) == 1
        assert not cast(Intake, consumers[0].sink).is_over
        await process.consumer.close()

    run(main())
