"""The harness: the real pipeline in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta
from unittest import IsolatedAsyncioTestCase

import pytest

from telex import ConfigError, Delivery, Discard, Queue, Reject, Retry, RetryAfter, Telex, Topic
from telex.clock import SystemClock
from telex.testing import Harness, Outcome

work = Queue("work", int)
mails = Queue("mails", str)
placed = Topic("orders.placed", int, ordered=True, key=lambda number: f"k{number % 2}")


def make() -> Telex:
    app = Telex("no/such/place.db", name="shop")

    @app.receive(work, retry=Retry(attempts=8, delay=60, factor=2, max_delay=3600, jitter=0))
    async def handle(number: int, delivery: Delivery) -> None:
        if number == 1:
            raise OSError("always")
        if number == 2:
            raise Reject("never")
        if number == 3:
            raise Discard("unwanted")
        if number == 4 and delivery.attempt == 1:
            raise RetryAfter(timedelta(hours=5))
        delivery.send(mails, f"number {number}")

    @app.receive(mails)
    def mail(text: str) -> None: ...

    return app


class HarnessTest(IsolatedAsyncioTestCase):
    """Works with unittest alone."""

    async def test_eight_attempts_take_no_time(self) -> None:
        began = time.monotonic()
        async with Harness(make()) as harness:
            await harness.app.send(work, 1)
            settled = await harness.drain()
            assert [s.attempt for s in settled] == list(range(1, 9))
            assert [s.outcome for s in settled] == [Outcome.RETRIED] * 7 + [Outcome.DEAD]
            assert {type(s.error) for s in settled} == {OSError}
            waits = [(b.at - a.at).total_seconds() for a, b in itertools.pairwise(settled)]
            assert [round(wait) for wait in waits] == [60, 120, 240, 480, 960, 1920, 3600]
            assert await harness.app.dead_letters(work).count() == 1
        assert time.monotonic() - began < 10

    async def test_every_outcome(self) -> None:
        async with Harness(make()) as harness:
            for number in (2, 3, 4, 5):
                await harness.app.send(work, number, id=f"n{number}")
            settled = await harness.drain()
            outcomes = {(s.message.id, s.attempt): s.outcome for s in settled if s.source == "work"}
            assert outcomes == {
                ("n2", 1): Outcome.DEAD,
                ("n3", 1): Outcome.DISCARDED,
                ("n4", 1): Outcome.RETRIED,
                ("n4", 2): Outcome.ACCEPTED,
                ("n5", 1): Outcome.ACCEPTED,
            }
            assert sum(s.source == "mails" for s in settled) == 2
            assert harness.settled == settled
            assert await harness.drain() == []

    async def test_time_moves_only_as_far_as_asked(self) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        async with Harness(make(), now=start) as harness:
            await harness.app.send(work, 1)
            first = await harness.advance(59)
            assert [s.attempt for s in first] == [1]
            assert await harness.advance(0.5) == []
            second = await harness.advance(timedelta(seconds=130))
            assert [s.attempt for s in second] == [2, 3]
            assert harness.clock.now() == start + timedelta(seconds=189.5)

    async def test_delayed_sends_wait_for_advance(self) -> None:
        async with Harness(make()) as harness:
            await harness.app.send(work, 5, delay=timedelta(days=30))
            assert await harness.drain() == []
            assert await harness.advance(timedelta(days=29)) == []
            settled = await harness.advance(timedelta(days=1))
            assert [s.source for s in settled] == ["work", "mails"]

    async def test_an_ordered_key_waits_in_virtual_time(self) -> None:
        app, done = Telex(name="shop"), list[int]()

        @app.subscribe(placed, retry=Retry(attempts=None, delay=100))
        async def handle(number: int, delivery: Delivery) -> None:
            if number == 0 and delivery.attempt < 4:
                raise OSError
            done.append(number)

        async with Harness(app) as harness:
            for number in range(8):
                await harness.app.publish(placed, number)
            await harness.drain()
        assert [n for n in done if n % 2 == 0] == [0, 2, 4, 6]
        assert [n for n in done if n % 2] == [1, 3, 5, 7]
        assert done.index(7) < done.index(0)

    async def test_it_gives_everything_back(self) -> None:
        app = make()
        async with Harness(app) as harness:
            assert harness.app is app
        assert isinstance(app._clock, SystemClock)
        assert app._url == "no/such/place.db"
        async with Harness(app) as harness:
            await harness.app.send(work, 5)
            assert len(await harness.drain()) == 2

    async def test_it_gives_everything_back_after_a_failed_start(self) -> None:
        app = Telex(name="shop")
        app.receive(work)(lambda: None)
        with pytest.raises(ExceptionGroup):
            await Harness(app).__aenter__()
        assert app._url is None

    async def test_it_refuses_an_open_application(self) -> None:
        app = make()
        async with Harness(app):
            with pytest.raises(ConfigError):
                await Harness(app).__aenter__()


def test_harnesses_share_nothing() -> None:
    async def main() -> None:
        async with Harness(make()) as one, Harness(make()) as other:
            await one.app.send(work, 5)
            assert len(await one.drain()) == 2
            assert await other.drain() == []

    asyncio.run(main())


def test_a_handler_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telex.testing.harness.PATIENCE", 0.3)
    app = Telex(name="shop", grace=0.1)

    @app.receive(work)
    async def handle(number: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with Harness(app) as harness:
            await harness.app.send(work, 1)
            with pytest.raises(TimeoutError, match="work: 0 ready, 1 in hand"):
                await harness.drain()

    asyncio.run(main())
