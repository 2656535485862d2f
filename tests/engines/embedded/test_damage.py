"""A message that cannot be read any more becomes a dead letter: it neither vanishes nor becomes another message.

However it is claimed: by a queue, by a lane, by itself after a failure, or as a slice of the past.
"""

from __future__ import annotations

import logging

from telex.engine import Channel, Consumer, Decision, Engine, Fetched, Settled, Settlement, Source
from telex.events import DAMAGED
from telex.message import Message
from telex.testing.contract import Kit, Suite, scenario
from telex.testing.contract.kit import PATIENCE, bodies, source_of

from ...contract.targets import InMemory, OnFile
from .inside import count, execute, flip, flip_head


class DamageSuite(Suite):
    """On one form of the engine."""

    # -- a range ----------------------------------------------------------------------------------------------------

    @scenario
    async def test_one_of_a_queue(self, kit: Kit) -> None:
        await _one_of_a_range(kit, ordered=False)

    @scenario
    async def test_one_of_a_lane(self, kit: Kit) -> None:
        await _one_of_a_range(kit, ordered=True)

    @scenario
    async def test_all_of_a_queue(self, kit: Kit) -> None:
        await _all_of_a_range(kit, ordered=False)

    @scenario
    async def test_all_of_a_lane(self, kit: Kit) -> None:
        await _all_of_a_range(kit, ordered=True)

    @scenario
    async def test_in_a_queue_whose_consumer_is_lost(self, kit: Kit) -> None:
        await _with_a_lost_consumer(kit, ordered=False)

    @scenario
    async def test_in_a_lane_whose_owner_is_lost(self, kit: Kit) -> None:
        await _with_a_lost_consumer(kit, ordered=True)

    @scenario
    async def test_in_a_queue_whose_settlement_fails(self, kit: Kit) -> None:
        await _with_a_failed_commit(kit, ordered=False)

    @scenario
    async def test_in_a_lane_whose_settlement_fails(self, kit: Kit) -> None:
        await _with_a_failed_commit(kit, ordered=True)

    @scenario
    async def test_is_logged(self, kit: Kit) -> None:
        """Once for each message, with the letter to look at."""
        engine, queue, sent = await _sent(kit, 3, ordered=False)
        await flip(engine, sent[1])
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[assignment, method-assign]
        logger = logging.getLogger("telex.embedded")
        logger.addHandler(handler)
        try:
            consumer = await kit.consumer(engine, source_of(queue))
            await _at_once(consumer, 2)
        finally:
            logger.removeHandler(handler)
        (letter,) = await kit.letters(engine, source_of(queue))
        (record,) = [record for record in records if getattr(record, "event", None) == DAMAGED.name]
        told = [getattr(record, name) for name in DAMAGED.fields]
        assert told == ["work", letter.message.id]
        assert letter.message.id in record.getMessage()

    @scenario
    async def test_a_whole_run(self, kit: Kit) -> None:
        """Its head is damaged, so that nobody knows where its messages begin: as many letters as it held messages."""
        engine, queue, sent = await _sent(kit, 3, ordered=False)
        await flip_head(engine, sent[1])
        await kit.publish(engine, queue, b"after")
        consumer = await kit.consumer(engine, source_of(queue))
        # In one fetch: what is behind the damage does not wait for somebody to ask again.
        assert bodies(await consumer.fetch(1, PATIENCE)) == [b"after"]
        letters = await kit.letters(engine, source_of(queue))
        assert [(letter.reason, letter.message.body) for letter in letters] == [("damaged", b"")] * 3
        assert len({letter.message.id for letter in letters}) == 3

    @scenario
    async def test_a_run_that_is_gone(self, kit: Kit) -> None:
        engine, queue, sent = await _sent(kit, 2, ordered=False)
        await flip_head(engine, sent[0])
        await execute(engine, "DELETE FROM log")
        await kit.publish(engine, queue, b"after")
        consumer = await kit.consumer(engine, source_of(queue))
        assert bodies(await consumer.fetch(1, PATIENCE)) == [b"after"]
        letters = await kit.letters(engine, source_of(queue))
        assert [letter.reason for letter in letters] == ["damaged"] * 2
        assert all("missing" in letter.text for letter in letters)

    # -- a row of its own -------------------------------------------------------------------------------------------

    @scenario
    async def test_while_it_waits_for_a_retry(self, kit: Kit) -> None:
        engine, queue, sent = await _sent(kit, 2, ordered=False)
        consumer = await kit.consumer(engine, source_of(queue))
        first, second = await kit.take(consumer, 2)
        await kit.retry(consumer, first, 5.0)
        await kit.accept(consumer, second)
        raw = await flip(engine, sent[0])
        await kit.passes(5.1)
        await kit.nothing(consumer)
        await kit.nothing(consumer)
        await _is_buried(kit, engine, source_of(queue), raw)
        await _nothing_is_left(kit, engine, source_of(queue))

    @scenario
    async def test_while_its_key_waits_for_a_retry(self, kit: Kit) -> None:
        """The key goes on behind it."""
        engine, queue, sent = await _sent(kit, 3, ordered=True)
        consumer = await kit.consumer(engine, source_of(queue))
        await _retry(kit, consumer, await kit.take(consumer, 3), 5.0)
        raw = await flip(engine, sent[0])
        await kit.passes(5.1)
        for body in (b"body-1", b"body-2"):
            fetched = await kit.take_one(consumer)
            assert fetched.message.body == body
            await kit.accept(consumer, fetched)
        await kit.nothing(consumer)
        await _is_buried(kit, engine, source_of(queue), raw)
        await _nothing_is_left(kit, engine, source_of(queue))

    @scenario
    async def test_behind_a_key_that_waits_for_a_retry(self, kit: Kit) -> None:
        engine, queue, sent = await _sent(kit, 3, ordered=True)
        consumer = await kit.consumer(engine, source_of(queue))
        await _retry(kit, consumer, await kit.take(consumer, 3), 5.0)
        raw = await flip(engine, sent[1])
        await kit.passes(5.1)
        for body in (b"body-0", b"body-2"):
            fetched = await kit.take_one(consumer)
            assert fetched.message.body == body
            await kit.accept(consumer, fetched)
        await kit.nothing(consumer)
        await _is_buried(kit, engine, source_of(queue), raw)
        await _nothing_is_left(kit, engine, source_of(queue))

    @scenario
    async def test_while_it_is_in_hand_and_lost(self, kit: Kit) -> None:
        """Whoever takes it over cannot read its key any more; the others of its range come."""
        for ordered in (False, True):
            engine, queue, sent = await _sent(kit, 3, ordered=ordered, name=f"work{ordered:d}")
            consumer = await kit.consumer(engine, source_of(queue))
            await kit.take(consumer, 3)
            raw = await flip(engine, sent[1])
            await consumer.close()
            other = await kit.consumer(engine, source_of(queue))
            again = [await _accepted(kit, other) for _ in range(2)]
            assert bodies(again) == [b"body-0", b"body-2"]
            assert [fetched.losses for fetched in again] == [1, 1]
            await kit.nothing(other)
            await _is_buried(kit, engine, source_of(queue), raw)
            await _nothing_is_left(kit, engine, source_of(queue))

    # -- a slice of the past ----------------------------------------------------------------------------------------

    @scenario
    async def test_in_a_replayed_slice(self, kit: Kit) -> None:
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing")
        source = source_of(topic, "billing")
        sent = await kit.publish(engine, topic, *[b"body-%d" % number for number in range(4)])
        consumer = await kit.consumer(engine, source)
        await kit.accept(consumer, await kit.take(consumer, 4))
        raw = await flip(engine, sent[2])
        begin = kit.clock.now()
        await kit.passes(1.0)
        assert await engine.admin.replay(source, begin, kit.clock.now(), None, False) == (4, None)
        again = await _at_once(consumer, 3)
        assert bodies(again) == [b"body-0", b"body-1", b"body-3"]
        await kit.accept(consumer, again)
        await kit.nothing(consumer)
        await _is_buried(kit, engine, source, raw)
        await _nothing_is_left(kit, engine, source)


class TestDamageOnFile(DamageSuite):
    target = OnFile()


class TestDamageInMemory(DamageSuite):
    target = InMemory()


async def _sent(kit: Kit, number: int, *, ordered: bool, name: str = "work") -> tuple[Engine, Channel, list[Message]]:
    """A queue with so many messages of one key, stored as one run."""
    engine = await kit.engine()
    queue = await kit.queue(engine, name, ordered=ordered, lanes=1)
    return engine, queue, await kit.publish(engine, queue, *[b"body-%d" % n for n in range(number)], key="k")


async def _one_of_a_range(kit: Kit, *, ordered: bool) -> None:
    engine, queue, sent = await _sent(kit, 4, ordered=ordered)
    raw = await flip(engine, sent[1])
    consumer = await kit.consumer(engine, source_of(queue))
    taken = await _at_once(consumer, 3)
    assert [fetched.message for fetched in taken] == [sent[0], sent[2], sent[3]]
    await kit.nothing(consumer)
    await _is_buried(kit, engine, source_of(queue), raw)
    assert (await kit.stats(engine, source_of(queue))).leased == 3
    await kit.accept(consumer, taken)
    await _nothing_is_left(kit, engine, source_of(queue))


async def _all_of_a_range(kit: Kit, *, ordered: bool) -> None:
    engine, queue, sent = await _sent(kit, 1, ordered=ordered)
    raw = await flip(engine, sent[0])
    consumer = await kit.consumer(engine, source_of(queue))
    await kit.nothing(consumer)
    await _is_buried(kit, engine, source_of(queue), raw)
    await _nothing_is_left(kit, engine, source_of(queue))


async def _with_a_lost_consumer(kit: Kit, *, ordered: bool) -> None:
    """The letter is written with the claim; the loss of the others does not write another."""
    engine, queue, sent = await _sent(kit, 3, ordered=ordered)
    raw = await flip(engine, sent[1])
    consumer = await kit.consumer(engine, source_of(queue))
    await _at_once(consumer, 2)
    await consumer.close()
    other = await kit.consumer(engine, source_of(queue))
    again = [await _accepted(kit, other) for _ in range(2)]
    assert [(fetched.message.body, fetched.losses) for fetched in again] == [(b"body-0", 1), (b"body-2", 1)]
    await kit.nothing(other)
    await _is_buried(kit, engine, source_of(queue), raw)
    await _nothing_is_left(kit, engine, source_of(queue))


async def _with_a_failed_commit(kit: Kit, *, ordered: bool) -> None:
    """What is rolled back is the settlement, not that the damaged one is out of the range."""
    engine, queue, sent = await _sent(kit, 3, ordered=ordered)
    raw = await flip(engine, sent[1])
    consumer = await kit.consumer(engine, source_of(queue))
    taken = await _at_once(consumer, 2)
    for failing in ("UPDATE", "DELETE"):
        await execute(engine, f"CREATE TEMP TRIGGER fails BEFORE {failing} ON span BEGIN SELECT raise(FAIL, 'x'); END")
        batch = taken[:1] if failing == "UPDATE" else taken[1:]
        accepts = [Settlement(fetched.lease, Decision.ACCEPT) for fetched in batch]
        assert list(await consumer.settle(accepts)) == [Settled.FAILED]
        await execute(engine, "DROP TRIGGER fails")
        assert list(await consumer.settle(accepts)) == [Settled.DONE]
    await kit.nothing(consumer)
    await _is_buried(kit, engine, source_of(queue), raw)
    await _nothing_is_left(kit, engine, source_of(queue))


async def _at_once(consumer: Consumer, number: int) -> list[Fetched]:
    """So many deliveries, claimed together."""
    taken = list(await consumer.fetch(100, 1.0))
    assert len(taken) == number
    return taken


async def _retry(kit: Kit, consumer: Consumer, taken: list[Fetched], delay: float) -> None:
    """As the core does in an ordered source: the first is tried again, the others go back."""
    await kit.retry(consumer, taken[0], delay)
    await kit.settle(consumer, taken[1:], Decision.RELEASE)


async def _accepted(kit: Kit, consumer: Consumer) -> Fetched:
    fetched = await kit.take_one(consumer)
    await kit.accept(consumer, fetched)
    return fetched


async def _is_buried(kit: Kit, engine: Engine, source: Source, raw: bytes) -> None:
    """Demands one letter, with the bytes as they lie in the store."""
    letters = await kit.letters(engine, source)
    assert [(letter.reason, letter.message.body) for letter in letters] == [("damaged", raw)]
    assert "check sum" in letters[0].text
    assert letters[0].at == kit.clock.now()


async def _nothing_is_left(kit: Kit, engine: Engine, source: Source) -> None:
    """Demands that the source holds nothing but its letter: nothing that would keep history from being trimmed."""
    stats = await kit.stats(engine, source)
    assert (stats.ready, stats.retrying, stats.leased, stats.dead) == (0, 0, 0, 1), stats
    assert [await count(engine, table) for table in ("span", "item")] == [0, 0]
