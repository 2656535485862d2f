"""Publishing: what is stored, byte for byte, and what each outcome means."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ...engine import Channel, ChannelKind, Outgoing, Stored
from ...message import BYTES, JSON
from .kit import Kit, Suite, bodies, ids, scenario, source_of, to

MANY = 500


class PublishContract(Suite):
    """`Engine.publish`, `plan`, `apply` and `lookup`."""

    @scenario
    async def test_bodies_come_back_byte_equal(self, kit: Kit) -> None:
        """Bodies of 0 bytes, 1 byte, 64 KiB and the limit; to this process, and to one that did not publish them."""
        engine, other = await kit.engine(), await kit.engine()
        topic = await kit.topic(engine, "events.made", "here", "there")
        every = bytes(range(256))
        limit = engine.features.max_body
        wanted = [b"", b"\x00", every * 256, (every * (limit // 256 + 1))[:limit]]
        for body in wanted:
            await kit.publish(engine, topic, body, content_type=BYTES)
        for reader, group in ((engine, "here"), (other, "there")):
            consumer = await kit.consumer(reader, source_of(topic, group))
            for body in wanted:
                fetched = await kit.take_one(consumer)
                assert fetched.message.body == body, f"{len(body)} bytes came back as {len(fetched.message.body)}"
                await kit.accept(consumer, fetched)

    @scenario
    async def test_every_field_comes_back(self, kit: Kit) -> None:
        """Id, key, headers beyond ASCII, time, content type, correlation and expiry."""
        engine, other = await kit.engine(), await kit.engine()
        topic = await kit.topic(engine, "events.made", "here", "there")
        headers = {"trace-id": "Grüße, 世界", "empty": "", "x-long": "é" * 2000}
        expires = kit.clock.now() + timedelta(hours=1, microseconds=7)
        fields = {"id": "order-1 ~!", "key": "Ännchen", "correlation_id": "c-1", "expires": expires}
        (sent,) = await kit.publish(engine, topic, b'"x"', headers=headers, **fields)
        for reader, group in ((engine, "here"), (other, "there")):
            fetched = await kit.take_one(await kit.consumer(reader, source_of(topic, group)))
            message = fetched.message
            assert {name: getattr(message, name) for name in fields} == fields
            assert (message.channel, dict(message.headers), message.content_type) == ("events.made", headers, JSON)
            assert message.time == sent.time
            assert message.time.tzinfo is not None
            assert (fetched.failures, fetched.losses, fetched.trial) == (0, 0, None)

    @scenario
    async def test_answers_per_item(self, kit: Kit) -> None:
        """One item that cannot be stored disturbs no other of its batch."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        nowhere = to("no-inbox", kit.message("work", b"2"))
        batch = [kit.outgoing(queue, b"1"), nowhere, kit.outgoing(queue, b"3")]
        answers = await kit.answers(engine, batch)
        assert answers == [Stored.YES, Stored.NO, Stored.YES], answers
        consumer = await kit.consumer(engine, source_of(queue))
        assert bodies(await kit.take(consumer, 2)) == [b"1", b"3"]

    @scenario
    async def test_a_body_over_the_limit_disturbs_nobody(self, kit: Kit) -> None:
        """The core refuses it before; an engine that is given one all the same says truly what it did."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        large = bytes(engine.features.max_body + 1)
        batch = [kit.outgoing(queue, b"1"), kit.outgoing(queue, large), kit.outgoing(queue, b"3")]
        answers = await kit.answers(engine, batch)
        assert answers[::2] == [Stored.YES, Stored.YES]
        wanted = [b"1", b"3"] if answers[1] is Stored.NO else [b"1", large, b"3"]
        consumer = await kit.consumer(engine, source_of(queue))
        assert bodies(await kit.take(consumer, len(wanted))) == wanted
        await kit.nothing(consumer)

    @scenario
    async def test_a_queue_that_is_not_declared(self, kit: Kit) -> None:
        """Refused, or made; never accepted and lost."""
        engine = await kit.engine()
        unknown = Channel("unknown", ChannelKind.QUEUE)
        (answer,) = await kit.answers(engine, [kit.outgoing(unknown, b"1")])
        assert answer in (Stored.YES, Stored.NO)
        await kit.declare(engine, [unknown], [source_of(unknown)])
        consumer = await kit.consumer(engine, source_of(unknown))
        if answer is Stored.YES:
            assert bodies(await kit.take(consumer, 1)) == [b"1"]
        await kit.nothing(consumer)

    @scenario
    async def test_a_topic_without_groups_is_unrouted(self, kit: Kit) -> None:
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.lonely")
        assert await kit.answers(engine, [kit.outgoing(topic)]) == [Stored.UNROUTED]

    @scenario
    async def test_publishing_twice_stores_twice(self, kit: Kit) -> None:
        """The id is no deduplication key."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        for _ in range(2):
            await kit.publish(engine, queue, b"same", id="same")
        consumer = await kit.consumer(engine, source_of(queue))
        assert ids(await kit.take(consumer, 2)) == ["same", "same"]

    @scenario
    async def test_a_batch_keeps_its_order(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        sent = await kit.publish(engine, queue, *[b"%d" % number for number in range(MANY)])
        consumer = await kit.consumer(engine, source_of(queue))
        assert ids(await kit.take(consumer, MANY)) == [message.id for message in sent]

    @scenario
    async def test_several_publishes_may_be_under_way(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        batches = [[kit.outgoing(queue, b"%d" % (10 * n + i)) for i in range(10)] for n in range(20)]
        answers = await asyncio.gather(*(kit.answers(engine, batch) for batch in batches))
        assert all(answer == [Stored.YES] * 10 for answer in answers)
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 200)
        assert sorted(ids(taken)) == sorted(item.message.id for batch in batches for item in batch)

    @scenario
    async def test_the_channels_of_one_batch_are_kept_apart(self, kit: Kit) -> None:
        engine = await kit.engine()
        first, second = await kit.queue(engine, "first"), await kit.queue(engine, "second")
        await kit.store(engine, [kit.outgoing((first, second)[n % 2], b"%d" % n) for n in range(10)])
        one, other = await kit.consumer(engine, source_of(first)), await kit.consumer(engine, source_of(second))
        assert bodies(await kit.take(one, 5)) == [b"0", b"2", b"4", b"6", b"8"]
        assert bodies(await kit.take(other, 5)) == [b"1", b"3", b"5", b"7", b"9"]

    @scenario
    async def test_one_source_alone_can_be_addressed(self, kit: Kit) -> None:
        """A message to a source reaches that group and no other of its topic."""
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing", "audit")
        await kit.store(engine, [kit.outgoing(source_of(topic, "billing"), b"only")])
        billing = await kit.consumer(engine, source_of(topic, "billing"))
        audit = await kit.consumer(engine, source_of(topic, "audit"))
        assert bodies(await kit.take(billing, 1)) == [b"only"]
        await kit.nothing(audit)

    @scenario
    async def test_what_may_be_stored_is_stored_once_or_twice(self, kit: Kit) -> None:
        """Publishing again what was uncertain answers for certain, and the message is there."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        first = kit.outgoing(queue, b"again")
        await kit.store(engine, [first])
        await kit.store(engine, [Outgoing(queue, first.message, maybe_stored=True)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await consumer.fetch(10, 1.0)
        assert set(ids(taken)) == {first.message.id}
        assert len(taken) <= 2

    # -- topology ---------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_plan_only_reads(self, kit: Kit) -> None:
        engine = await kit.engine()
        channel = Channel("later.made", ChannelKind.QUEUE)
        changes = await engine.plan([channel], [])
        assert [change.status.value for change in changes] == ["create"]
        assert await engine.lookup(["later.made"]) == [None]
        await engine.apply(changes)
        assert [found.name if found else None for found in await engine.lookup(["later.made"])] == ["later.made"]
        assert not [change for change in await engine.plan([channel], []) if change.status.value == "create"]

    @scenario
    async def test_a_difference_is_reported_and_not_applied(self, kit: Kit) -> None:
        engine = await kit.engine()
        await kit.queue(engine, "work")
        other = Channel("work", ChannelKind.QUEUE, ordered=True, lanes=8)
        changes = await engine.plan([other], [])
        assert "differs" in {change.status.value for change in changes}, changes
        await engine.apply(changes)
        (found,) = await engine.lookup(["work"])
        assert found is not None
        assert not found.ordered

    @scenario
    async def test_names_share_one_space(self, kit: Kit) -> None:
        """A topic cannot have the name of a queue."""
        engine = await kit.engine()
        await kit.queue(engine, "work")
        changes = await engine.plan([Channel("work", ChannelKind.TOPIC)], [])
        assert "differs" in {change.status.value for change in changes}, changes

    @scenario
    async def test_declaring_at_the_same_time_agrees(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        channel = Channel("work", ChannelKind.TOPIC)
        source = source_of(channel, "billing")
        await asyncio.gather(*(kit.declare(engine, [channel], [source]) for engine in (first, second, first)))
        await kit.publish(first, channel, b"1")
        consumer = await kit.consumer(second, source)
        await kit.accept(consumer, await kit.take_one(consumer))
        await kit.nothing(consumer)

    @scenario
    async def test_lookup_answers_in_order(self, kit: Kit) -> None:
        engine = await kit.engine()
        await kit.queue(engine, "work")
        await kit.topic(engine, "events.made", ordered=True, lanes=4)
        found = await engine.lookup(["events.made", "unknown", "work"])
        assert [channel and (channel.name, channel.kind, channel.ordered) for channel in found] == [
            ("events.made", ChannelKind.TOPIC, True),
            None,
            ("work", ChannelKind.QUEUE, False),
        ]
