"""The end is certain: when `run` has returned, however it was cancelled, no handler runs and none begins."""

from __future__ import annotations

import asyncio

import pytest

from telex import Queue, Telex
from telex.delivery.runner import Runner

from .kit import make, run, turns, until

jobs = Queue("jobs", int)
other = Queue("other", int)


def test_a_slot_takes_no_other_message_when_the_end_comes_before_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when `run` is cancelled in the turn in which it begins to drain."""
    app, _ = make(grace=0.01)
    seen: list[int] = []

    async def never(self: Runner) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Runner, "stop", never)

    @app.receive(jobs, concurrency=1)
    async def work(job: int) -> None:
        seen.append(job)
        await asyncio.sleep(0.5)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, range(3))
            await until(lambda: seen)
        await asyncio.sleep(0.6)

    run(main())
    assert seen == [0]


def hangs(app: Telex, queue: Queue[int], concurrency: int = 1) -> tuple[list[int], list[int]]:
    """A handler that must be ended, and takes some turns to end; what it began with, and what it ended with."""
    began: list[int] = []
    ended: list[int] = []

    @app.receive(queue, concurrency=concurrency)
    async def work(job: int) -> None:
        began.append(job)
        try:
            await asyncio.Event().wait()
        finally:
            await turns(5)
            ended.append(job)

    return began, ended


def test_handlers_are_ended_though_the_end_is_cancelled_again_and_again() -> None:
    app, _ = make(grace=5)
    began, ended = hangs(app, jobs, concurrency=2)

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(2))
            task = asyncio.ensure_future(app.run())
            await until(lambda: len(began) == 2)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert sorted(ended) == [0, 1]
            assert task.cancelled()

    run(main())


def test_every_source_is_ended_though_one_fails_to(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make(grace=0.01)

    @app.receive(jobs)
    async def idle(job: int) -> None: ...

    began, ended = hangs(app, other)

    async def fail() -> None:
        raise ValueError("no end")

    async def work_once() -> None:
        async with app.running():
            failing = next(consumer for consumer in engine.consumers if consumer.name == "jobs")
            monkeypatch.setattr(failing, "close", fail)
            await app.send(other, 1)
            await until(lambda: began)

    async def main() -> None:
        async with app:
            with pytest.raises(ValueError, match="no end"):
                await work_once()
            assert ended == [1]
            monkeypatch.undo()

    run(main())
