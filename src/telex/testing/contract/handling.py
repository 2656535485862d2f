"""Handlers on this engine: every outcome an attempt can have, and what it leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from ... import DeadReason, Delivery, Discard, InvalidMessage, MessageTooLarge, Queue, Reject, Retry, RetryAfter, Topic
from ...errors import UnknownChannel
from .kit import Kit, Suite, scenario, until

QUICK = Retry(attempts=3, delay=0.02, jitter=0)
NUMBERS = Queue("work", int)
"""Module-level, as in an application."""


class HandleContract(Suite):
    """The delivery pipeline on this engine."""

    @scenario
    async def test_returning_accepts(self, kit: Kit) -> None:
        app, seen = kit.app(), list[tuple[int, int, str]]()

        @app.receive(NUMBERS)
        async def handle(number: int, delivery: Delivery) -> None:
            seen.append((number, delivery.attempt, delivery.source))

        async with app:
            await app.send_many(NUMBERS, range(50))
            await app.run(until_idle=True)
            await app.run(until_idle=True)
            assert sorted(seen) == [(number, 1, "work") for number in range(50)]
            assert await app.dead_letters().count() == 0

    @scenario
    async def test_failing_retries_then_dies(self, kit: Kit) -> None:
        """Exactly by policy, with every attempt in its history, while others flow."""
        app, attempts = kit.app(), list[int]()

        @app.receive(NUMBERS, retry=QUICK)
        async def handle(number: int, delivery: Delivery) -> None:
            if number == 13:
                attempts.append(delivery.attempt)
                raise LookupError("unlucky")

        async with app:
            await app.send(NUMBERS, 13, id="unlucky-1")
            await app.send_many(NUMBERS, range(10))
            await app.run(until_idle=True)
            (letter,) = [letter async for letter in app.dead_letters(NUMBERS)]
        assert attempts == [1, 2, 3]
        assert (letter.message.id, letter.message.body, letter.reason) == ("unlucky-1", b"13", DeadReason.EXHAUSTED)
        assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
        assert {attempt.error.rpartition(".")[2] for attempt in letter.attempts} == {"LookupError"}
        assert letter.attempts[0].text == "unlucky"
        assert letter.attempts[0].started < letter.attempts[2].started

    @scenario
    async def test_verdicts(self, kit: Kit) -> None:
        app, seen = kit.app(), list[tuple[int, int]]()

        @app.receive(NUMBERS, retry=Retry(attempts=3, delay=0.02, unless=(KeyError,)))
        async def handle(number: int, delivery: Delivery) -> None:
            seen.append((number, delivery.attempt))
            if number == 1:
                raise Reject("not this one")
            if number == 2:
                raise Discard("never mind")
            if number == 3 and delivery.attempt == 1:
                raise RetryAfter(0.05, "busy")
            if number == 4:
                raise KeyError("unless")

        async with app:
            await app.send_many(NUMBERS, [1, 2, 3, 4])
            await app.run(until_idle=True)
            letters = {letter.message.body: letter async for letter in app.dead_letters(NUMBERS)}
        assert sorted(seen) == [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1)]
        assert {body: letter.reason for body, letter in letters.items()} == {
            b"1": DeadReason.REJECTED,
            b"4": DeadReason.REJECTED,
        }
        assert "not this one" in letters[b"1"].text
        assert letters[b"4"].attempts[-1].error.rpartition(".")[2] == "KeyError"

    @scenario
    async def test_what_cannot_be_decoded_dies_and_the_consumer_goes_on(self, kit: Kit) -> None:
        app, sender, seen = kit.app(), kit.app("sender"), list[int]()

        @app.receive(NUMBERS)
        async def handle(number: int) -> None:
            seen.append(number)

        async with app, sender:
            await sender.send(Queue("work", Any), {"not": "a number"})
            await app.send(NUMBERS, 7)
            await app.run(until_idle=True)
            (letter,) = [letter async for letter in app.dead_letters(NUMBERS)]
        assert seen == [7]
        assert letter.reason is DeadReason.UNDECODABLE
        assert letter.message.body == b'{"not":"a number"}'

    @scenario
    async def test_a_handler_that_takes_too_long(self, kit: Kit) -> None:
        app, ended = kit.app(), list[str]()

        @app.receive(NUMBERS, retry=Retry(attempts=2, delay=0.01), timeout=0.1)
        async def handle(number: int) -> None:
            try:
                await asyncio.sleep(30)
            finally:
                ended.append("ended")

        async with app:
            await app.send(NUMBERS, 1)
            await app.run(until_idle=True)
            (letter,) = [letter async for letter in app.dead_letters(NUMBERS)]
        assert len(ended) == 2
        assert [attempt.error.rpartition(".")[2] for attempt in letter.attempts] == ["HandlerTimeout"] * 2

    @scenario
    async def test_emissions_leave_only_from_success(self, kit: Kit) -> None:
        app, mails, events = kit.app(), list[tuple[str, str]](), list[int]()
        mail, made = Queue("mails", str), Topic("events.made", int)
        ids: list[str] = []

        @app.receive(NUMBERS, retry=QUICK)
        async def handle(number: int, delivery: Delivery) -> None:
            ids.append(delivery.send(mail, f"attempt {delivery.attempt}"))
            delivery.publish(made, number)
            if delivery.attempt < 3 or number == 2:
                raise OSError("not yet")

        @app.receive(mail)
        async def send(text: str, delivery: Delivery) -> None:
            mails.append((text, delivery.message.id))

        @app.subscribe(made)
        async def count(number: int) -> None:
            events.append(number)

        async with app:
            await app.send(NUMBERS, 1)
            await app.run(until_idle=True)
            assert len(ids) == 3
            assert len(set(ids)) == 1, "a repeated attempt repeats the ids of what it emits"
            assert mails == [("attempt 3", ids[0])]
            await app.send(NUMBERS, 2)
            await app.run(until_idle=True)
        assert len(mails) == 1
        assert events == [1]

    @scenario
    async def test_plain_functions_run_beside_each_other(self, kit: Kit) -> None:
        app, barrier = kit.app(), threading.Barrier(4)

        @app.receive(NUMBERS, concurrency=4)
        def handle(number: int) -> None:
            barrier.wait(10)

        async with app:
            await app.send_many(NUMBERS, range(8))
            await app.run(until_idle=True)
            assert await app.dead_letters().count() == 0

    @scenario
    async def test_concurrency_is_a_bound(self, kit: Kit) -> None:
        app, running, most = kit.app(), 0, 0

        @app.receive(NUMBERS, concurrency=3)
        async def handle(number: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1

        async with app:
            await app.send_many(NUMBERS, range(60))
            await app.run(until_idle=True)
        assert most == 3

    @scenario
    async def test_a_handler_that_blocks_the_loop_loses_nothing(self, kit: Kit) -> None:
        """Five leases long: another process sees none of what is in hand here."""
        app, other, seen, stolen = kit.app(), kit.app(), list[int](), list[int]()
        ready = threading.Event()

        @app.receive(NUMBERS, concurrency=4)
        async def handle(number: int) -> None:
            seen.append(number)
            if number == 0:
                thread.start()
                assert ready.wait(10)
                time.sleep(5 * self.target.lease)  # noqa: ASYNC251 (blocking is what is tested)

        @other.receive(NUMBERS)
        async def steal(number: int) -> None:
            stolen.append(number)

        async def elsewhere() -> None:
            async with other.running():
                ready.set()
                await until(lambda: len(seen) == 4)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        async with app:
            await app.send_many(NUMBERS, range(4))
            await app.run(until_idle=True)
            await asyncio.to_thread(thread.join)
        assert sorted(seen) == [0, 1, 2, 3]
        assert stolen == []

    # -- publishing -------------------------------------------------------------------------------------------------

    @scenario
    async def test_what_breaks_a_rule_is_refused_before_any_io(self, kit: Kit) -> None:
        app = kit.app()
        raw = Queue("raw", bytes)
        async with app:
            limit = app.features.max_body
            await app.send(raw, bytes(limit))
            for wrong, send in (
                (MessageTooLarge, app.send(raw, bytes(limit + 1))),
                (InvalidMessage, app.send(Queue("floats", float), float("nan"))),
                (InvalidMessage, app.send(NUMBERS, 1, headers={"telex-x": "reserved"})),
                (InvalidMessage, app.send(NUMBERS, 1, key="k" * 129)),
                (UnknownChannel, app.send("no.such.queue", 1)),
            ):
                try:
                    await send
                except wrong:
                    continue
                raise AssertionError(f"{wrong.__name__} was not raised")
            stats = {stats.source: stats for stats in (await app.stats()).sources}
            assert stats["raw"].ready in (None, 1)

    @scenario
    async def test_groups_miss_nothing_before_their_worker_starts(self, kit: Kit) -> None:
        """The web process declares the groups of the handlers it includes."""
        made, seen = Topic("events.made", int), list[int]()
        web, worker = kit.app("shop"), kit.app("shop")
        for app in (web, worker):

            @app.subscribe(made, group="billing")
            async def bill(number: int) -> None:
                seen.append(number)

        async with web:
            await web.publish_many(made, range(20))
            if not web.features.durable:
                return
        async with worker:
            await worker.run(until_idle=True)
        assert sorted(seen) == list(range(20))
