"""What is handed out, and in what company: suspects, followers, collisions, and how much at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from unittest.mock import patch

import apsw

from telex.engine import (
    Channel,
    ChannelKind,
    Consumer,
    Decision,
    Engine,
    Fetched,
    Settled,
    Settlement,
    Source,
    SourceKind,
)
from telex.engines.embedded import claim
from telex.engines.embedded.claim import Claiming
from telex.engines.embedded.leases import Holder
from telex.testing.contract import Kit, Suite, scenario
from telex.testing.contract.kit import PATIENCE, bodies, ids, source_of

from ...contract.targets import InMemory, OnFile
from .inside import count, execute, within


class ClaimSuite(Suite):
    """On one form of the engine."""

    # -- suspects ---------------------------------------------------------------------------------------------------

    @scenario
    async def test_suspects_of_a_lane_are_handed_out_one_at_a_time(self, kit: Kit) -> None:
        """What was lost twice is on trial, alone in its lane, also when the lane is wide again."""
        engine, queue = await _ordered(kit, lanes=1)
        await _store(kit, engine, queue, range(8))
        consumer = await kit.consumer(engine, source_of(queue))
        hand = await kit.take(consumer, 8)
        await kit.retry(consumer, hand[7], 0.0)
        consumer = await _lost(kit, engine, consumer, source_of(queue))
        for width in (1, 2):
            await kit.accept(consumer, await kit.take(consumer, width))
        hand = await kit.take(consumer, 5)
        await kit.retry(consumer, hand[4], 0.0)
        consumer = await _lost(kit, engine, consumer, source_of(queue))
        await _store(kit, engine, queue, [8])
        for number in range(3, 7):
            (suspect,) = await consumer.fetch(10, PATIENCE)
            assert (int(suspect.message.body), suspect.losses, suspect.trial) == (number, 2, 0)
            await kit.nothing(consumer)
            await kit.accept(consumer, suspect)
        innocent = await kit.take(consumer, 2)
        assert [(fetched.message.body, fetched.failures, fetched.losses) for fetched in innocent] == [
            (b"7", 2, 0),
            (b"8", 0, 0),
        ]
        assert [fetched.trial for fetched in innocent] == [None, None]

    @scenario
    async def test_one_suspect_is_in_hand_however_many_lanes(self, kit: Kit) -> None:
        """Only the one in hand is blamed when the owner is lost again, and another lane's is next."""
        engine, queue = await _ordered(kit, lanes=4)
        await _store(kit, engine, queue, range(20))
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.take(consumer, 20)
        suspects = set()
        for _ in range(3):
            consumer = await _lost(kit, engine, consumer, source_of(queue))
            (suspect,) = await consumer.fetch(100, PATIENCE)
            assert suspect.trial == 0
            await kit.nothing(consumer)
            suspects.add(suspect.lane)
        assert len(suspects) == 3
        done = [suspect]
        await kit.accept(consumer, suspect)
        while len(done) < 20:
            hand = await consumer.fetch(100, 1.0)
            await kit.accept(consumer, hand)
            done += hand
        assert sorted(int(body) for body in bodies(done)) == list(range(20))

    @scenario
    async def test_the_least_blamed_lane_is_next(self, kit: Kit) -> None:
        """Whichever lane has its turn: after each loss it is one that was blamed less than the others."""
        engine, queue = await _ordered(kit, lanes=2)
        await _store(kit, engine, queue, range(20))
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.take(consumer, 20)
        blamed = []
        for _ in range(6):
            consumer = await _lost(kit, engine, consumer, source_of(queue))
            suspect = await kit.take_one(consumer)
            blamed.append(suspect.trial)
        assert blamed == [0, 0, 1, 1, 2, 2]

    @scenario
    async def test_fresh_messages_of_a_lost_owners_lanes_are_on_trial(self, kit: Kit) -> None:
        """Nothing says which lane the owner died of: all of them start with one message, and one of them at a time."""
        engine, queue = await _ordered(kit, lanes=4)
        await _store(kit, engine, queue, range(1))
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.take_one(consumer)
        consumer = await _lost(kit, engine, consumer, source_of(queue))
        lost = await kit.take_one(consumer)
        await _store(kit, engine, queue, range(1, 20))
        await kit.accept(consumer, lost)
        hand = [*await consumer.fetch(100, PATIENCE), *await consumer.fetch(100, 0.1)]
        (alone,) = [fetched for fetched in hand if fetched.lane != lost.lane]  # That one's lane is wider by now.
        assert (alone.losses, alone.trial) == (0, 0)
        consumer = await _lost(kit, engine, consumer, source_of(queue))
        trials: dict[str, tuple[int, int | None]] = {}
        while len(trials) < 19:
            fetched = await kit.take_one(consumer)
            trials[fetched.message.id] = fetched.losses, fetched.trial
            await kit.accept(consumer, fetched)
        assert trials[alone.message.id] == (1, 1)

    @scenario
    async def test_among_suspects_of_a_queue_the_least_blamed_is_next(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await _store(kit, engine, queue, range(3))
        consumer = await kit.consumer(engine, source_of(queue))
        for _ in range(2):
            await kit.take(consumer, 3)
            consumer = await _lost(kit, engine, consumer, source_of(queue))
        await kit.settle(consumer, await kit.take(consumer, 3), Decision.TRIAL)
        trials = []
        for _ in range(6):
            trials.append((await kit.take_one(consumer)).trial)
            await kit.nothing(consumer)
            await kit.passes(0.001)
            consumer = await _lost(kit, engine, consumer, source_of(queue))
        assert trials == [0, 0, 0, 1, 1, 1]

    @scenario
    async def test_among_all_sources_the_least_blamed_is_next(self, kit: Kit) -> None:
        """An innocent that is the only suspect of its source must not be the one that each restart meets."""
        engine = await kit.engine()
        queues = [await kit.queue(engine, name) for name in ("first", "second")]
        for queue in queues:
            await _suspect(kit, engine, queue)
        blamed = []
        for _ in range(6):
            consumers = [await kit.consumer(engine, source_of(queue)) for queue in queues]
            waiting = [asyncio.ensure_future(consumer.fetch(10, 0.3)) for consumer in consumers]
            hand = [fetched for taken in await asyncio.gather(*waiting) for fetched in taken]
            assert len(hand) == 1
            blamed.append(hand[0].trial)
            for consumer in consumers:
                await consumer.close()
            await kit.passes(0.001)
        assert blamed == [0, 0, 1, 1, 2, 2]

    @scenario
    async def test_a_suspect_does_not_wait_for_one_that_nobody_takes(self, kit: Kit) -> None:
        """Another consumer had its time to begin, and wants nothing: it may be paused for a day."""
        engine = await kit.engine()
        queues = [await kit.queue(engine, name) for name in ("blamed", "fresh")]
        for queue in queues:
            await _suspect(kit, engine, queue)
        blamed, fresh = (source_of(queue) for queue in queues)
        consumer = await kit.consumer(engine, blamed)
        assert (await kit.take_one(consumer)).trial == 0
        await consumer.close()
        await kit.passes(0.001)
        await kit.consumer(engine, fresh)
        consumer = await kit.consumer(engine, blamed)
        await kit.nothing(consumer)  # The other one may be about to ask.
        await kit.passes(1.1)
        assert (await kit.take_one(consumer)).trial == 1

    @scenario
    async def test_a_redriven_suspect_of_an_ordered_source_is_on_trial(self, kit: Kit) -> None:
        """It has no lane that starts with one message again."""
        engine, queue = await _ordered(kit, lanes=1)
        await _store(kit, engine, queue, range(2))
        source = source_of(queue)
        consumer = await kit.consumer(engine, source)
        await kit.bury(consumer, await kit.take(consumer, 2))
        await engine.admin.sweep(source, lambda letter: "redrive", None, 10, 1.0)
        for losses in range(2):
            taken = await kit.take(consumer, 2)
            assert {(fetched.losses, fetched.trial) for fetched in taken} == {(losses, None)}
            consumer = await _lost(kit, engine, consumer, source)
        seen = []
        for _ in range(2):
            fetched = await kit.take_one(consumer)
            assert (fetched.losses, fetched.trial) == (2, 0)
            await kit.nothing(consumer)
            await kit.accept(consumer, fetched)
            seen.append(fetched.message.body)
        assert sorted(seen) == [b"0", b"1"]

    # -- followers --------------------------------------------------------------------------------------------------

    @scenario
    async def test_messages_that_follow_a_held_one_come_with_it_in_order(self, kit: Kit) -> None:
        engine, queue = await _ordered(kit, lanes=1)
        await _store(kit, engine, queue, range(100), key="k")
        consumer = await kit.consumer(engine, source_of(queue))
        await _retry_first(kit, consumer, await kit.take(consumer, 100), 0.0)
        done: list[Fetched] = []
        fetches = 0
        while len(done) < 100:
            hand = await consumer.fetch(100, 1.0)
            await kit.accept(consumer, hand)
            done += hand
            fetches += 1
        assert [int(body) for body in bodies(done)] == list(range(100))
        assert fetches < 10  # One at a time would take a hundred.

    @scenario
    async def test_followers_take_room_from_other_keys(self, kit: Kit) -> None:
        engine, queue = await _ordered(kit, lanes=1)
        for key in "ab":
            await _store(kit, engine, queue, range(6), key=key)
        consumer = await kit.consumer(engine, source_of(queue), window=8)
        taken = await kit.take(consumer, 8)
        await _retry_first(kit, consumer, taken[:6], 1.0)
        await _retry_first(kit, consumer, taken[6:], 1.0)
        await kit.nothing(consumer)
        await kit.passes(1.1)
        hand = await kit.take(consumer, 8)
        await kit.nothing(consumer)
        assert (await kit.stats(engine, source_of(queue))).leased == 8
        assert [fetched.message.key for fetched in hand] == ["a"] * 6 + ["b"] * 2

    @scenario
    async def test_a_follower_that_must_wait_itself_does_not_come_with_the_first(self, kit: Kit) -> None:
        engine, queue = await _ordered(kit, lanes=1)
        await _store(kit, engine, queue, range(3), key="k")
        consumer = await kit.consumer(engine, source_of(queue))
        first, second, third = await kit.take(consumer, 3)
        await kit.settle(consumer, third, Decision.RELEASE)
        await kit.retry(consumer, second, 10.0)
        await kit.retry(consumer, first, 1.0)
        await kit.passes(1.1)
        again = await consumer.fetch(10, PATIENCE)
        assert bodies(again) == [b"0"]
        await kit.nothing(consumer)
        await kit.accept(consumer, again)
        await kit.nothing(consumer)
        await kit.passes(9.0)
        assert bodies(await kit.take(consumer, 2)) == [b"1", b"2"]

    # -- collisions, and how much -----------------------------------------------------------------------------------

    @scenario
    async def test_a_range_that_begins_where_another_lies_is_handed_out_all_the_same(self, kit: Kit) -> None:
        """Whatever wrote that other one: no message of the new one is lost, and the other stays as it is."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        source = source_of(queue)
        consumer = await kit.consumer(engine, source)
        await execute(
            engine,
            "INSERT INTO span(source, stream, first, count, owner, token)"
            " SELECT source, stream, next, 1, 4711, 1 FROM cursor JOIN source ON source.id = source",
        )
        before = await execute(engine, "SELECT * FROM span")
        assert len(before) == 1
        sent = await _store(kit, engine, queue, range(5))
        taken = await kit.take(consumer, 5)
        assert sorted(ids(taken)) == sorted(sent)
        await kit.accept(consumer, taken)
        await kit.nothing(consumer)
        assert await execute(engine, "SELECT * FROM span") == before

    @scenario
    async def test_a_full_hand_claims_no_empty_ranges(self, kit: Kit) -> None:
        """Nobody would ever settle them, and history would not be trimmed past them."""
        engine = await kit.engine()
        source = Source("orders.*", SourceKind.GROUP, "watch")
        topics = [Channel(f"orders.{name}", ChannelKind.TOPIC) for name in ("paid", "placed")]
        await kit.declare(engine, topics, [source])
        for topic in topics:
            await _store(kit, engine, topic, range(3))
        consumer = await kit.consumer(engine, source)
        for _ in range(2):
            taken = await consumer.fetch(3, PATIENCE)
            assert len(taken) == 3
            assert await count(engine, "span") == 1
            await kit.retry(consumer, taken[0], 0.0)
            await kit.accept(consumer, [*taken[1:], *await kit.take(consumer, 1)])
            assert [await count(engine, table) for table in ("span", "item")] == [0, 0]

    @scenario
    async def test_one_transaction_parks_only_so_many(self, kit: Kit) -> None:
        """Behind one key that waits there may be all the others of a day; meanwhile nobody else may write."""
        engine, queue = await _ordered(kit, lanes=1)
        await _store(kit, engine, queue, range(1), key="k")
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.retry(consumer, await kit.take_one(consumer), 1.0)
        await _store(kit, engine, queue, range(1, 100), key="k")
        await _store(kit, engine, queue, [100], key="other")
        steps = []
        advance = Claiming._advance

        def advances(claiming: Claiming, holder: Holder, stream: int, next: int) -> None:
            steps.append(next)
            advance(claiming, holder, stream, next)

        with patch.object(claim, "PARKED", 20), patch.object(Claiming, "_advance", advances):
            # In one fetch: what is parked beyond the first step does not wait for somebody to ask again.
            assert bodies(await consumer.fetch(1, PATIENCE)) == [b"100"]
        assert [step - last for last, step in zip([1, *steps], steps, strict=False)] == [20, 20, 20, 20, 20]
        await kit.passes(1.1)
        done: list[Fetched] = []
        while len(done) < 100:
            hand = await kit.take(consumer, 1)
            await kit.accept(consumer, hand)
            done += hand
        assert [int(body) for body in bodies(done)] == list(range(100))

    @scenario
    async def test_who_wants_nothing_costs_nothing(self, kit: Kit) -> None:
        """Each commit of the process goes past all its consumers: those that are busy must not slow it down."""
        for ordered in (False, True):
            engine = await kit.engine()
            queue = await kit.queue(engine, f"work{ordered:d}", ordered=ordered, lanes=1)
            consumer = await kit.consumer(engine, source_of(queue))
            asked: list[str] = []

            def asks(cursor: apsw.Cursor, sql: str, values: object, asked: list[str] = asked) -> bool:
                asked.append(sql)
                return True

            await within(engine, lambda db: setattr(db, "exec_trace", asks))
            await _store(kit, engine, queue, range(3))
            about = [sql for sql in asked if "FROM item" in sql or "FROM span" in sql or "FROM cursor" in sql]
            assert asked
            assert about == []
            await kit.take(consumer, 3)
            await within(engine, lambda db: setattr(db, "exec_trace", None))
            assert "FROM cursor" in " ".join(asked)

    # -- leases -----------------------------------------------------------------------------------------------------

    @scenario
    async def test_what_turns_out_to_be_somebody_elses_is_told(self, kit: Kit) -> None:
        """At settling at the latest; nothing of it is done."""
        for ordered in (False, True):
            engine = await kit.engine()
            queue = await kit.queue(engine, f"work{ordered:d}", ordered=ordered, lanes=1)
            source = source_of(queue)
            await _store(kit, engine, queue, range(10))
            told: list[object] = []
            consumer = await kit.consumer(engine, source, lost=told.extend)
            taken = await kit.take(consumer, 10)
            for fetched in taken[:5]:  # They become rows; the others stay a range.
                await kit.retry(consumer, fetched, 0.0)
            taken[:5] = await kit.take(consumer, 5)
            for table in ("span", "item"):
                await execute(engine, f"UPDATE {table} SET token = token + 1")
            decisions = [Decision.ACCEPT, Decision.DEAD, Decision.RETRY, Decision.RELEASE, Decision.TRIAL] * 2
            at = kit.clock.now()
            answers = await consumer.settle(
                [Settlement(fetched.lease, decision, at=at) for fetched, decision in zip(taken, decisions, strict=True)]
            )
            assert list(answers) == [Settled.LOST] * 10

            async def were_told(told: Sequence[object] = told, taken: Sequence[Fetched] = taken) -> bool:
                return {id(lease) for lease in told} == {id(fetched.lease) for fetched in taken}

            await kit.eventually("what was lost is told", were_told)
            await kit.nothing(consumer)
            stats = await kit.stats(engine, source)
            assert (stats.leased, stats.retrying, stats.dead) == (10, 0, 0), stats

    @scenario
    async def test_a_lane_that_turns_out_to_be_somebody_elses_is_not_claimed(self, kit: Kit) -> None:
        """Whoever has it now hands out what lies in it; other lanes go on."""
        engine, queue = await _ordered(kit, lanes=2)
        consumer = await kit.consumer(engine, source_of(queue))
        await _store(kit, engine, queue, range(20))
        taken = await kit.take(consumer, 20)
        await kit.accept(consumer, taken)
        await execute(
            engine, "UPDATE cursor SET epoch = epoch + 1 WHERE stream = (SELECT no FROM stream WHERE lane = 1)"
        )
        await _store(kit, engine, queue, range(20))
        own = [fetched for fetched in taken if fetched.lane == 0]
        assert 0 < len(own) < 20
        assert sorted(bodies(await kit.take(consumer, len(own)))) == sorted(bodies(own))
        await kit.nothing(consumer)
        assert not engine.problems()


class TestClaimOnFile(ClaimSuite):
    target = OnFile()


class TestClaimInMemory(ClaimSuite):
    target = InMemory()


async def _ordered(kit: Kit, *, lanes: int) -> tuple[Engine, Channel]:
    engine = await kit.engine()
    return engine, await kit.queue(engine, ordered=True, lanes=lanes)


async def _store(kit: Kit, engine: Engine, queue: Channel, numbers: Sequence[int], key: str | None = None) -> list[str]:
    """Publishes numbers, each with a key of its own unless one is given; their ids."""
    batch = [kit.outgoing(queue, b"%d" % number, key=key or f"k{number}") for number in numbers]
    await kit.store(engine, batch)
    return [outgoing.message.id for outgoing in batch]


async def _suspect(kit: Kit, engine: Engine, queue: Channel) -> None:
    """A message on trial, in nobody's hand."""
    await _store(kit, engine, queue, range(1))
    consumer = await kit.consumer(engine, source_of(queue))
    await kit.settle(consumer, await kit.take_one(consumer), Decision.TRIAL)
    await consumer.close()


async def _lost(kit: Kit, engine: Engine, consumer: Consumer, source: Source) -> Consumer:
    """Ends a consumer with what it has in hand; the next one."""
    await consumer.close()
    return await kit.consumer(engine, source)


async def _retry_first(kit: Kit, consumer: Consumer, taken: Sequence[Fetched], delay: float) -> None:
    """As the core does with a key that failed: its first message is tried again, the others go back."""
    at = kit.clock.now() + timedelta(seconds=delay)
    batch = [Settlement(taken[0].lease, Decision.RETRY, at=at, error="{}")]
    batch += [Settlement(fetched.lease, Decision.RELEASE) for fetched in taken[1:]]
    assert set(await consumer.settle(batch)) == {Settled.DONE}
