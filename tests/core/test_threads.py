"""Plain functions in threads: they cannot be stopped, but what stands around them can."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from telex import Delivery, Queue
from telex.engine import Decision

from .kit import ONCE, decisions, make, run, until

jobs = Queue("jobs", int)


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_timeout_ends_middleware_that_hangs_around_a_plain_function(where: str) -> None:
    async def middleware(delivery: Delivery, call_next: Callable[[Delivery], Any]) -> Any:
        hangs = delivery.message.body == b"0"
        if hangs and where == "before":
            await asyncio.Event().wait()
        result = await call_next(delivery)
        if hangs:
            await asyncio.Event().wait()
        return result

    app, engine = make(middleware=[middleware])
    seen: list[int] = []

    @app.receive(jobs, timeout=0.3, concurrency=1, retry=ONCE)
    def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(3))
            await app.run(until_idle=True)

    run(main(), 3)
    assert seen == ([1, 2] if where == "before" else [0, 1, 2])
    assert decisions(engine) == [Decision.DEAD, Decision.ACCEPT, Decision.ACCEPT]
    assert "HandlerTimeout" in engine.settlements[0].error


def test_middleware_around_a_plain_function_is_stopped_once_that_returns() -> None:
    """The timeout passed while the thread ran: the slot is not given to what comes after it for ever."""
    inside, leave = threading.Event(), threading.Event()

    async def middleware(delivery: Delivery, call_next: Callable[[Delivery], Any]) -> Any:
        try:
            return await call_next(delivery)
        finally:
            if delivery.message.body == b"0":
                await asyncio.sleep(0)

    app, engine = make(middleware=[middleware])

    @app.receive(jobs, timeout=0.3, concurrency=1, retry=ONCE)
    def work(job: int) -> None:
        if job == 0:
            inside.set()
            assert leave.wait(5)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, range(2))
            await until(inside.is_set)
            await asyncio.sleep(0.6)  # Far past the timeout: the slot is held, nothing else runs.
            assert engine.settlements == []
            leave.set()
            await until(lambda: len(engine.settlements) == 2)

    run(main(), 5)
    assert decisions(engine) == [Decision.DEAD, Decision.ACCEPT]


def test_the_end_of_the_grace_ends_middleware_that_hangs_around_a_plain_function() -> None:
    cancelled: list[bool] = []
    hanging = asyncio.Event()

    async def middleware(delivery: Delivery, call_next: Callable[[Delivery], Any]) -> Any:
        hanging.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    app, engine = make(middleware=[middleware], grace=0.02)

    @app.receive(jobs, concurrency=1)
    def work(job: int) -> None: ...

    async def main() -> None:
        async with app.running():
            await app.send(jobs, 1)
            await hanging.wait()
            started = time.monotonic()
        assert time.monotonic() - started < 1
        assert cancelled == [True]  # Here, and not by the end of the loop.

    run(main(), 3)
    assert engine.settlements == []


def refuse(monkeypatch: pytest.MonkeyPatch, threads: list[str]) -> None:
    """Lets the system start none of these threads, each once."""
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if thread.name in threads:
            threads.remove(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)


def test_a_thread_that_cannot_be_started_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the source would wait for it for ever."""
    refuse(monkeypatch, ["telex-jobs-1"])
    app, engine = make()
    seen: list[int] = []

    @app.receive(jobs, concurrency=1, retry=ONCE)
    def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(2))
            await app.run(until_idle=True)

    run(main(), 3)
    assert seen == [1]
    assert decisions(engine) == [Decision.DEAD, Decision.ACCEPT]


def test_what_failed_for_want_of_a_thread_is_not_run_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, ["telex-jobs-2"])
    app, engine = make()
    seen: list[int] = []
    leave = threading.Event()

    @app.receive(jobs, concurrency=2, retry=ONCE)
    def work(job: int) -> None:
        seen.append(job)
        assert leave.wait(5)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, range(2))
            await until(lambda: engine.settlements)
            leave.set()
            await until(lambda: len(engine.settlements) == 2)
            await asyncio.sleep(0.05)

    run(main(), 5)
    assert seen == [0]
    assert decisions(engine) == [Decision.DEAD, Decision.ACCEPT]
