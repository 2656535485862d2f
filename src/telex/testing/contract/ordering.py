"""Order: per key in stored order, across retries, owners and restarts."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ...engine import Channel, ChannelKind, Consumer, Decision, Fetched, Settlement
from ...features import Refusal
from ..clock import VirtualClock
from .kit import SILENCE, Kit, Suite, bodies, scenario, source_of

HOLD = 2.0
"""Seconds after which the engine lets a lease go in these tests."""


class OrderContract(Suite):
    """Ordered sources."""

    @scenario
    async def test_stored_order_per_key(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 7}") for n in range(210)])
        consumer = await kit.consumer(engine, source_of(queue))
        _in_order(await kit.take(consumer, 210))

    @scenario
    async def test_a_retried_key_waits_and_others_flow(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True)
        batch = [kit.outgoing(queue, b"%d" % n, key="ab"[n % 2]) for n in range(6)]
        await kit.store(engine, batch)
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 6)
        first, successors = _split(taken, "a")
        await _retry(kit, consumer, first, successors, 2.0)
        await kit.accept(consumer, [fetched for fetched in taken if fetched.message.key == "b"])
        await kit.store(engine, [kit.outgoing(queue, b"6", key="a"), kit.outgoing(queue, b"7", key="b")])
        assert bodies(await kit.take(consumer, 1)) == [b"7"]
        await kit.nothing(consumer)
        await kit.passes(2.1)
        again = await _run(kit, consumer, 4)
        assert bodies(again) == [b"0", b"2", b"4", b"6"]
        assert [fetched.failures for fetched in again] == [1, 0, 0, 0]
        assert [fetched.losses for fetched in again] == [0, 0, 0, 0]

    @scenario
    async def test_order_holds_through_several_failures(self, kit: Kit) -> None:
        """Each message of a key fails twice; the key's order is the stored one all the same."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(5)])
        consumer = await kit.consumer(engine, source_of(queue))
        done: list[bytes] = []
        hand: list[Fetched] = []
        while len(done) < 5:
            hand += await consumer.fetch(10, 1.0)
            head, successors = hand[0], hand[1:]
            assert head.message.body == b"%d" % len(done), (head, done)
            if head.failures < 2:
                await _retry(kit, consumer, head, successors, 0.5)
                hand = []
                await kit.passes(0.6)
            else:
                await kit.accept(consumer, head)
                done.append(head.message.body)
                hand = successors
        await kit.nothing(consumer)

    @scenario
    async def test_after_a_dead_letter_the_key_goes_on(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(3)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 3)
        await _retry(kit, consumer, taken[0], taken[1:], 0.0)
        first = await kit.take_one(consumer)
        assert (first.message.body, first.failures) == (b"0", 1)
        await kit.bury(consumer, first)
        assert bodies(await _run(kit, consumer, 2)) == [b"1", b"2"]
        assert [letter.message.body for letter in await kit.letters(engine, source_of(queue))] == [b"0"]

    @scenario
    async def test_order_holds_across_a_restart_with_a_waiting_key(self, kit: Kit) -> None:
        """The owner dies while a key waits for its retry: the next one waits for it too."""
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(4)])
        one = await kit.consumer(first, source_of(queue))
        taken = await kit.take(one, 4)
        await _retry(kit, one, taken[0], taken[1:], 5.0)
        await kit.close(first)
        await kit.store(second, [kit.outgoing(queue, b"4", key="a")])
        other = await kit.consumer(second, source_of(queue))
        early = await other.fetch(10, SILENCE)
        assert all(fetched.not_before is not None for fetched in early[:1])
        if not early:
            await kit.passes(5.1)
            early = await kit.take(other, 1)
        hand = list(early)
        done: list[bytes] = []
        while len(done) < 5:
            if not hand:
                hand = await kit.take(other, 1)
            done.append(hand[0].message.body)
            await kit.accept(other, hand.pop(0))
        assert done == [b"0", b"1", b"2", b"3", b"4"]

    @scenario
    async def test_order_holds_when_an_owner_is_lost(self, kit: Kit) -> None:
        """Unsettled messages come back to the next owner before what follows them."""
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 5}") for n in range(50)])
        one = await kit.consumer(first, source_of(queue), window=20)
        taken = await kit.take(one, 20)
        await kit.accept(one, taken[:8])
        await kit.close(first)
        other = await kit.consumer(second, source_of(queue))
        again = await _run(kit, other, 42)
        _in_order([*taken[:8], *again])
        assert {fetched.failures for fetched in again} == {0}

    @scenario
    async def test_a_lane_whose_owner_was_lost_starts_with_one(self, kit: Kit) -> None:
        """And doubles with each message that is settled: one that kills its process takes no others with it."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True, lanes=1)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key=f"k{n}") for n in range(16)])
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.take(consumer, 12)
        for _ in range(2):  # The second time it has nothing in hand but what was lost before.
            await consumer.close()
            consumer = await kit.consumer(engine, source_of(queue))
            hand = [await kit.take_one(consumer)]
            await kit.nothing(consumer)
        done: list[Fetched] = []
        for width in (2, 8):
            await kit.accept(consumer, hand)
            done += hand
            hand = await kit.take(consumer, width)
            await kit.nothing(consumer)
        await kit.accept(consumer, hand)
        assert [int(body) for body in bodies([*done, *hand, *await kit.take(consumer, 5)])] == list(range(16))

    @scenario
    async def test_an_owner_that_was_stopped_past_its_lease(self, kit: Kit) -> None:
        """Its lanes went to another process, in order; waking, it changes nothing in them."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal) or not self.target.virtual or not engine.features.durable:
            return  # Memory has one process, and that cannot be stopped without its tests.
        queue = await kit.queue(engine, ordered=True, lanes=1)
        still = VirtualClock(kit.clock.now())
        stopped = await kit.engine(still)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 3}") for n in range(30)])
        consumer = await kit.consumer(stopped, source_of(queue), window=12)
        taken = await kit.take(consumer, 12)
        await kit.accept(consumer, taken[:2])
        await consumer.stop()
        await kit.passes(5 * self.target.lease)
        other = await kit.consumer(engine, source_of(queue))
        again = await kit.take_over(other, 1)
        await kit.accept(other, again)
        again += await _run(kit, other, 9)
        still.advance_to(kit.clock.now())
        answers = await consumer.settle(
            [Settlement(fetched.lease, Decision.RETRY, at=kit.clock.now()) for fetched in taken[2:]]
        )
        assert {answer.name for answer in answers} == {"LOST"}
        again += await _run(kit, other, 18)
        _in_order([*taken[:2], *again])
        await kit.nothing(other)

    @scenario
    async def test_leases_that_were_held_too_long(self, kit: Kit) -> None:
        """They are let go with all that was counted, in order; settled late, they change nothing."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True, lanes=1)
        source = source_of(queue)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key="ab"[n % 2]) for n in range(6)])
        told: list[object] = []
        consumer = await kit.consumer(engine, source, max_hold=HOLD, lost=told.extend)
        stale = await kit.take(consumer, 6)
        head, successors = _split(stale, "a")
        await _retry(kit, consumer, head, successors, 0.0)
        stale = [*stale[1::2], *await kit.take(consumer, 3)]  # Those of b are a range, those of a rows.
        await kit.passes(HOLD + 1)
        again = await _run(kit, consumer, 3)
        late = await consumer.settle([Settlement(fetched.lease, Decision.ACCEPT) for fetched in stale])
        assert {answer.name for answer in late} == {"LOST"}, late
        again += await _run(kit, consumer, 3)
        _in_order(again)
        counts = {fetched.message.body: (fetched.failures, fetched.losses) for fetched in again}
        assert counts == {b"0": (1, 1), **{b"%d" % n: (0, 1) for n in range(1, 6)}}
        await kit.nothing(consumer)
        stats = await kit.stats(engine, source)
        assert (stats.ready or 0, stats.retrying or 0, stats.leased or 0) == (0, 0, 0), stats
        assert {id(lease) for lease in told} == {id(fetched.lease) for fetched in stale}

    @scenario
    async def test_a_lane_has_one_owner(self, kit: Kit) -> None:
        """Two processes never hold messages of one lane at the same time, and both get lanes."""
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True, lanes=8)
        consumers = [await kit.consumer(engine, source_of(queue), window=10) for engine in (first, second)]
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 40}") for n in range(400)])
        held: dict[int, tuple[int, int]] = {}
        taken: list[Fetched] = []
        worked = [0, 0]

        async def work(index: int) -> None:
            consumer = consumers[index]
            while len(taken) < 400:
                batch = await consumer.fetch(5, 0.1)
                for fetched in batch:
                    owner, number = held.get(fetched.lane, (index, 0))
                    assert number == 0 or owner == index, f"lane {fetched.lane} has two owners"
                    held[fetched.lane] = (index, number + 1)
                    taken.append(fetched)
                worked[index] += len(batch)
                await asyncio.sleep(0.002)
                await kit.passes(0.05)
                for fetched in batch:
                    held[fetched.lane] = (index, held[fetched.lane][1] - 1)
                if batch:
                    await kit.accept(consumer, batch)

        await asyncio.gather(work(0), work(1))
        _in_order(taken)
        assert min(worked) > 0, f"the lanes are not shared: {worked}"

    @scenario
    async def test_a_newcomer_gets_lanes_of_one_that_is_never_idle(self, kit: Kit) -> None:
        """A lane that shall go to another process is not filled again while its last messages are in hand."""
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True, lanes=2)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 10}") for n in range(400)])
        one = await kit.consumer(first, source_of(queue), window=10)
        hand = list(await kit.take(one, 2))
        while len({fetched.lane for fetched in hand}) < 2:  # Ten keys use both.
            if len(hand) > 6:
                await kit.accept(one, hand.pop(0))
            hand += await kit.take(one, 2)
        other = await kit.consumer(second, source_of(queue), window=10)
        for _ in range(100):
            if await other.fetch(1, 0.01):
                break
            hand += await one.fetch(2, 0.02)
            while len(hand) > 6:
                await kit.accept(one, hand.pop(0))
            await kit.passes(0.1)
        else:
            raise AssertionError("the second process has got nothing in a hundred turns")

    @scenario
    async def test_a_process_joins_and_leaves(self, kit: Kit) -> None:
        """Lanes move while messages flow; no key is ever out of order, none is counted as lost."""
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True, lanes=8)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 20}") for n in range(300)])
        one = await kit.consumer(first, source_of(queue), window=20)
        done = await _run(kit, one, 60)
        other = await kit.consumer(second, source_of(queue), window=20)

        async def drain(consumer: Consumer, until: int) -> None:
            while len(done) < until:
                for fetched in await consumer.fetch(10, 0.05):
                    done.append(fetched)
                    await kit.accept(consumer, fetched)
                await kit.passes(0.05)

        await asyncio.gather(drain(one, 160), drain(other, 160))
        await one.stop()
        await one.close()
        await drain(other, 300)
        _in_order(done)
        assert {fetched.losses for fetched in done} == {0}

    @scenario
    async def test_stop_passes_a_lane_on_after_its_last_settlement(self, kit: Kit) -> None:
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True, lanes=1)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(6)])
        one = await kit.consumer(first, source_of(queue), window=2)
        held = await kit.take(one, 2)
        other = await kit.consumer(second, source_of(queue))
        await one.stop()
        for fetched in held:
            await kit.passes(1.0)
            await kit.nothing(other)
            await kit.accept(one, fetched)
        await kit.passes(1.0)
        assert bodies(await kit.take(other, 4)) == [b"2", b"3", b"4", b"5"]

    @scenario
    async def test_released_messages_keep_their_place(self, kit: Kit) -> None:
        """A graceful stop gives back what was not started; the next owner gets it before what follows."""
        first, second = await kit.engine(), await kit.engine()
        if isinstance(first.features.ordered, Refusal):
            return
        queue = await kit.queue(first, ordered=True, lanes=2)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key=f"k{n % 3}") for n in range(30)])
        one = await kit.consumer(first, source_of(queue), window=12)
        taken = await kit.take(one, 12)
        await kit.accept(one, taken[:3])
        await one.stop()
        await kit.settle(one, taken[3:], Decision.RELEASE)
        await one.close()
        other = await kit.consumer(second, source_of(queue))
        again = await _run(kit, other, 27)
        _in_order([*taken[:3], *again])
        assert {fetched.losses for fetched in again} == {0}

    @scenario
    async def test_the_window_bounds_keys_that_waited(self, kit: Kit) -> None:
        """However many retries are due at once."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True, lanes=1)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key=f"k{n}") for n in range(8)])
        consumer = await kit.consumer(engine, source_of(queue), window=4)
        for _ in range(2):
            for fetched in await kit.take(consumer, 4):
                await _retry(kit, consumer, fetched, [], 2.0)
        await kit.passes(2.1)
        hand = await kit.take(consumer, 4)
        await kit.nothing(consumer)
        stats = await kit.stats(engine, source_of(queue))
        assert stats.leased in (None, 4), stats
        await kit.accept(consumer, hand)
        hand += await kit.take(consumer, 4)
        assert sorted(bodies(hand)) == [b"%d" % n for n in range(8)]

    @scenario
    async def test_a_busy_key_starves_no_other(self, kit: Kit) -> None:
        """A consumer that never gets to the end of one lane takes from the others as well."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True, lanes=4)
        consumer = await kit.consumer(engine, source_of(queue))
        await kit.store(engine, [kit.outgoing(queue, b"{}", key=f"k{n}") for n in range(20)])
        taken = await kit.take(consumer, 20)
        await kit.accept(consumer, taken)
        keys = list({fetched.lane: fetched.message.key for fetched in taken}.values())
        assert len(keys) > 1, "twenty keys use more than one of four lanes"
        for busy, quiet in ((keys[0], keys[1]), (keys[1], keys[0])):
            await kit.store(engine, [kit.outgoing(queue, b"{}", key=busy) for _ in range(20)])
            await kit.store(engine, [kit.outgoing(queue, b"quiet", key=quiet)])
            for _ in range(60):
                await kit.store(engine, [kit.outgoing(queue, b"{}", key=busy)])
                fetched = await kit.take_one(consumer)
                await kit.accept(consumer, fetched)
                if fetched.message.body == b"quiet":
                    break
            else:
                raise AssertionError(f"key {quiet} waits for 60 messages of key {busy}, most of them newer")

    @scenario
    async def test_an_unordered_group_on_an_ordered_topic(self, kit: Kit) -> None:
        """Order is asked for by the subscription; the topic only makes it possible."""
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        topic = await kit.topic(engine, "events.made", "ordered", ordered=True)
        plain = source_of(Channel("events.made", ChannelKind.TOPIC), "plain")
        await kit.declare(engine, [topic], [plain])
        await kit.store(engine, [kit.outgoing(topic, b"%d" % n, key="a") for n in range(5)])
        consumer = await kit.consumer(engine, plain)
        taken = await kit.take(consumer, 5)
        await kit.retry(consumer, taken[0], 30.0)
        await kit.accept(consumer, taken[1:])
        await kit.store(engine, [kit.outgoing(topic, b"5", key="a")])
        assert bodies(await kit.take(consumer, 1)) == [b"5"]
        ordered = await kit.consumer(engine, source_of(topic, "ordered"))
        assert bodies(await kit.take(ordered, 6)) == [b"%d" % n for n in range(6)]

    @scenario
    async def test_messages_without_key_have_no_order_but_come(self, kit: Kit) -> None:
        engine = await kit.engine()
        if isinstance(engine.features.ordered, Refusal):
            return
        queue = await kit.queue(engine, ordered=True)
        await kit.publish(engine, queue, *[b"%d" % n for n in range(40)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, 40)
        assert sorted(bodies(taken)) == sorted(b"%d" % n for n in range(40))
        await kit.retry(consumer, taken[0], 0)
        await kit.accept(consumer, taken[1:])
        assert (await kit.take_one(consumer)).failures == 1


def _in_order(taken: list[Fetched]) -> None:
    """Demands that the numbers in the bodies rise for each key.

    Raises:
        AssertionError: They do not.
    """
    last: dict[str | None, int] = {}
    for fetched in taken:
        number = int(fetched.message.body)
        key = fetched.message.key
        assert number > last.get(key, -1), f"key {key}: {number} came after {last[key]}"
        last[key] = number


def _split(taken: list[Fetched], key: str) -> tuple[Fetched, list[Fetched]]:
    """The head of a key, and its successors."""
    of_key = [fetched for fetched in taken if fetched.message.key == key]
    return of_key[0], of_key[1:]


async def _retry(kit: Kit, consumer: Consumer, head: Fetched, successors: list[Fetched], delay: float) -> None:
    """What the core does with a failed head: its successors go back in the same batch."""
    batch = [Settlement(head.lease, Decision.RETRY, at=kit.clock.now() + timedelta(seconds=delay), error="{}")]
    batch += [Settlement(fetched.lease, Decision.RELEASE) for fetched in successors]
    answers = await consumer.settle(batch)
    assert {answer.name for answer in answers} <= {"DONE", "SENT", "HELD"}, answers


async def _run(kit: Kit, consumer: Consumer, number: int) -> list[Fetched]:
    """Takes so many, and accepts each before the next."""
    done = []
    for _ in range(number):
        fetched = await kit.take_one(consumer)
        done.append(fetched)
        await kit.accept(consumer, fetched)
    return done
