"""Settling: each decision, what it counts, and what a lost lease means."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from ...engine import Decision, Outgoing, Settled, Settlement
from ..clock import VirtualClock
from .kit import SILENCE, Kit, Suite, bodies, ids, scenario, source_of

HOLD = 4.0
"""Seconds after which the engine lets a lease go in these tests."""


class SettleContract(Suite):
    """`Consumer.settle`."""

    @scenario
    async def test_accepted_never_returns(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, *[b"%d" % n for n in range(100)])
        consumer = await kit.consumer(first, source_of(queue))
        taken = await kit.take(consumer, 100)
        await kit.accept(consumer, taken[::2])
        await kit.accept(consumer, taken[1::2])
        await kit.close(first)
        other = await kit.consumer(second, source_of(queue))
        await kit.nothing(other)

    @scenario
    async def test_settling_out_of_order(self, kit: Kit) -> None:
        """Any subset may be settled, one by one; the rest comes back and nothing else."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, *[b"%02d" % n for n in range(40)])
        consumer = await kit.consumer(first, source_of(queue))
        taken = await kit.take(consumer, 40)
        for fetched in reversed(taken[5:30:3]):
            await kit.accept(consumer, fetched)
        await consumer.close()
        left = sorted(set(bodies(taken)) - set(bodies(taken[5:30:3])))
        other = await kit.consumer(second, source_of(queue))
        again = await kit.take(other, len(left))
        assert sorted(bodies(again)) == left
        assert {fetched.losses for fetched in again} == {1}

    @scenario
    async def test_the_same_decision_again_gets_the_same_answer(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue))
        fetched = await kit.take_one(consumer)
        settlement = Settlement(fetched.lease, Decision.ACCEPT)
        first = await consumer.settle([settlement])
        assert list(await consumer.settle([settlement])) == list(first)

    @scenario
    async def test_failures_count_exactly(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, b"1")
        one = await kit.consumer(first, source_of(queue))
        for failures in range(3):
            fetched = await kit.take_one(one)
            assert (fetched.failures, fetched.losses) == (failures, 0)
            await kit.retry(one, fetched, 0)
        await one.close()
        other = await kit.consumer(second, source_of(queue))
        fetched = await kit.take_one(other)
        assert (fetched.failures, fetched.losses, fetched.message.body) == (3, 0, b"1"), fetched

    @scenario
    async def test_a_retry_is_never_early(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue))
        due = kit.clock.now() + timedelta(seconds=2)
        await kit.retry(consumer, await kit.take_one(consumer), 2.0)
        await kit.nothing(consumer)
        await kit.passes(1.5)
        if kit.clock.now() < due:
            await kit.nothing(consumer)
        await kit.passes(0.6)
        fetched = await kit.take_one(consumer)
        assert fetched.failures == 1
        assert kit.clock.now() >= due

    @scenario
    async def test_others_flow_while_one_waits(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1", b"2")
        consumer = await kit.consumer(engine, source_of(queue))
        failed, fine = await kit.take(consumer, 2)
        await kit.retry(consumer, failed, 60.0)
        await kit.accept(consumer, fine)
        await kit.publish(engine, queue, b"3")
        assert bodies(await kit.take(consumer, 1)) == [b"3"]
        await kit.nothing(consumer)

    @scenario
    async def test_retries_come_by_their_time(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"late", b"soon")
        consumer = await kit.consumer(engine, source_of(queue))
        late, soon = await kit.take(consumer, 2)
        await kit.retry(consumer, late, 2.0)
        await kit.retry(consumer, soon, 1.0)
        await kit.passes(1.1)
        assert bodies(await kit.take(consumer, 1)) == [b"soon"]
        await kit.passes(1.0)
        assert bodies(await kit.take(consumer, 1)) == [b"late"]

    @scenario
    async def test_a_reject_leaves_the_source(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1", b"2")
        consumer = await kit.consumer(engine, source_of(queue))
        first, second = await kit.take(consumer, 2)
        await kit.bury(consumer, first)
        await kit.accept(consumer, second)
        await kit.nothing(consumer)
        assert [letter.message.body for letter in await kit.letters(engine, source_of(queue))] == [b"1"]

    @scenario
    async def test_a_discard_is_kept_nowhere(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.settle(consumer, await kit.take_one(consumer), Decision.DISCARD, reason="expired")
        await kit.nothing(consumer)
        assert not await kit.letters(engine, source_of(queue))

    @scenario
    async def test_a_release_counts_nothing(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1", b"2", b"3")
        consumer = await kit.consumer(engine, source_of(queue))
        for _ in range(6):
            taken = await kit.take(consumer, 3)
            assert {(fetched.failures, fetched.losses, fetched.trial) for fetched in taken} == {(0, 0, None)}
            await kit.settle(consumer, taken, Decision.RELEASE)
        assert sorted(bodies(await kit.take(consumer, 3))) == [b"1", b"2", b"3"]

    @scenario
    async def test_a_release_keeps_what_was_counted(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.retry(consumer, await kit.take_one(consumer), 0)
        fetched = await kit.take_one(consumer)
        await kit.settle(consumer, fetched, Decision.RELEASE)
        fetched = await kit.take_one(consumer)
        assert fetched.failures == 1
        await kit.bury(consumer, fetched)
        (letter,) = await kit.letters(engine, source_of(queue))
        assert list(letter.errors) == ['{"number":1}'] * 2, "the attempts, and nothing for what was given back"

    @scenario
    async def test_losses_and_failures_add_up(self, kit: Kit) -> None:
        """A failure after a loss forgets neither."""
        queue = await kit.queue(await kit.engine())
        source = source_of(queue)
        first = await kit.engine()
        await kit.publish(first, queue, b"1")
        one = await kit.consumer(first, source)
        await kit.take_one(one)
        await one.close()
        two = await kit.consumer(first, source)
        fetched = await kit.take_one(two)
        assert (fetched.failures, fetched.losses) == (0, 1)
        await kit.retry(two, fetched, 0)
        fetched = await kit.take_one(two)
        assert (fetched.failures, fetched.losses) == (1, 1)
        await two.close()
        three = await kit.consumer(await kit.engine(), source)
        fetched = await kit.take_one(three)
        assert (fetched.failures, fetched.losses) == (1, 2)

    # -- trial ------------------------------------------------------------------------------------------------------

    @scenario
    async def test_one_trial_is_in_hand_at_a_time(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, *[b"%d" % n for n in range(5)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 5)
        await kit.settle(consumer, taken[:3], Decision.TRIAL)
        await kit.accept(consumer, taken[3:])
        seen = []
        for _ in range(3):
            fetched = await kit.take_one(consumer)
            assert fetched.trial == 0, fetched
            await kit.nothing(consumer)
            seen.append(fetched.message.id)
            await kit.accept(consumer, fetched)
        assert sorted(seen) == sorted(ids(taken[:3]))

    @scenario
    async def test_one_trial_is_in_hand_of_all_sources(self, kit: Kit) -> None:
        """Of one process: if it dies, nobody else was on trial."""
        engine = await kit.engine()
        queues = [await kit.queue(engine, name) for name in ("first", "second")]
        consumers = [await kit.consumer(engine, source_of(queue)) for queue in queues]
        for queue, consumer in zip(queues, consumers, strict=True):
            await kit.publish(engine, queue, b"1")
            await kit.settle(consumer, await kit.take_one(consumer), Decision.TRIAL)
            fetched = await kit.take_one(consumer)
            assert fetched.trial == 0, fetched
            await kit.retry(consumer, fetched, 1.0)
        waiting = [asyncio.ensure_future(consumer.fetch(10, 2.0)) for consumer in consumers]
        await asyncio.sleep(SILENCE)
        await kit.passes(1.1)
        taken = await asyncio.gather(*waiting)
        assert sorted(map(len, taken)) == [0, 1], "one of them, however many wait"
        for consumer, hand in zip(consumers, taken, strict=True):
            await kit.accept(consumer, hand)
        first, second = consumers if not taken[0] else reversed(consumers)
        await kit.nothing(second)
        assert (await kit.take_one(first)).trial == 0

    @scenario
    async def test_losses_on_trial_are_counted_apart(self, kit: Kit) -> None:
        queue = await kit.queue(engine := await kit.engine())
        source = source_of(queue)
        await kit.publish(engine, queue, b"poison")
        consumer = await kit.consumer(engine, source)
        await kit.settle(consumer, await kit.take_one(consumer), Decision.TRIAL)
        for trial in range(3):
            fetched = await kit.take_one(consumer)
            assert fetched.trial == trial, fetched
            assert fetched.failures == 0
            await consumer.close()
            consumer = await kit.consumer(engine, source)
        await kit.bury(consumer, await kit.take_one(consumer), reason="crashed")
        (letter,) = await kit.letters(engine, source)
        assert letter.reason == "crashed"

    # -- leases -----------------------------------------------------------------------------------------------------

    @scenario
    async def test_a_lease_is_kept_without_asking(self, kit: Kit) -> None:
        """Ten leases long in hand, never redelivered, still ours."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first)
        await kit.publish(first, queue, b"1")
        one = await kit.consumer(first, source_of(queue))
        fetched = await kit.take_one(one)
        other = await kit.consumer(second, source_of(queue))
        for _ in range(10):
            await kit.passes(2.0)
            assert not await other.fetch(1, 0.01)
        await kit.nothing(other)
        await kit.accept(one, fetched)

    @scenario
    async def test_a_stale_lease_settles_nothing(self, kit: Kit) -> None:
        """The lease is let go at its longest hold; who holds the message then decides about it alone."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        source = source_of(queue)
        await kit.publish(engine, queue, b"1", b"2")
        told: list[object] = []

        def lost(leases: Sequence[object]) -> None:
            told.extend(leases)

        consumer = await kit.consumer(engine, source, window=2, max_hold=HOLD, lost=lost)
        stale = await kit.take(consumer, 2)
        await kit.passes(HOLD + 1)
        again = await kit.take(consumer, 2)
        assert sorted(ids(again)) == sorted(ids(stale))
        assert {fetched.losses for fetched in again} == {1}
        answers = await consumer.settle([Settlement(fetched.lease, Decision.ACCEPT) for fetched in stale])
        assert list(answers) == [Settled.LOST] * 2, answers
        assert (await kit.stats(engine, source)).leased in (None, 2)

        async def were_told() -> bool:
            return {id(lease) for lease in told} >= {id(fetched.lease) for fetched in stale}

        await kit.eventually("lost leases are reported", were_told)
        at = kit.clock.now()
        dead = Settlement(stale[0].lease, Decision.DEAD, reason="rejected")
        retry = Settlement(stale[1].lease, Decision.RETRY, at=at)
        for answer in await consumer.settle([dead, retry]):
            assert answer is Settled.LOST
        await kit.accept(consumer, again)
        if engine.features.atomic:
            await kit.nothing(consumer)
            assert not await kit.letters(engine, source)

    @scenario
    async def test_a_process_that_was_stopped_past_its_lease(self, kit: Kit) -> None:
        """Its messages went to another process; waking, it settles, dead-letters and emits nothing of them."""
        engine = await kit.engine()
        if not self.target.virtual or not engine.features.durable:
            return  # Memory has one process, and that cannot be stopped without its tests.
        queue = await kit.queue(engine)
        mails = await kit.queue(engine, "mails")
        source = source_of(queue)
        still = VirtualClock(kit.clock.now())
        stopped = await kit.engine(still)
        told: list[object] = []
        await kit.publish(engine, queue, *[b"%d" % n for n in range(6)])
        consumer = await kit.consumer(stopped, source, lost=told.extend)
        taken = await kit.take(consumer, 6)
        await kit.retry(consumer, taken[0], 0)
        taken[0] = await kit.take_one(consumer)
        await kit.accept(consumer, taken[5])
        await consumer.stop()
        await kit.passes(5 * self.target.lease)
        other = await kit.consumer(engine, source)
        again = {fetched.message.body: fetched for fetched in await kit.take_over(other, 5)}
        counts = {body: (fetched.failures, fetched.losses) for body, fetched in again.items()}
        assert counts == {b"0": (1, 1), b"1": (0, 1), b"2": (0, 1), b"3": (0, 1), b"4": (0, 1)}
        still.advance_to(kit.clock.now())
        answers = await consumer.settle(
            [
                Settlement(taken[0].lease, Decision.ACCEPT),
                Settlement(taken[1].lease, Decision.ACCEPT, emit=[kit.outgoing(mails)]),
                Settlement(taken[2].lease, Decision.RETRY, at=kit.clock.now()),
                Settlement(taken[3].lease, Decision.DEAD, reason="rejected"),
                Settlement(taken[4].lease, Decision.RELEASE),
            ]
        )
        assert set(answers) == {Settled.LOST}, answers

        async def were_told() -> bool:
            return {id(lease) for lease in told} == {id(fetched.lease) for fetched in taken[:5]}

        await kit.eventually("what was in hand, and nothing else, is told as lost", were_told)
        await kit.accept(other, list(again.values()))
        if engine.features.atomic:
            await kit.nothing(other)
            assert not await kit.letters(engine, source)
            await kit.nothing(await kit.consumer(engine, source_of(mails)))

    @scenario
    async def test_one_item_lost_settles_the_others(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue), max_hold=HOLD)
        stale = await kit.take_one(consumer)
        await kit.passes(HOLD + 1)
        again = await kit.take_one(consumer)
        await kit.publish(engine, queue, b"2")
        fresh = await kit.take_one(consumer)
        answers = await consumer.settle([Settlement(f.lease, Decision.ACCEPT) for f in (stale, fresh, again)])
        assert answers[0] is Settled.LOST
        assert {answers[1], answers[2]} <= {Settled.DONE, Settled.SENT}
        await kit.nothing(consumer)

    # -- emission ---------------------------------------------------------------------------------------------------

    @scenario
    async def test_emissions_leave_with_the_settlement(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        mails = await kit.queue(engine, "mails")
        topic = await kit.topic(engine, "events.made", "audit")
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue))
        fetched = await kit.take_one(consumer)
        emit = [kit.outgoing(mails, b"mail"), kit.outgoing(topic, b"event")]
        await kit.settle(consumer, fetched, Decision.ACCEPT, emit=emit)
        mail = await kit.take_one(await kit.consumer(engine, source_of(mails)))
        event = await kit.take_one(await kit.consumer(engine, source_of(topic, "audit")))
        assert [mail.message, event.message] == [outgoing.message for outgoing in emit]

    @scenario
    async def test_what_a_retried_message_emits_leaves_once(self, kit: Kit) -> None:
        """With the attempt that succeeds."""
        engine = await kit.engine()
        queue, mails = await kit.queue(engine), await kit.queue(engine, "mails")
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.retry(consumer, await kit.take_one(consumer), 0)
        emit = [kit.outgoing(mails, b"mail")]
        await kit.settle(consumer, await kit.take_one(consumer), Decision.ACCEPT, emit=emit)
        mailer = await kit.consumer(engine, source_of(mails))
        assert (await kit.take_one(mailer)).message == emit[0].message
        await kit.nothing(mailer)

    @scenario
    async def test_a_stale_lease_emits_nothing(self, kit: Kit) -> None:
        engine = await kit.engine()
        if not engine.features.atomic:
            return
        queue, mails = await kit.queue(engine), await kit.queue(engine, "mails")
        await kit.publish(engine, queue, b"1")
        consumer = await kit.consumer(engine, source_of(queue), max_hold=HOLD)
        stale = await kit.take_one(consumer)
        await kit.passes(HOLD + 1)
        await kit.take_one(consumer)
        emit: Sequence[Outgoing] = [kit.outgoing(mails, b"mail")]
        assert list(await consumer.settle([Settlement(stale.lease, Decision.ACCEPT, emit=emit)])) == [Settled.LOST]
        await kit.nothing(await kit.consumer(engine, source_of(mails)))

    @scenario
    async def test_settling_from_many_tasks(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        await kit.publish(engine, queue, *[b"%d" % n for n in range(100)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 100)
        await asyncio.gather(*(kit.accept(consumer, fetched) for fetched in taken))
        await kit.nothing(consumer)
        stats = await kit.stats(engine, source_of(queue))
        assert (stats.ready or 0, stats.leased or 0) == (0, 0)
