"""What is on trial is given back by a source that pauses, wherever it waits: one trial is in hand for all sources."""

from __future__ import annotations

import asyncio

from telex import Batch, Queue, Telex
from telex.engine import Decision, Settled, Settlement

from .kit import decisions, make, run, until
from .loopback import Lease
from .test_order import JOBS, fails_first, paused


def test_what_waits_for_its_turn_by_the_rate_is_given_back() -> None:
    app, engine = paused()
    seen: list[str] = []

    @app.receive(JOBS, concurrency=1, rate=1)
    async def work(job: str) -> None:
        seen.append(job)

    async def main() -> None:
        async with app.running():
            await app.send(JOBS, "busy", key="b")
            await until(lambda: len(seen) >= 1)
            await app.send(JOBS, "tried", key="k")
            await until(lambda: not engine.queues["jobs"])
            await asyncio.sleep(0.02)
            app.pause(JOBS)
            assert len(seen) == 1
            await until(lambda: Decision.RELEASE in decisions(engine), 2)

    run(main())


def test_what_comes_again_after_a_retry_that_was_lost_in_the_pause_is_given_back() -> None:
    app, engine = paused()
    seen = fails_first(app, 1)

    def answer(settlement: Settlement) -> Settled:
        if settlement.decision is not Decision.RETRY:
            return Settled.DONE
        if len(engine.settlements) > 1:
            return Settled.LOST
        assert isinstance(settlement.lease, Lease)
        lease = Lease(settlement.lease.message, 0, 1, 100)
        engine.queues["jobs"].append(lease)
        lease.trial = 0
        engine.wake()
        app.pause(JOBS)
        return Settled.FAILED

    async def main() -> None:
        engine.answer = answer
        async with app.running():
            await app.send(JOBS, "m1", key="k")
            await until(lambda: len(engine.settlements) > 1)
            await until(lambda: Decision.RELEASE in decisions(engine))
            assert seen == ["m1"]

    run(main())


def test_what_waits_behind_a_handler_of_its_key_is_given_back() -> None:
    app, engine = paused()
    seen: list[str] = []
    gate = asyncio.Event()

    @app.receive(JOBS, concurrency=2)
    async def work(job: str) -> None:
        seen.append(job)
        await gate.wait()

    async def main() -> None:
        async with app.running():
            await app.send(JOBS, "m1", key="k")
            await until(lambda: seen)
            await app.send(JOBS, "tried", key="k")
            await until(lambda: not engine.queues["jobs"])
            app.pause(JOBS)
            gate.set()
            await until(lambda: Decision.RELEASE in decisions(engine))

    run(main())


# -- batches ------------------------------------------------------------------------------------------------------

jobs = Queue("jobs", str)


def batches(app: Telex, concurrency: int) -> list[list[str]]:
    """Handles batches that wait long enough for a pause; what was handled."""
    seen: list[list[str]] = []

    @app.receive(jobs, concurrency=concurrency, batch=Batch(size=3, wait=0.3))
    async def work(some: list[str]) -> None:
        seen.append(some)

    return seen


def test_a_batch_that_is_gathered_waits_for_the_end_of_the_pause() -> None:
    app, engine = make()
    seen = batches(app, 2)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, ["m1", "m2"])
            await until(lambda: gathers(app))
            app.pause(jobs)
            await asyncio.sleep(0.5)
            assert seen == []
            app.resume(jobs)
            await until(lambda: seen)

    run(main())
    assert seen == [["m1", "m2"]]
    assert decisions(engine) == [Decision.ACCEPT] * 2, "nothing was given back"


def gathers(app: Telex) -> bool:
    assert app._worker is not None
    return app._worker.runner("jobs").gathering


def test_a_slot_that_waits_to_gather_starts_nothing_in_a_pause() -> None:
    app, _ = make()
    seen = batches(app, 1)

    async def main() -> None:
        async with app.running():
            assert app._worker is not None
            runner = app._worker.runner("jobs")
            async with runner._gathering:
                await app.send(jobs, "m1")
                await until(lambda: any(slot.starting for slot in runner._slots))
                app.pause(jobs)
            await asyncio.sleep(0.5)
            assert seen == []
            app.resume(jobs)
            await until(lambda: seen == [["m1"]])

    run(main())


def test_what_is_on_trial_in_a_batch_that_is_gathered_is_given_back() -> None:
    app, engine = paused()
    seen = batches(app, 1)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, ["m1", "tried"])
            await until(lambda: gathers(app))
            app.pause(jobs)
            await until(lambda: Decision.RELEASE in decisions(engine))
            await asyncio.sleep(0.5)
            assert seen == []
            app.resume(jobs)
            await until(lambda: sum(map(len, seen)) == 2)

    run(main())


def test_a_batch_that_a_pause_holds_is_given_back_at_the_end() -> None:
    app, engine = make()
    seen = batches(app, 1)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, ["m1", "m2"])
            await until(lambda: gathers(app))
            app.pause(jobs)

    run(main())
    assert seen == []
    assert decisions(engine) == [Decision.RELEASE] * 2
