"""What a request waits for before it leaves: that too ends by its deadline, and what never left never runs."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from telex import Closed, Disconnected, Procedure, Queue, RequestTimeout, Telex
from telex import publisher as publishing
from telex.engine import Consumer, SourceKind, Subscription

from .kit import make, run, turns, until
from .loopback import Loopback

double = Procedure("double", int, int)
jobs = Queue("jobs", str)


class Inbox:
    """Makes an engine open inboxes only when told; like a broker that is away."""

    def __init__(self, engine: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tries = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self._real = engine.consume
        monkeypatch.setattr(engine, "consume", self.consume)

    async def consume(self, subscription: Subscription, lost: Any) -> Consumer:
        if subscription.source.kind is SourceKind.INBOX:
            self.tries += 1
            await self.go_on.wait()
            if self.error is not None:
                raise self.error
        return await self._real(subscription, lost)


async def asked(app: Telex, timeout: float) -> Exception:
    """Why a request failed."""
    try:
        await app.request(double, 1, timeout=timeout)
    except Exception as error:
        return error
    raise AssertionError("it was answered")


def test_requests_do_not_wait_for_their_inbox_beyond_their_own_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()

    async def main() -> None:
        async with app:
            inbox = Inbox(engine, monkeypatch)
            started = time.monotonic()
            errors = await asyncio.gather(*(asked(app, 0.05) for _ in range(3)))
            assert time.monotonic() - started < 1
            assert {type(error) for error in errors} == {RequestTimeout}
            assert all("double was not asked" in str(error) and "nothing was sent" in str(error) for error in errors)
            inbox.go_on.set()
            await turns()
            assert (inbox.tries, engine.batches) == (1, [])
            with pytest.raises(RequestTimeout, match="double did not answer"):
                await app.request(double, 1, timeout=0.01)
            assert (inbox.tries, engine.batches) == (1, [1])

    run(main())


def test_an_inbox_that_cannot_be_opened_fails_all_who_wait_for_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()

    async def main() -> None:
        async with app:
            inbox = Inbox(engine, monkeypatch)
            inbox.error = Disconnected("no broker")
            waiting = [asyncio.ensure_future(asked(app, 30)) for _ in range(3)]
            await until(lambda: inbox.tries)
            inbox.go_on.set()
            assert {type(error) for error in await asyncio.gather(*waiting)} == {Disconnected}
            assert inbox.tries == 1
            inbox.error = None
            with pytest.raises(RequestTimeout, match="did not answer"):
                await app.request(double, 1, timeout=0.01)
            assert inbox.tries == 2

    run(main())


def test_a_caller_that_is_cancelled_ends_the_opening_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()

    @app.reply(double)
    async def answer(number: int) -> int:
        return number * 2

    async def main() -> None:
        async with app.running():
            inbox = Inbox(engine, monkeypatch)
            first = asyncio.ensure_future(app.request(double, 1, timeout=30))
            await until(lambda: inbox.tries)
            second = asyncio.ensure_future(app.request(double, 2, timeout=30))
            await turns()
            first.cancel()
            await turns()
            inbox.go_on.set()
            assert await second == 4
            assert inbox.tries == 1

    run(main())


def test_a_failure_that_nobody_waits_for_any_more_is_no_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nothing_fails_unheard` listens."""
    app, engine = make()

    async def main() -> None:
        async with app:
            inbox = Inbox(engine, monkeypatch)
            inbox.error = Disconnected("no broker")
            assert isinstance(await asked(app, 0.01), RequestTimeout)
            inbox.go_on.set()
            await turns()
        gc.collect()

    run(main())


def test_closing_ends_the_opening_of_the_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()

    async def main() -> None:
        async with app:
            inbox = Inbox(engine, monkeypatch)
            waiting = asyncio.ensure_future(asked(app, 30))
            await until(lambda: inbox.tries)
        assert isinstance(await waiting, Closed)

    run(main())


@contextmanager
def crowding(monkeypatch: pytest.MonkeyPatch, engine: Loopback) -> Iterator[Callable[[], None]]:
    """The store stands still and memory is short; what to call when it goes on."""
    go_on = asyncio.Event()
    real = engine.publish

    async def slow(*arguments: Any) -> Any:
        await go_on.wait()
        return await real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "MAX_BYTES", 1000)
        patch.setattr(engine, "publish", slow)
        try:
            yield go_on.set
        finally:
            go_on.set()


def test_a_request_does_not_wait_for_room_beyond_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make(publish_timeout=30)

    async def main() -> None:
        async with app:
            await asked(app, 0.01)
            with crowding(monkeypatch, engine):
                sending = asyncio.ensure_future(app.send(jobs, "x" * 2000))
                await until(lambda: app._open().publisher.crowded)
                engine.batches.clear()
                started = time.monotonic()
                with pytest.raises(RequestTimeout, match=r"double was not asked.*nothing was sent"):
                    await app.request(double, 1, timeout=0.05)
                assert time.monotonic() - started < 5
            await sending
            assert engine.batches == [1]

    run(main())


@pytest.mark.parametrize("waits_for", ["plan", "consume"])
def test_a_request_expires_when_its_caller_gives_up_however_late_it_leaves(
    waits_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, engine = make()

    async def main() -> None:
        async with app:
            real = getattr(engine, waits_for)

            async def slow(*arguments: Any) -> Any:
                await asyncio.sleep(1)
                return await real(*arguments)

            monkeypatch.setattr(engine, waits_for, slow)
            assert engine.clock is not None
            begun = engine.clock.now()
            asking = asyncio.ensure_future(app.request(double, 1, timeout=30))
            await until(lambda: engine.queues.get("double"), 5)
            expires = engine.queues["double"][0].message.expires
            assert expires is not None
            assert expires - begun < timedelta(seconds=30.5)
            asking.cancel()

    run(main())
