"""The harness: the real pipeline in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import IsolatedAsyncioTestCase

import pytest

from telex import Batch, ConfigError, Delivery, Discard, Queue, Reject, Retry, RetryAfter, Telex, Topic
from telex.clock import SystemClock
from telex.testing import HandlersLeft, Harness, Outcome
from telex.testing.clock import START

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


async def begun(app: Telex) -> None:
    """Returns once a handler runs."""
    for _ in range(500):
        if app._worker is not None and app._worker._runners[0].under_way:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def test_a_handler_that_hangs_is_named_and_fails_the_test() -> None:
    app = Telex(name="shop", grace=25)

    @app.receive(work)
    async def hang(number: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with Harness(app, patience=0.3) as harness:
            await harness.app.send(work, 1, id="m1")
            await begun(app)
            with pytest.raises(
                TimeoutError, match=r"drain\(\): .* work: 0 ready, 1 in hand, 0 retrying; running: .*hang"
            ):
                await harness.drain()

    began = time.monotonic()
    with pytest.raises(HandlersLeft, match=r"\.hang with m1 of work\. Let the handler end, or give it a timeout"):
        asyncio.run(main())
    assert time.monotonic() - began < 5, "the grace of the application is for production"
    assert app.grace == 25


def test_the_error_of_the_test_itself_comes_first() -> None:
    app = Telex(name="shop")

    @app.receive(work)
    def hang(number: int) -> None:
        released.wait(30)

    released = threading.Event()

    async def main() -> None:
        async with Harness(app) as harness:
            await harness.app.send(work, 1)
            await begun(app)
            raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine") as caught:
        asyncio.run(main())
    released.set()
    assert not isinstance(caught.value, HandlersLeft)
    assert "handlers still ran" in caught.value.__notes__[0]


def test_handlers_that_end_soon_are_waited_for_and_nothing_more_is_started() -> None:
    app, seen = Telex(name="shop"), []

    @app.receive(work, concurrency=1)
    async def slow(number: int) -> None:
        await asyncio.sleep(0.6)
        seen.append(number)

    async def main() -> None:
        async with Harness(app) as harness:
            await harness.app.send_many(work, range(100))
            await begun(app)

    asyncio.run(main())
    assert seen == [0]


def test_batches_do_not_wait_in_real_time() -> None:
    app, batches = Telex(name="shop"), []

    @app.receive(work, batch=Batch(10, wait=600), retry=Retry(attempts=2, delay=60, jitter=0))
    async def handle(numbers: list[int], delivery: Delivery) -> None:
        batches.append(numbers)
        if 7 in numbers and delivery.attempt == 1:
            delivery.fail(numbers.index(7), ValueError("seven"))

    async def main() -> None:
        async with Harness(app) as harness:
            await harness.app.send_many(work, range(23))
            settled = await harness.drain()
            assert len(settled) == 24
            assert harness.clock.now() == START + timedelta(seconds=60), "the retry comes before the batch is given up"
            await harness.app.send(work, 50)
            assert await harness.advance(599) == []
            assert len(await harness.advance(1)) == 1

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    assert sorted(len(batch) for batch in batches) == [1, 1, 3, 10, 10]


def test_rates_do_not_wait_in_real_time() -> None:
    app, times = Telex(name="shop"), []
    harness = Harness(app)

    @app.receive(work, rate=0.1, concurrency=3)
    async def handle(number: int) -> None:
        times.append(harness.clock.now())

    async def main() -> None:
        async with harness:
            await app.send_many(work, range(50))
            assert len(await harness.drain()) == 50

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 10
    steps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    assert steps == pytest.approx([10.0] * 49, abs=0.001)


def test_broadcasts_and_patterns_are_drained_too() -> None:
    app, seen = Telex(name="shop"), []

    @app.subscribe(placed, broadcast=True)
    async def everybody(number: int) -> None:
        seen.append(("broadcast", number))

    @app.subscribe("orders.*", group="audit")
    async def audit(number: int) -> None:
        seen.append(("audit", number))

    async def main() -> None:
        async with Harness(app) as harness:
            for number in range(100):
                await app.publish(placed, number)
                await harness.drain()
                assert seen[-2:] in (
                    [("broadcast", number), ("audit", number)],
                    [("audit", number), ("broadcast", number)],
                )

    asyncio.run(main())


def test_mistakes_are_named() -> None:
    app = make()

    async def main() -> None:
        harness = Harness(app)
        with pytest.raises(ConfigError, match=r"drain\(\) works inside `async with Harness"):
            await harness.drain()
        async with harness:
            for wrong in (-1, float("nan"), float("inf"), "soon", timedelta(seconds=-1)):
                with pytest.raises(ValueError, match="advance"):
                    await harness.advance(wrong)  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(ConfigError, match=r"advance\(\) works inside"):
            await harness.advance(1)
        with pytest.raises(ConfigError, match="make a new one for each test"):
            await harness.__aenter__()
        async with Telex("memory://", name="open") as there:
            with pytest.raises(ConfigError, match="is open: give the harness an application that does not run"):
                await Harness(there).__aenter__()

    asyncio.run(main())
    with pytest.raises(ConfigError, match="give the application"):
        Harness("shop")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match="patience"):
        Harness(app, patience=0)
    with pytest.raises(ValueError, match="aware"):
        Harness(app, now=datetime(2026, 1, 1))


TESTS = """
import asyncio
from unittest import IsolatedAsyncioTestCase

from telex import Queue, Retry, Telex
from telex.testing import HandlersLeft, Harness, Outcome
from telex.testing.clock import START

work = Queue("work", int)
app = Telex(name="shop")

@app.receive(work, retry=Retry(attempts=8, delay=3600, factor=2))
async def handle(number):
    if number == 1:
        raise OSError
    if number == 2:
        hanging.append(number)
        await asyncio.Event().wait()

hanging = []

class WorkTest(IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.harness = await self.enterAsyncContext(Harness(app))

    async def test_gives_up(self):
        await app.send(work, 1)
        settled = await self.harness.drain()
        self.assertEqual([s.outcome for s in settled], [Outcome.RETRIED] * 7 + [Outcome.DEAD])

    async def test_hangs(self):
        await app.send(work, 2)
        while not hanging:
            await asyncio.sleep(0.01)

def test_plain():
    async def main():
        async with Harness(app) as harness:
            await app.send(work, 0)
            assert [s.outcome for s in await harness.drain()] == [Outcome.ACCEPTED]
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("command", "ran"),
    [
        (["unittest", "-v", "test_work"], "Ran 2 tests"),
        (["pytest", "-p", "no:cacheprovider", "-q"], "1 failed, 2 passed"),
    ],
)
def test_both_frameworks_need_nothing_more(tmp_path: Path, command: list[str], ran: str) -> None:
    """Real runs: a test that leaves a handler running fails, and is the only one."""
    (tmp_path / "test_work.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert ran in output
    assert "HandlersLeft: the test ended while handlers still ran" in output
    assert "handle with" in output
    assert "test_hangs" in output
