"""Emissions: what one handler emits wrongly is that handler's failure, and nobody else's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import pytest

from telex import Delivery, Queue, Telex, Topic
from telex.engine import Change, Channel, ChannelKind, Source, SourceKind, Subscription

from .kit import ONCE, make, run, until
from .loopback import Loopback

bad, good = Queue("bad", int), Queue("good", int)
out: Queue[int] = Queue("out", int)
wrong = Topic("news", int, ordered=True)
right = Topic("news", int)


def emitting(app: Telex, source: Queue[int], target: Topic[int] | Queue[int]) -> list[int]:
    """A handler that emits; what it handled."""
    seen: list[int] = []

    @app.receive(source, concurrency=1, retry=ONCE)
    async def work(job: int, delivery: Delivery) -> None:
        seen.append(job)
        if isinstance(target, Topic):
            delivery.publish(target, job)
        else:
            delivery.send(target, job)

    return seen


def outcomes(engine: Loopback) -> dict[str, list[str]]:
    """Decisions by the channel of the message."""
    found: dict[str, list[str]] = {}
    for settlement in engine.settlements:
        channel = settlement.lease.message.channel  # type: ignore[attr-defined]  # its leases carry their messages
        found.setdefault(channel, []).append(settlement.decision.name)
    return found


def test_emitting_to_a_channel_that_exists_differently_fails_that_message_alone() -> None:
    app, engine = make()
    engine.differing.add(wrong.channel)
    emitting(app, bad, wrong)
    seen = emitting(app, good, out)

    async def main() -> None:
        async with app:
            await app.send_many(bad, range(2))
            async with app.running():
                await until(lambda: engine.settlements)
                await app.send_many(good, range(3))
                await until(lambda: len(engine.settlements) == 5)

    run(main(), 5)
    assert seen == [0, 1, 2]
    assert outcomes(engine) == {"bad": ["DEAD"] * 2, "good": ["ACCEPT"] * 3}
    assert "exists and differs" in engine.settlements[0].error
    assert len(engine.queues["out"]) == 3


def test_emitting_to_what_may_not_be_created_fails_that_message_alone() -> None:
    app, engine = make(topology="verify")
    for queue in (bad, good, out):
        engine.channels[queue.name] = queue.channel
        engine.sources[queue.name] = Source(queue.name, SourceKind.QUEUE)
        engine.queues[queue.name] = deque()
    emitting(app, bad, Topic("nowhere", int))
    emitting(app, good, out)

    async def main() -> None:
        async with app:
            await app.send(bad, 1)
            await app.run(until_idle=True)
            await app.send_many(good, range(3))
            await app.run(until_idle=True)

    run(main(), 5)
    assert outcomes(engine) == {"bad": ["DEAD"], "good": ["ACCEPT"] * 3}
    assert "creates nothing" in engine.settlements[0].error


def test_channels_emitted_to_at_the_same_time_are_all_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()
    first, second = Topic("first", int), Topic("second", int)
    emitting(app, bad, first)
    emitting(app, good, second)
    looking, go_on = asyncio.Event(), asyncio.Event()
    plan = engine.plan

    async def slow(channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        if first.channel in channels:
            looking.set()
            await go_on.wait()
        return await plan(channels, subscriptions)

    async def main() -> None:
        async with app:
            await app.send_many(good, ())  # Its route is known from here on.
            monkeypatch.setattr(engine, "plan", slow)
            async with app.running():
                await app.send(bad, 1)
                await looking.wait()
                await app.send(good, 1)  # It emits while the first channel is being declared.
                await asyncio.sleep(0.01)
                go_on.set()
                await until(lambda: len(engine.settlements) == 2)

    run(main(), 5)
    assert {"first", "second"} <= engine.channels.keys()
    assert outcomes(engine) == {"bad": ["ACCEPT"], "good": ["ACCEPT"]}


def test_a_wrong_definition_does_not_spoil_the_right_one_of_the_same_name() -> None:
    app, engine = make()
    engine.channels["news"] = Channel("news", ChannelKind.TOPIC)
    engine.differing.add(wrong.channel)
    emitting(app, bad, wrong)
    emitting(app, good, right)

    async def main() -> None:
        async with app:
            await app.send(good, 1)
            await app.run(until_idle=True)
            await app.send(bad, 1)
            await app.run(until_idle=True)
            await app.send(good, 2)
            await app.run(until_idle=True)

    run(main(), 5)
    assert outcomes(engine) == {"good": ["ACCEPT"] * 2, "bad": ["DEAD"]}
