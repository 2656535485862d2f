"""History and operating: start, replay, browse, purge, remove, stats, restart."""

from __future__ import annotations

from datetime import timedelta

from ...engine import Channel, ChannelKind, Decision
from ...features import Refusal
from .kit import Kit, Suite, bodies, scenario, source_of, to

DAY = timedelta(days=1)
"""What must be there later is asked for when the topic is declared: not every engine keeps what nobody asked it to."""


class HistoryContract(Suite):
    """`Subscription.start`, `Admin.replay`, `Admin.browse`."""

    @scenario
    async def test_a_new_group_from_the_start(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.start_all, Refusal):
            return
        topic = await kit.topic(engine, "events.made", "first", history=DAY)
        await kit.publish(engine, topic, *[b"%d" % n for n in range(20)])
        first = await kit.consumer(engine, source_of(topic, "first"))
        await kit.accept(first, await kit.take(first, 20))
        await kit.topic(engine, "events.made", "all", start="all", history=DAY)
        consumer = await kit.consumer(engine, source_of(topic, "all"))
        assert bodies(await kit.take(consumer, 20)) == [b"%d" % n for n in range(20)]
        await kit.publish(engine, topic, b"20")
        assert bodies(await kit.take(consumer, 1)) == [b"20"]
        await kit.accept(first, await kit.take(first, 1))
        await kit.nothing(first)

    @scenario
    async def test_a_new_group_from_an_instant(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.start_all, Refusal):
            return
        topic = await kit.topic(engine, "events.made", "first", history=DAY)
        await kit.publish(engine, topic, b"old", b"older")
        await kit.passes(1.5)
        since = kit.clock.now()
        await kit.passes(0.5)
        await kit.publish(engine, topic, b"new", b"newer")
        await kit.topic(engine, "events.made", "since", start=since, history=DAY)
        consumer = await kit.consumer(engine, source_of(topic, "since"))
        assert bodies(await kit.take(consumer, 2)) == [b"new", b"newer"]
        await kit.nothing(consumer)

    @scenario
    async def test_replaying_a_slice(self, kit: Kit) -> None:
        """To one source only, marks nothing else, and beside what is published now."""
        engine = await kit.engine()
        if isinstance(engine.features.replay, Refusal):
            return
        topic = await kit.topic(engine, "events.made", "billing", "audit", history=DAY)
        source = source_of(topic, "billing")
        await kit.publish(engine, topic, b"0", b"1")
        await kit.passes(1.0)
        since = kit.clock.now()
        await kit.publish(engine, topic, b"2", b"3")
        await kit.passes(1.0)
        until = kit.clock.now()
        await kit.passes(1.0)
        await kit.publish(engine, topic, b"4")
        billing = await kit.consumer(engine, source)
        audit = await kit.consumer(engine, source_of(topic, "audit"))
        for consumer in (billing, audit):
            await kit.accept(consumer, await kit.take(consumer, 5))
        assert await engine.admin.replay(source, since, until, None, True) == (2, None)
        await kit.nothing(billing)
        count, token = 0, None
        while True:
            done, token = await engine.admin.replay(source, since, until, token, False)
            count += done
            if token is None:
                break
        assert count == 2
        again = await kit.take(billing, 2)
        assert sorted(bodies(again)) == [b"2", b"3"]
        assert {(fetched.failures, fetched.losses) for fetched in again} == {(0, 0)}
        await kit.accept(billing, again)
        await kit.nothing(billing)
        await kit.nothing(audit)

    @scenario
    async def test_replayed_messages_fail_and_die_like_others(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.replay, Refusal):
            return
        topic = await kit.topic(engine, "events.made", "billing", history=DAY)
        source = source_of(topic, "billing")
        begin = kit.clock.now()
        await kit.publish(engine, topic, b"0", b"1", b"2")
        consumer = await kit.consumer(engine, source)
        await kit.accept(consumer, await kit.take(consumer, 3))
        await kit.passes(1.0)
        await engine.admin.replay(source, begin, kit.clock.now(), None, False)
        taken = await kit.take(consumer, 3)
        await kit.retry(consumer, taken[0], 0)
        await kit.bury(consumer, taken[1])
        await consumer.close()
        other = await kit.consumer(await kit.engine(), source)
        again = await kit.take(other, 2)
        counts = {fetched.message.body: (fetched.failures, fetched.losses) for fetched in again}
        assert counts[taken[2].message.body] == (0, 1), counts
        assert counts[taken[0].message.body][0] == 1, counts
        assert [letter.message.body for letter in await kit.letters(engine, source)] == [taken[1].message.body]

    @scenario
    async def test_replaying_beside_what_is_in_hand(self, kit: Kit) -> None:
        """All that was settled comes again, however the slice is cut and whatever lies between."""
        engine = await kit.engine()
        if isinstance(engine.features.replay, Refusal):
            return
        topic = await kit.topic(engine, "events.made", "billing", history=DAY)
        source = source_of(topic, "billing")
        begin = kit.clock.now()
        await kit.publish(engine, topic, *[b"%02d" % n for n in range(20)])
        await kit.passes(1.0)
        consumer = await kit.consumer(engine, source)
        settled = await kit.take(consumer, 10)
        hand = await kit.take(consumer, 10)
        settled, hand = settled + hand[:5], hand[5:]
        await kit.accept(consumer, settled)
        count, token = await engine.admin.replay(source, begin, kit.clock.now(), None, False)
        assert token is None
        again = await kit.take(consumer, 10)
        again += await kit.take(consumer, count - 10)
        assert set(bodies(again)) >= set(bodies(settled))
        await kit.nothing(consumer)
        await kit.accept(consumer, [*hand, *again])
        await kit.nothing(consumer)

    @scenario
    async def test_browsing_takes_nothing(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.browse, Refusal):
            return
        queue = await kit.queue(engine)
        sent = await kit.publish(engine, queue, *[b"%d" % n for n in range(10)])
        first = await engine.admin.browse("work", None, 4)
        assert list(first.messages) == sent[:4]
        rest = await engine.admin.browse("work", None, 100, first.after)
        assert list(rest.messages) == sent[4:]
        nothing = await engine.admin.browse("work", None, 100, rest.after)
        assert list(nothing.messages) == []
        assert list((await engine.admin.browse("work", None, 100)).messages) == sent
        consumer = await kit.consumer(engine, source_of(queue))
        assert len(await kit.take(consumer, 10)) == 10
        more = await kit.publish(engine, queue, b"more")
        assert list((await engine.admin.browse("work", None, 100, nothing.after)).messages) == more


class OperateContract(Suite):
    """`Admin.sources`, `stats`, `purge`, `remove`; restart and delay."""

    @scenario
    async def test_stats_tell_where_messages_are(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        source = source_of(queue)
        await kit.publish(engine, queue, *[b"%d" % n for n in range(10)])
        await kit.passes(1.0)
        consumer = await kit.consumer(engine, source, window=4)
        taken = await kit.take(consumer, 4)
        stats = await kit.stats(engine, source)
        assert stats.source == "work"
        assert (stats.ready, stats.leased, stats.retrying, stats.dead) == (6, 4, 0, 0), stats
        assert stats.consumers in (None, 1)
        assert stats.oldest is None or stats.oldest >= timedelta(seconds=0.9)
        assert stats.size is None or stats.size >= 10
        due = kit.clock.now() + timedelta(seconds=30)
        await kit.retry(consumer, taken[0], 30.0)
        await kit.bury(consumer, taken[1])
        await consumer.stop()
        stats = await kit.stats(engine, source)
        assert (stats.ready, stats.leased, stats.retrying, stats.dead) == (6, 2, 1, 1), stats
        assert stats.next_retry is not None
        assert abs(stats.next_retry - due) < timedelta(seconds=1)
        if self.target.virtual:
            await kit.passes(31.0)
        await kit.accept(consumer, taken[2:])
        if self.target.virtual:
            stats = await kit.stats(engine, source)
            assert (stats.ready or 0) + (stats.retrying or 0) + (stats.leased or 0) == 7, stats

    @scenario
    async def test_stats_of_an_ordered_key_that_waits(self, kit: Kit) -> None:
        """What is parked behind a retry is waiting, not ready: otherwise nothing is ever idle."""
        engine = await kit.engine()
        queue = await kit.queue(engine, ordered=True)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(3)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 3)
        at = kit.clock.now() + timedelta(seconds=30)
        await kit.settle(consumer, taken[:1], Decision.RETRY, at=at)
        await kit.settle(consumer, taken[1:], Decision.RELEASE)
        await kit.nothing(consumer)
        stats = await kit.stats(engine, source_of(queue))
        assert (stats.ready, stats.leased, stats.retrying) == (0, 0, 3), stats

    @scenario
    async def test_sources_without_members_are_listed(self, kit: Kit) -> None:
        engine = await kit.engine()
        await kit.queue(engine)
        await kit.topic(engine, "events.made", "billing", "audit")
        assert sorted(str(source) for source in await engine.admin.sources()) == [
            "events.made/audit",
            "events.made/billing",
            "work",
        ]

    @scenario
    async def test_purge_drops_what_is_ready(self, kit: Kit) -> None:
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing", "audit")
        await kit.publish(engine, topic, *[b"%d" % n for n in range(10)])
        consumer = await kit.consumer(engine, source_of(topic, "billing"), window=2)
        held = await kit.take(consumer, 2)
        assert await engine.admin.purge(source_of(topic, "billing")) in (None, 8)
        await kit.accept(consumer, held)
        await kit.nothing(consumer)
        await kit.publish(engine, topic, b"new")
        assert bodies(await kit.take(consumer, 1)) == [b"new"]
        audit = await kit.consumer(engine, source_of(topic, "audit"))
        assert len(await kit.take(audit, 11)) == 11

    @scenario
    async def test_remove_ends_a_group_alone(self, kit: Kit) -> None:
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing", "audit")
        await kit.publish(engine, topic, b"1")
        billing = await kit.consumer(engine, source_of(topic, "billing"))
        await kit.bury(billing, await kit.take_one(billing))
        await billing.close()
        await engine.admin.remove(source_of(topic, "billing"))
        assert [str(source) for source in await engine.admin.sources()] == ["events.made/audit"]
        audit = await kit.consumer(engine, source_of(topic, "audit"))
        assert bodies(await kit.take(audit, 1)) == [b"1"]
        await kit.topic(engine, "events.made", "billing")
        assert not await kit.letters(engine, source_of(topic, "billing"))
        await kit.nothing(await kit.consumer(engine, source_of(topic, "billing")))

    @scenario
    async def test_remove_ends_a_queue(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1")
        await engine.admin.remove(source_of(queue))
        assert await engine.lookup(["work"]) == [None]
        assert not await engine.admin.sources()
        again = await kit.queue(engine)
        await kit.nothing(await kit.consumer(engine, source_of(again)))

    @scenario
    async def test_everything_survives_a_restart(self, kit: Kit) -> None:
        """Ready, waiting for a retry, delayed, dead; counts and history with them."""
        engine = await kit.engine()
        if not engine.features.durable:
            return
        queue = await kit.queue(engine)
        source = source_of(queue)
        await kit.publish(engine, queue, b"retry", b"dead", b"loss", b"ready")
        consumer = await kit.consumer(engine, source, window=3)
        taken = await kit.take(consumer, 3)
        await kit.retry(consumer, taken[0], 0.5)
        await kit.bury(consumer, taken[1])
        await kit.close(engine)
        engine = await kit.engine()
        await kit.passes(0.6)
        consumer = await kit.consumer(engine, source)
        again = {fetched.message.body: fetched for fetched in await kit.take(consumer, 3)}
        assert set(again) == {b"retry", b"loss", b"ready"}
        assert (again[b"retry"].failures, again[b"loss"].losses, again[b"ready"].losses) == (1, 1, 0)
        assert [letter.message.body for letter in await kit.letters(engine, source)] == [b"dead"]

    # -- delay ------------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_delayed_send_is_never_early(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.delay, Refusal):
            return
        queue = await kit.queue(engine)
        source = source_of(queue)
        for body, seconds in ((b"late", 3.0), (b"soon", 2.0)):
            due = kit.clock.now() + timedelta(seconds=seconds)
            await kit.store(engine, [to(queue, kit.message("work", body), not_before=due)])
        await kit.publish(engine, queue, b"now")
        consumer = await kit.consumer(engine, source)
        await kit.accept(consumer, await kit.take(consumer, 1))
        await kit.nothing(consumer)
        stats = await kit.stats(engine, source)
        assert stats.delayed in (None, 2)
        assert stats.ready in (None, 0)
        await kit.passes(2.1)
        (first,) = await kit.take(consumer, 1)
        assert first.message.body == b"soon"
        await kit.accept(consumer, first)
        await kit.passes(1.0)
        assert bodies(await kit.take(consumer, 1)) == [b"late"]

    @scenario
    async def test_a_delayed_send_survives_its_sender(self, kit: Kit) -> None:
        engine, other = await kit.engine(), await kit.engine()
        if isinstance(engine.features.delay, Refusal):
            return
        queue = await kit.queue(engine)
        due = kit.clock.now() + timedelta(seconds=3)
        await kit.store(engine, [to(queue, kit.message("work", b"later"), not_before=due)])
        await kit.close(engine)
        consumer = await kit.consumer(other, source_of(queue))
        await kit.nothing(consumer)
        await kit.passes(3.1)
        assert bodies(await kit.take(consumer, 1)) == [b"later"]

    @scenario
    async def test_stats_know_at_once_what_is_due(self, kit: Kit) -> None:
        """The instant time has passed, a due message counts as ready, however late the engine wakes."""
        engine = await kit.engine()
        if isinstance(engine.features.delay, Refusal) or not self.target.virtual:
            return
        channel = Channel("work", ChannelKind.QUEUE)
        await kit.declare(engine, [channel])
        due = kit.clock.now() + timedelta(seconds=10)
        await kit.store(engine, [to(channel, kit.message("work", b"later"), not_before=due)])
        source = source_of(channel)
        assert (await kit.stats(engine, source)).ready == 0
        await kit.passes(10.0)
        stats = await kit.stats(engine, source)
        assert (stats.ready, stats.delayed) == (1, 0), stats
