"""Requests end by their own deadline, whatever the store does."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from telex import Procedure, PublishFailed, Queue, RequestTimeout, Telex, Topic
from telex.engine import Stored

from .kit import make, run, turns
from .loopback import Loopback

double = Procedure("double", int, int)


@contextmanager
def hanging(engine: Loopback, method: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A method of the engine waits, as with a busy store, until the end of the block."""
    go_on = asyncio.Event()
    real = getattr(engine, method)

    async def slow(*arguments: Any) -> Any:
        await go_on.wait()
        return await real(*arguments)

    monkeypatch.setattr(engine, method, slow)
    try:
        yield
    finally:
        go_on.set()


def test_a_request_does_not_wait_for_a_busy_store_beyond_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make(publish_timeout=30)

    async def main() -> None:
        async with app:
            with pytest.raises(RequestTimeout):
                await app.request(double, 1, timeout=0.01)
            started = time.monotonic()
            with (
                hanging(engine, "publish", monkeypatch),
                pytest.raises(RequestTimeout, match="double did not answer"),
            ):
                await app.request(double, 1, timeout=0.05)
            assert time.monotonic() - started < 1

    run(main(), 3)


def test_a_request_whose_publish_fails_after_its_deadline_leaves_no_error_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, engine = make(publish_timeout=30)
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with app:
            with pytest.raises(RequestTimeout):
                await app.request(double, 1, timeout=0.01)
            engine.outcome = lambda outgoing: (Stored.NO, OSError("the disk is full"))
            with hanging(engine, "publish", monkeypatch), pytest.raises(RequestTimeout):
                await app.request(double, 1, timeout=0.01)
            await turns()
        gc.collect()

    run(main(), 3)
    assert complaints == []


def test_a_request_that_cannot_be_published_says_so_at_once() -> None:
    app, engine = make()

    async def main() -> None:
        async with app:
            with pytest.raises(RequestTimeout):
                await app.request(double, 1, timeout=0.01)
            engine.outcome = lambda outgoing: (Stored.NO, OSError("the disk is full"))
            with pytest.raises(PublishFailed, match="the disk is full"):
                await app.request(double, 1, timeout=30)

    run(main(), 3)


FIRST_USES: dict[str, Callable[[Telex], Awaitable[Any]]] = {
    "request": lambda app: app.request(double, 1, timeout=0.05),
    "send": lambda app: app.send(Queue("jobs", int), 1),
    "publish": lambda app: app.publish(Topic("news", int), 1),
}


@pytest.mark.parametrize("verb", FIRST_USES)
def test_the_first_use_of_a_channel_does_not_wait_for_ever_for_a_busy_store(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, engine = make(publish_timeout=0.05)

    async def main() -> None:
        async with app:
            started = time.monotonic()
            with (
                hanging(engine, "plan", monkeypatch),
                pytest.raises(PublishFailed, match="could not be declared within"),
            ):
                await FIRST_USES[verb](app)
            assert time.monotonic() - started < 1

    run(main(), 3)
