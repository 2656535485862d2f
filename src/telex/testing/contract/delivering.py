"""Delivering: who gets what."""

from __future__ import annotations

import asyncio

from ...engine import Channel, ChannelKind, EngineClosed, Source, SourceKind
from ...features import Refusal
from .kit import SILENCE, Kit, Suite, bodies, ids, scenario, source_of

PATTERNS = {
    "orders.placed": {"orders.placed"},
    "orders.*": {"orders.placed", "orders.paid"},
    "*.placed": {"orders.placed"},
    "orders.#": {"orders", "orders.placed", "orders.paid", "orders.eu.placed"},
    "#.placed": {"orders.placed", "orders.eu.placed"},
    "orders.*.placed": {"orders.eu.placed"},
    "#": {"orders", "orders.placed", "orders.paid", "orders.eu.placed", "ordersx.placedx"},
}
"""What each pattern takes out of all the topics named here."""


class DeliverContract(Suite):
    """`Consumer.fetch`: sources, groups, patterns, broadcast, windows."""

    @scenario
    async def test_a_queue_keeps_what_came_before_any_worker(self, kit: Kit) -> None:
        engine = await kit.engine()
        channel = Channel("work", ChannelKind.QUEUE)
        await kit.declare(engine, [channel])
        await kit.publish(engine, channel, b"1", b"2")
        consumer = await kit.consumer(await kit.engine(), source_of(channel))
        assert bodies(await kit.take(consumer, 2)) == [b"1", b"2"]

    @scenario
    async def test_every_group_gets_each_message(self, kit: Kit) -> None:
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing", "audit", "mail")
        sent = await kit.publish(engine, topic, *[b"%d" % n for n in range(50)])
        for group in ("billing", "audit", "mail"):
            consumer = await kit.consumer(engine, source_of(topic, group))
            taken = await kit.take(consumer, 50)
            assert ids(taken) == [message.id for message in sent]
            await kit.accept(consumer, taken)
            await kit.nothing(consumer)

    @scenario
    async def test_sources_are_independent(self, kit: Kit) -> None:
        """What one group settles or keeps in hand changes nothing for another."""
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "slow", "fast")
        await kit.publish(engine, topic, b"1", b"2")
        slow = await kit.consumer(engine, source_of(topic, "slow"))
        fast = await kit.consumer(engine, source_of(topic, "fast"))
        held = await kit.take(slow, 2)
        taken = await kit.take(fast, 2)
        await kit.bury(fast, taken[0])
        await kit.accept(fast, taken[1])
        await kit.accept(slow, held)
        assert (await kit.stats(engine, source_of(topic, "slow"))).dead == 0
        assert (await kit.stats(engine, source_of(topic, "fast"))).dead == 1

    @scenario
    async def test_consumers_of_a_source_share(self, kit: Kit) -> None:
        """Two processes, each message to one of them."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        sent = await kit.publish(first, queue, *[b"%d" % n for n in range(60)])
        one = await kit.consumer(first, source_of(queue), window=20)
        other = await kit.consumer(second, source_of(queue), window=40)
        here, there = await kit.take(one, 20), await kit.take(other, 40)
        assert sorted(ids([*here, *there])) == sorted(message.id for message in sent)
        await kit.accept(one, here)
        await kit.accept(other, there)
        await kit.nothing(one)
        await kit.nothing(other)

    @scenario
    async def test_a_waiting_fetch_is_woken(self, kit: Kit) -> None:
        """By this process and by another, long before its wait is over."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        consumer = await kit.consumer(first, source_of(queue))
        loop = asyncio.get_running_loop()
        for engine in (first, second):
            waiting = asyncio.ensure_future(consumer.fetch(10, 30.0))
            await asyncio.sleep(SILENCE)
            began = loop.time()
            await kit.publish(engine, queue, b"wake")
            assert bodies(await waiting) == [b"wake"]
            assert loop.time() - began < 5.0

    @scenario
    async def test_an_empty_fetch_ends_after_its_wait(self, kit: Kit) -> None:
        engine = await kit.engine()
        consumer = await kit.consumer(engine, source_of(await kit.queue(engine)))
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert list(await consumer.fetch(10, 0.2)) == []
        assert 0.15 <= loop.time() - began < 5.0

    @scenario
    async def test_a_cancelled_fetch_loses_nothing(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        consumer = await kit.consumer(engine, source_of(queue))
        for number in range(20):
            waiting = asyncio.ensure_future(consumer.fetch(10, 30.0))
            await asyncio.sleep(0)
            publishing = asyncio.ensure_future(kit.publish(engine, queue, b"%d" % number))
            await asyncio.sleep(0.001 * (number % 5))
            waiting.cancel()
            await asyncio.wait([waiting])
            await publishing
            taken = list(waiting.result()) if not waiting.cancelled() else await kit.take(consumer, 1)
            assert bodies(taken) == [b"%d" % number]
            await kit.accept(consumer, taken)

    @scenario
    async def test_the_window_bounds_what_is_in_hand(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, *[b"%d" % n for n in range(30)])
        consumer = await kit.consumer(engine, source_of(queue), window=10)
        held = await kit.take(consumer, 10)
        await kit.nothing(consumer)
        stats = await kit.stats(engine, source_of(queue))
        assert stats.leased in (None, 10), stats
        await kit.accept(consumer, held[:4])
        assert bodies(await kit.take(consumer, 4)) == [b"10", b"11", b"12", b"13"]
        await kit.nothing(consumer)

    @scenario
    async def test_fetch_returns_no_more_than_asked(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, *[b"%d" % n for n in range(10)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await consumer.fetch(3, 1.0)
        assert 1 <= len(taken) <= 3
        rest = await kit.take(consumer, 10 - len(taken))
        assert bodies([*taken, *rest]) == [b"%d" % n for n in range(10)]

    @scenario
    async def test_positions_rise_in_a_lane(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine, ordered=True, lanes=4)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 10}") for n in range(100)])
        consumer = await kit.consumer(engine, source_of(queue))
        last: dict[int, int] = {}
        lanes: dict[str | None, set[int]] = {}
        for fetched in await kit.take(consumer, 100):
            assert fetched.position > last.get(fetched.lane, -1)
            last[fetched.lane] = fetched.position
            lanes.setdefault(fetched.message.key, set()).add(fetched.lane)
        assert all(len(found) == 1 for found in lanes.values()), "a key has one lane"
        assert len(last) > 1, "ten keys use more than one of four lanes"

    # -- groups -----------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_group_misses_nothing_after_its_declaration(self, kit: Kit) -> None:
        """It is durable without a member, and starts with what comes after."""
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "first")
        await kit.publish(engine, topic, b"before")
        await kit.topic(engine, "events.made", "late")
        await kit.publish(engine, topic, b"after")
        consumer = await kit.consumer(await kit.engine(), source_of(topic, "late"))
        assert bodies(await kit.take(consumer, 1)) == [b"after"]
        await kit.nothing(consumer)

    @scenario
    async def test_declaring_again_moves_no_group(self, kit: Kit) -> None:
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing")
        await kit.publish(engine, topic, b"1")
        await kit.topic(await kit.engine(), "events.made", "billing")
        consumer = await kit.consumer(engine, source_of(topic, "billing"))
        await kit.accept(consumer, await kit.take(consumer, 1))
        await kit.topic(await kit.engine(), "events.made", "billing", start="all")
        await kit.nothing(consumer)

    @scenario
    async def test_the_pattern_table(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.patterns, Refusal):
            return
        topics = sorted(PATTERNS["#"])
        sources = [Source(pattern, SourceKind.GROUP, "watch") for pattern in PATTERNS]
        await kit.declare(engine, [Channel(name, ChannelKind.TOPIC) for name in topics], sources)
        await kit.store(engine, [kit.outgoing(Channel(name, ChannelKind.TOPIC), name.encode()) for name in topics])
        for source in sources:
            consumer = await kit.consumer(engine, source)
            wanted = PATTERNS[source.channel]
            taken = await kit.take(consumer, len(wanted))
            assert {fetched.message.channel for fetched in taken} == wanted, source.channel
            await kit.accept(consumer, taken)
            await kit.nothing(consumer)

    @scenario
    async def test_a_pattern_takes_topics_made_later(self, kit: Kit) -> None:
        """From their first message, also when another process makes them."""
        engine = await kit.engine()
        if isinstance(engine.features.patterns, Refusal):
            return
        source = Source("orders.*", SourceKind.GROUP, "watch")
        await kit.declare(engine, [], [source])
        consumer = await kit.consumer(engine, source)
        other = await kit.engine()
        topic = await kit.topic(other, "orders.new")
        await kit.publish(other, topic, b"1", b"2")
        assert bodies(await kit.take(consumer, 2)) == [b"1", b"2"]

    @scenario
    async def test_a_busy_topic_starves_no_other(self, kit: Kit) -> None:
        """A group of a pattern that never gets to the end of one topic takes from the others as well."""
        engine = await kit.engine()
        if isinstance(engine.features.patterns, Refusal):
            return
        source = Source("orders.*", SourceKind.GROUP, "watch")
        topics = [Channel(f"orders.{name}", ChannelKind.TOPIC) for name in ("paid", "placed")]
        await kit.declare(engine, topics, [source])
        consumer = await kit.consumer(engine, source)
        for busy, quiet in (topics, reversed(topics)):
            await kit.publish(engine, busy, *[b"{}"] * 20)
            await kit.publish(engine, quiet, b"quiet")
            for _ in range(60):
                await kit.publish(engine, busy, b"{}")
                fetched = await kit.take_one(consumer)
                await kit.accept(consumer, fetched)
                if fetched.message.body == b"quiet":
                    break
            else:
                raise AssertionError(f"{quiet.name} waits for 60 messages of {busy.name}, most of them newer")

    # -- broadcast --------------------------------------------------------------------------------------------------

    @scenario
    async def test_broadcast_reaches_every_instance(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.broadcast, Refusal):
            return
        topic = await kit.topic(first, "events.made")
        source = Source("events.made", SourceKind.BROADCAST)
        await kit.answers(first, [kit.outgoing(topic, b"before")])
        consumers = [await kit.consumer(engine, source) for engine in (first, second)]
        await kit.answers(first, [kit.outgoing(topic, b"%d" % n) for n in range(20)])
        for consumer in consumers:
            taken = await kit.take(consumer, 20)
            assert bodies(taken) == [b"%d" % n for n in range(20)]
            await kit.accept(consumer, taken)
            await kit.nothing(consumer)

    @scenario
    async def test_a_broadcast_that_ended_leaves_nothing(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.broadcast, Refusal):
            return
        await kit.topic(engine, "events.made")
        consumer = await kit.consumer(engine, Source("events.made", SourceKind.BROADCAST))
        await consumer.close()
        assert not list(await engine.admin.sources())

    # -- ending -----------------------------------------------------------------------------------------------------

    @scenario
    async def test_close_wakes_a_blocked_fetch(self, kit: Kit) -> None:
        engine = await kit.engine()
        consumer = await kit.consumer(engine, source_of(await kit.queue(engine)))
        waiting = asyncio.ensure_future(consumer.fetch(10, 30.0))
        await asyncio.sleep(SILENCE)
        await consumer.close()
        await consumer.close()
        try:
            await asyncio.wait_for(waiting, 5.0)
        except EngineClosed:
            return
        raise AssertionError("fetch returned although its consumer is closed")

    @scenario
    async def test_stop_gives_back_what_was_not_fetched(self, kit: Kit) -> None:
        """Uncounted; what was fetched stays in hand and can be settled."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, *[b"%d" % n for n in range(10)])
        one = await kit.consumer(first, source_of(queue))
        held = await kit.take(one, 3)
        await one.stop()
        other = await kit.consumer(second, source_of(queue))
        taken = await kit.take(other, 7)
        assert sorted(bodies([*held, *taken])) == [b"%d" % n for n in range(10)]
        assert all(fetched.losses == 0 for fetched in taken)
        await kit.accept(one, held)
        await kit.nothing(other)
        await one.close()
        await kit.nothing(other)

    @scenario
    async def test_close_returns_what_is_unsettled_as_a_loss(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, b"1", b"2")
        one = await kit.consumer(first, source_of(queue))
        held = await kit.take(one, 2)
        await kit.accept(one, held[0])
        await one.close()
        other = await kit.consumer(second, source_of(queue))
        again = await kit.take_one(other)
        assert (again.message.body, again.failures, again.losses) == (b"2", 0, 1)
        stats = await kit.stats(second, source_of(queue))
        assert stats.leased in (None, 1), stats
        await kit.accept(other, again)
        await kit.nothing(other)
        stats = await kit.stats(second, source_of(queue))
        assert (stats.ready or 0, stats.leased or 0) == (0, 0), stats

    @scenario
    async def test_closing_the_engine_closes_its_consumers(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, b"1")
        consumer = await kit.consumer(first, source_of(queue))
        await kit.take_one(consumer)
        waiting = asyncio.ensure_future(consumer.fetch(10, 30.0))
        await asyncio.sleep(SILENCE)
        await kit.close(first)
        await kit.close(first)
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(outcome, EngineClosed), outcome
        other = await kit.consumer(second, source_of(queue))
        assert (await kit.take_one(other)).losses == 1
