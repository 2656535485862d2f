"""Settling when something is in the way: a commit that fails, an emission without a place, an owner that ended."""

from __future__ import annotations

from contextlib import suppress

import apsw

from telex.engine import Channel, ChannelKind, Consumer, Decision, Engine, Fetched, Settled, Settlement, Source
from telex.engines.embedded.expire import expire_member, stopped_members
from telex.errors import Disconnected
from telex.testing import VirtualClock
from telex.testing.contract import Kit, Suite, scenario
from telex.testing.contract.kit import bodies, source_of

from ...contract.targets import InMemory, OnFile
from .inside import count, execute, store_of, within


class SettleSuite(Suite):
    """On one form of the engine."""

    # -- commits that fail ------------------------------------------------------------------------------------------

    @scenario
    async def test_a_failed_commit_settles_nothing(self, kit: Kit) -> None:
        """Every decision, of a range and of rows: all are in hand as before, and can be settled again."""
        for ordered in (False, True):
            engine, source, consumer = await _consumed(kit, 7, ordered=ordered)
            taken = await kit.take(consumer, 7)
            await kit.retry(consumer, taken[0], 0.0)
            await kit.retry(consumer, taken[1], 0.0)
            taken[:2] = await kit.take(consumer, 2)
            at = kit.clock.now()
            batch = [
                Settlement(taken[0].lease, Decision.ACCEPT),
                Settlement(taken[1].lease, Decision.RETRY, at=at, error="{}"),
                Settlement(taken[2].lease, Decision.ACCEPT),
                Settlement(taken[3].lease, Decision.RETRY, at=at, error="{}"),
                Settlement(taken[4].lease, Decision.RELEASE),
                Settlement(taken[5].lease, Decision.DEAD, reason="rejected"),
            ]
            await _fails(engine, "INSERT ON dead")
            done, failed = Settled.DONE, Settled.FAILED
            for _ in range(2):  # What needs no room is done all the same.
                assert list(await consumer.settle(batch)) == [done, failed, done, failed, failed, failed]
            stats = await kit.stats(engine, source)
            assert (stats.leased, stats.dead) == (5, 0), stats
            await execute(engine, "DROP TRIGGER fails")
            assert set(await consumer.settle(batch)) == {Settled.DONE}
            await kit.accept(consumer, taken[6])
            again = [await _accepted(kit, consumer) for _ in range(3)]
            counts = {fetched.message.body: fetched.failures for fetched in again}
            assert counts == {b"1": 2, b"3": 1, b"4": 0}
            await kit.nothing(consumer)
            assert [letter.message.body for letter in await kit.letters(engine, source)] == [b"5"]
            assert [await count(engine, table) for table in ("span", "item")] == [0, 0]

    @scenario
    async def test_a_failed_commit_lets_no_lease_go(self, kit: Kit) -> None:
        """What was held too long is let go by the next commit instead, once."""
        engine, _, consumer = await _consumed(kit, 3, max_hold=2.0)
        await kit.take(consumer, 3)
        await _fails(engine, "DELETE ON span")
        assert isinstance(kit.clock, VirtualClock)
        kit.clock.advance(3.0)
        with suppress(Disconnected):  # Whether this transaction fails, or one before it.
            await execute(engine, "SELECT 1")
        assert await count(engine, "span") == 1
        await execute(engine, "DROP TRIGGER fails")
        await kit.passes(3.0)
        again = [await _accepted(kit, consumer) for _ in range(3)]
        assert [fetched.losses for fetched in again] == [1, 1, 1]
        await kit.nothing(consumer)
        assert [await count(engine, table) for table in ("span", "item")] == [0, 0]

    # -- emission ---------------------------------------------------------------------------------------------------

    @scenario
    async def test_what_emits_to_a_channel_of_another_kind_is_buried(self, kit: Kit) -> None:
        """It is there to be sent again; nothing of what it emits has left, and its neighbours are not disturbed."""
        engine, source, consumer = await _consumed(kit, 3)
        mails = await kit.queue(engine, "mails")
        events = await kit.topic(engine, "events.made", "audit")
        wrong = Channel("events.made", ChannelKind.QUEUE)
        taken = await kit.take(consumer, 3)
        await kit.retry(consumer, taken[2], 0.0)
        taken[2] = await kit.take_one(consumer)
        emits = [[kit.outgoing(mails), kit.outgoing(wrong)], [kit.outgoing(events, b"event")], [kit.outgoing(wrong)]]
        answers = await consumer.settle(
            [Settlement(fetched.lease, Decision.ACCEPT, emit=emit) for fetched, emit in zip(taken, emits, strict=True)]
        )
        assert list(answers) == [Settled.DONE] * 3
        letters = await kit.letters(engine, source)
        assert {letter.message.body: letter.reason for letter in letters} == {b"0": "rejected", b"2": "rejected"}
        assert all("events.made" in letter.text for letter in letters)
        await kit.nothing(await kit.consumer(engine, source_of(mails)))
        assert bodies(await kit.take(await kit.consumer(engine, source_of(events, "audit")), 1)) == [b"event"]
        await kit.nothing(consumer)

    # -- the end of an owner ----------------------------------------------------------------------------------------

    @scenario
    async def test_the_end_of_a_process_leaves_nothing_of_it(self, kit: Kit) -> None:
        """All that it had in hand comes back, and it is no member any more."""
        engine, _, consumer = await _consumed(kit, 4, ordered=True)
        taken = await kit.take(consumer, 4)
        await kit.retry(consumer, taken[0], 0.0)
        await kit.take_one(consumer)
        store = store_of(engine)

        def end(db: apsw.Connection) -> int:
            """As another process does with one that it finds dead."""
            db.execute("INSERT INTO member(id, boot, seen) SELECT 4711, boot, seen FROM member")
            db.execute("UPDATE consumer SET member = 4711")
            return expire_member(db, store.tail, 4711)

        assert await within(engine, end) == 4
        assert await execute(engine, "SELECT id FROM member WHERE id = 4711") == []
        assert [await count(engine, table) for table in ("span", "consumer")] == [0, 0]
        assert await execute(engine, "SELECT pos & 7, failures, losses, owner FROM item ORDER BY pos") == [
            (number, int(number == 0), 1, None) for number in range(4)
        ]
        assert await execute(engine, "SELECT DISTINCT owner, lost FROM cursor") == [(None, 1)]

    @scenario
    async def test_who_is_late_may_have_stopped(self, kit: Kit) -> None:
        """Of the same boot, since its clock is ours; and not ourselves."""
        engine = await kit.engine()
        ours = store_of(engine).member.id

        def late(db: apsw.Connection) -> list[list[int]]:
            db.execute("INSERT INTO member(id, boot, seen, deadline) VALUES (4711, 'this', 0, 1000)")
            db.execute("INSERT INTO member(id, boot, seen, deadline) VALUES (4712, 'other', 0, 1000)")
            db.execute("INSERT INTO member(id, boot, seen, deadline) VALUES (4713, 'this', 0, 0)")
            found = [stopped_members(db, me, "this", now) for me, now in ((ours, 1000), (ours, 1001), (4711, 1001))]
            db.execute("DELETE FROM member WHERE id > 4710")
            return [list(ids) for ids in found]

        assert await within(engine, late) == [[], [4711], []]


class TestSettleOnFile(SettleSuite):
    target = OnFile()


class TestSettleInMemory(SettleSuite):
    target = InMemory()


async def _consumed(
    kit: Kit, number: int, *, ordered: bool = False, max_hold: float | None = None
) -> tuple[Engine, Source, Consumer]:
    """A consumer of a queue with so many messages, each with a key of its own."""
    engine = await kit.engine()
    queue = await kit.queue(engine, f"work{ordered:d}", ordered=ordered, lanes=1)
    await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key=f"k{n}") for n in range(number)])
    return engine, source_of(queue), await kit.consumer(engine, source_of(queue), max_hold=max_hold)


async def _fails(engine: Engine, what: str) -> None:
    """Lets each transaction fail that does this, until the trigger ``fails`` is dropped."""
    await execute(engine, f"CREATE TEMP TRIGGER fails BEFORE {what} BEGIN SELECT raise(FAIL, 'it fails'); END")


async def _accepted(kit: Kit, consumer: Consumer) -> Fetched:
    fetched = await kit.take_one(consumer)
    await kit.accept(consumer, fetched)
    return fetched
