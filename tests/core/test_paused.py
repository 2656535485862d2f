"""What is on trial is given back by a source that pauses, wherever it waits: one trial is in hand for all sources."""

from __future__ import annotations

import asyncio

from telex.engine import Decision, Settled, Settlement

from .kit import decisions, run, until
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
