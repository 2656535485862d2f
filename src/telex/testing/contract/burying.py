"""Dead letters: looking takes nothing away, redriving loses nothing."""

from __future__ import annotations

from typing import Literal

from ...engine import Channel, Consumer, Decision, Engine, Letter, Source
from .kit import Kit, Suite, bodies, ids, scenario, source_of

Verb = Literal["keep", "redrive", "discard"]


class DeadLetterContract(Suite):
    """`Decision.DEAD` and `Admin.sweep`."""

    @scenario
    async def test_a_letter_keeps_message_and_history(self, kit: Kit) -> None:
        engine = await kit.engine()
        queue = await kit.queue(engine)
        source = source_of(queue)
        (sent,) = await kit.publish(engine, queue, b"\x00\xff", key="k", headers={"a": "ü"}, content_type="x/y")
        consumer = await kit.consumer(engine, source)
        now = kit.clock.now()
        await kit.settle(
            consumer, await kit.take_one(consumer), Decision.RETRY, at=now, error='{"number":1}', cause="KeyError|a:1"
        )
        await kit.settle(
            consumer,
            await kit.take_one(consumer),
            Decision.DEAD,
            reason="exhausted",
            text="it failed twice",
            error='{"number":2}',
            cause="ValueError|b:2",
        )
        (letter,) = await kit.letters(engine, source)
        assert letter.message == sent
        assert str(letter.source) == "work"
        assert (letter.reason, letter.text, letter.cause) == ("exhausted", "it failed twice", "ValueError|b:2")
        assert list(letter.errors) == ['{"number":1}', '{"number":2}']
        assert letter.redrives == 0
        assert letter.at is None or letter.at >= now

    @scenario
    async def test_looking_takes_nothing_away(self, kit: Kit) -> None:
        engine, _, source, sent = await self._buried(kit, 5)
        for _ in range(25):
            assert sorted(letter.message.id for letter in await kit.letters(engine, source)) == sorted(sent)
        assert (await kit.stats(engine, source)).dead in (None, 5)

    @scenario
    async def test_sweeps_go_on_where_they_ended(self, kit: Kit) -> None:
        engine, _, source, sent = await self._buried(kit, 7)
        found: list[str] = []

        def keep(letter: Letter) -> Verb:
            found.append(letter.message.id)
            return "keep"

        after: str | None = None
        passes = 0
        while True:
            swept = await engine.admin.sweep(source, keep, after, 3, 1.0)
            assert swept.seen <= 3
            assert (swept.moved, swept.uncertain) == (0, 0)
            passes += 1
            after = swept.after
            if after is None:
                break
        assert found == sent
        assert passes in (3, 4)

    @scenario
    async def test_redriving_one(self, kit: Kit) -> None:
        """Same id and body, counts from 0, history kept, to its source alone."""
        engine = await kit.engine()
        topic = await kit.topic(engine, "events.made", "billing", "audit")
        source = source_of(topic, "billing")
        await kit.publish(engine, topic, b"1", b"2")
        consumer = await kit.consumer(engine, source)
        taken = await kit.take(consumer, 2)
        await kit.bury(consumer, taken, error='{"number":1}')
        audit = await kit.consumer(engine, source_of(topic, "audit"))
        await kit.accept(audit, await kit.take(audit, 2))
        wanted = taken[1].message.id

        def redrive(letter: Letter) -> Verb:
            return "redrive" if letter.message.id == wanted else "keep"

        swept = await engine.admin.sweep(source, redrive, None, 100, 1.0)
        assert (swept.seen, swept.moved, swept.uncertain) == (2, 1, 0)
        again = await kit.take_one(consumer)
        assert again.message == taken[1].message
        assert (again.failures, again.losses, again.trial) == (0, 0, None)
        await kit.nothing(audit)
        await kit.bury(consumer, again, error='{"number":2}')
        letters = {letter.message.id: letter for letter in await kit.letters(engine, source)}
        assert letters[wanted].redrives == 1
        assert list(letters[wanted].errors) == ['{"number":1}', '{"number":2}']
        assert letters[taken[0].message.id].redrives == 0

    @scenario
    async def test_redriving_all(self, kit: Kit) -> None:
        engine, consumer, source, sent = await self._buried(kit, 20)
        after: str | None = None
        moved = 0
        while True:
            swept = await engine.admin.sweep(source, lambda _: "redrive", after, 6, 1.0)
            moved += swept.moved
            after = swept.after
            if after is None:
                break
        assert moved == 20
        assert not await kit.letters(engine, source)
        taken = await kit.take(consumer, 20)
        assert sorted(ids(taken)) == sorted(sent)
        await kit.accept(consumer, taken)
        await kit.nothing(consumer)

    @scenario
    async def test_a_redriven_message_can_fail_and_be_released(self, kit: Kit) -> None:
        engine, consumer, source, _ = await self._buried(kit, 1)
        await engine.admin.sweep(source, lambda _: "redrive", None, 10, 1.0)
        await kit.settle(consumer, await kit.take_one(consumer), Decision.RELEASE)
        again = await kit.take_one(consumer)
        assert (again.failures, again.losses) == (0, 0)
        await kit.retry(consumer, again, 0)
        last = await kit.take_one(consumer)
        assert last.failures == 1
        await kit.accept(consumer, last)
        await kit.nothing(consumer)
        assert not await kit.letters(engine, source)

    @scenario
    async def test_a_redriven_message_is_not_lost_with_its_owner(self, kit: Kit) -> None:
        engine, consumer, source, _ = await self._buried(kit, 1)
        await engine.admin.sweep(source, lambda _: "redrive", None, 10, 1.0)
        await kit.take_one(consumer)
        await consumer.close()
        other = await kit.consumer(await kit.engine(), source)
        assert (await kit.take_one(other)).losses == 1

    @scenario
    async def test_redriving_an_ordered_source(self, kit: Kit) -> None:
        """Outside the order, but not lost."""
        engine = await kit.engine()
        queue = await kit.queue(engine, ordered=True)
        source = source_of(queue)
        await kit.store(engine, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(3)])
        consumer = await kit.consumer(engine, source)
        taken = await kit.take(consumer, 3)
        await kit.bury(consumer, taken[0])
        await kit.accept(consumer, taken[1:])
        await engine.admin.sweep(source, lambda _: "redrive", None, 10, 1.0)
        again = await kit.take_one(consumer)
        assert again.message.body == b"0"
        await kit.accept(consumer, again)
        await kit.nothing(consumer)

    @scenario
    async def test_discarding(self, kit: Kit) -> None:
        engine, consumer, source, sent = await self._buried(kit, 3)

        def discard(letter: Letter) -> Verb:
            return "discard" if letter.message.id == sent[1] else "keep"

        swept = await engine.admin.sweep(source, discard, None, 10, 1.0)
        assert (swept.seen, swept.moved) == (3, 1)
        assert sorted(letter.message.id for letter in await kit.letters(engine, source)) == sorted([sent[0], sent[2]])
        await kit.nothing(consumer)

    @scenario
    async def test_letters_outlive_the_process(self, kit: Kit) -> None:
        engine, _, source, sent = await self._buried(kit, 3)
        other = await kit.engine()
        await kit.close(engine)
        assert sorted(letter.message.id for letter in await kit.letters(other, source)) == sorted(sent)

    @scenario
    async def test_a_letter_at_the_limit_fits(self, kit: Kit) -> None:
        """A body of the largest size dies with its history."""
        engine = await kit.engine()
        queue = await kit.queue(engine)
        body = bytes(engine.features.max_body)
        await kit.publish(engine, queue, body, content_type="x/y")
        consumer = await kit.consumer(engine, source_of(queue))
        for _ in range(4):
            await kit.settle(
                consumer,
                await kit.take_one(consumer),
                Decision.RETRY,
                at=kit.clock.now(),
                error="e" * 4000,
                cause="E|x",
            )
        await kit.bury(consumer, await kit.take_one(consumer), error="e" * 4000)
        (letter,) = await kit.letters(engine, source_of(queue))
        assert letter.message.body == body
        await engine.admin.sweep(source_of(queue), lambda _: "redrive", None, 10, 1.0)
        assert (await kit.take_one(consumer)).message.body == body

    async def _buried(self, kit: Kit, number: int) -> tuple[Engine, Consumer, Source, list[str]]:
        """So many dead letters in a queue."""
        engine = await kit.engine()
        queue: Channel = await kit.queue(engine)
        sent = await kit.publish(engine, queue, *[b"%d" % n for n in range(number)])
        consumer = await kit.consumer(engine, source_of(queue))
        taken = await kit.take(consumer, number)
        assert bodies(taken) == [b"%d" % n for n in range(number)]
        await kit.bury(consumer, taken)
        return engine, consumer, source_of(queue), [message.id for message in sent]
