"""Sharing lanes: at the same instants for all sources of a process, and seldom while nobody waits for one."""

from __future__ import annotations

import asyncio

import pytest

from telex.engine import Channel, ChannelKind, Source, SourceKind, Subscription
from telex.engines.embedded import lanes
from telex.engines.embedded.engine import EmbeddedEngine
from telex.engines.embedded.leases import Holder
from telex.engines.embedded.writer import Writer

from .kit import Kit
from .running import use


def test_consumers_that_have_their_share_look_again_at_the_same_instant() -> None:
    kit = Kit()
    looks = []
    for number, now in enumerate([100.25, 100.5, 100.75]):
        kit.channel(f"t{number}", lanes=4)
        source, id = kit.group(f"t{number}", "g", ordered=True)
        holder = Holder(number + 1, id, source, 100, None)
        with kit.write() as db:
            db.execute("INSERT INTO consumer(id, member, source) VALUES (?,1,?)", (holder.id, id))
            lanes.look(db, holder, now)
        assert len(holder.lanes) == 4
        looks.append(holder.look)
    assert looks == [101.0] * 3


def test_a_consumer_that_waits_for_lanes_looks_again_soon() -> None:
    kit = Kit()
    kit.channel("t", lanes=4)
    source, id = kit.group("t", "g", ordered=True)
    holder = Holder(1, id, source, 100, None)
    with kit.write() as db:
        db.execute("INSERT INTO consumer(id, member, source) VALUES (1,1,?)", (id,))
        db.execute("UPDATE cursor SET owner = 99")  # Somebody who has not given any up.
        lanes.look(db, holder, 100.05)
    assert holder.lanes == {}
    assert 100.05 < holder.look <= 100.05 + lanes.LOOK


def test_a_process_that_waits_on_many_ordered_sources_hardly_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a transaction: at five a second and source, six sources took over a hundredth of a processor."""
    cycles = 0
    cycle = Writer._cycle

    def counted(writer: Writer) -> bool:
        nonlocal cycles
        cycles += 1
        return cycle(writer)

    async def test(engine: EmbeddedEngine) -> None:
        nonlocal cycles
        channels = [Channel(f"t{number}", ChannelKind.TOPIC, ordered=True, lanes=4) for number in range(6)]
        sources = [Source(channel.name, SourceKind.GROUP, "g", True) for channel in channels]
        subscriptions = [Subscription(source=source) for source in sources]
        await engine.apply(await engine.plan(channels, subscriptions))
        waiting = []
        for subscription in subscriptions:
            consumer = await engine.consume(subscription, lambda leases: None)
            waiting.append(asyncio.ensure_future(consumer.fetch(10, 5)))
            await asyncio.sleep(0.03)  # Not all at the same instant by accident.
        await asyncio.sleep(0.3)  # They have their lanes.
        monkeypatch.setattr(Writer, "_cycle", counted)
        await asyncio.sleep(1.2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    use("memory://", test)
    print(f"{cycles} transactions")
    assert 1 <= cycles <= 20  # Each for itself, five times a second, they were 36.
