"""Order per key above the contract: when leases are lost and come again, and when a source pauses with a trial."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime

import msgspec
import pytest

from telex import Queue, Telex
from telex.delivery.order import KeyOrder
from telex.engine import Decision, Fetched, Settled, Settlement
from telex.message import Message

from .kit import QUICK, decisions, make, run, until
from .loopback import Lease, Loopback

JOBS = Queue("jobs", str, ordered=True, lanes=1)


def delivery(id: str, position: int, key: str | None = "k") -> Fetched:
    message = Message(id=id, channel="jobs", body=b"", time=datetime(2026, 1, 1, tzinfo=UTC), key=key)
    return Fetched(message, object(), position=position)


def fails_first(app: Telex, concurrency: int) -> list[str]:
    """Lets the first attempt fail; what was handled, in order."""
    seen: list[str] = []

    @app.receive(JOBS, concurrency=concurrency, retry=QUICK)
    async def work(job: str) -> None:
        seen.append(job)
        if len(seen) == 1:
            raise ValueError

    return seen


def test_a_key_goes_on_with_its_retried_message_at_whatever_position_it_comes() -> None:
    order = KeyOrder()
    failed, stale = delivery("m1", 1), delivery("m2", 2)
    again = [delivery(f"m{number}", 10 + number) for number in (1, 2, 3)]
    assert order.enter(failed)
    assert not any(order.enter(waits) for waits in (stale, *again))
    assert order.reopen(failed) == (again[0], [stale])
    assert order.leave(again[0]) is again[1]
    assert order.leave(again[1]) is again[2]
    assert order.leave(again[2]) is None
    assert order.enter(stale), "nothing of the key is left"


def test_a_key_is_free_when_its_retried_message_is_not_among_what_came() -> None:
    order = KeyOrder()
    failed, stale = delivery("m1", 1), [delivery("m2", 2), delivery("m3", 3)]
    for fetched in (failed, *stale):
        order.enter(fetched)
    assert order.reopen(failed) == (None, stale)
    assert order.enter(delivery("m1", 4))


def test_what_came_again_while_a_retry_was_being_stored_runs_in_order_when_the_retry_is_lost() -> None:
    app, engine = make()
    seen = fails_first(app, 4)

    def redeliver(lost: Message) -> None:
        for number in (1, 2, 3):
            message = msgspec.structs.replace(lost, body=f'"m{number}"'.encode())
            if number > 1:
                message = msgspec.structs.replace(message, id=f"m{number}")
            engine.queues["jobs"].append(Lease(message, 0, 0, 100 + number))
        engine.wake()

    def answer(settlement: Settlement) -> Settled:
        if settlement.decision is not Decision.RETRY:
            return Settled.DONE
        if len(engine.settlements) > 1:
            return Settled.LOST
        assert isinstance(settlement.lease, Lease)
        redeliver(settlement.lease.message)
        return Settled.FAILED

    async def main() -> None:
        engine.answer = answer
        async with app.running():
            await app.send(JOBS, "m1", key="k")
            await until(lambda: len(seen) == 4)

    run(main())
    assert seen == ["m1", "m1", "m2", "m3"]
    assert decisions(engine) == [Decision.RETRY] * 2 + [Decision.ACCEPT] * 3, "nothing was given back"


class OnTrial(deque[Lease]):
    """A queue in which some messages are on trial, as far as nothing of them failed."""

    def append(self, lease: Lease) -> None:
        lease.trial = 0 if b"tried" in lease.message.body else None
        super().append(lease)


def paused(*, holds: bool = False) -> tuple[Telex, Loopback]:
    app, engine = make(holds=holds)
    engine.queues["jobs"] = OnTrial()
    return app, engine


@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_source_that_pauses_gives_back_what_is_on_trial_and_its_key_goes_on_after_it(arrives: str) -> None:
    """After the pause began it arrives in a fetch that waits already."""
    app, engine = paused()
    seen: list[str] = []
    gate = asyncio.Event()

    @app.receive(JOBS, concurrency=1)
    async def work(job: str) -> None:
        seen.append(job)
        if job == "busy":
            await gate.wait()

    async def main() -> None:
        async with app.running():
            await app.send(JOBS, "busy", key="other")
            await until(lambda: seen)
            if arrives == "after":
                app.pause(JOBS)
            await app.send(JOBS, "tried", key="k")
            if arrives == "before":
                await until(lambda: not engine.queues["jobs"])
                app.pause(JOBS)
            await until(lambda: Decision.RELEASE in decisions(engine))
            gate.set()
            await until(lambda: Decision.ACCEPT in decisions(engine))
            assert seen == ["busy"]
            app.resume(JOBS)
            await app.send(JOBS, "next", key="k")
            await until(lambda: len(seen) == 3)

    run(main())
    assert seen == ["busy", "tried", "next"]


def test_what_is_on_trial_and_waits_here_for_its_retry_is_given_back_when_that_is_due_in_a_pause() -> None:
    app, engine = paused(holds=True)
    seen = fails_first(app, 1)

    def answer(settlement: Settlement) -> Settled:
        if settlement.decision is not Decision.RETRY:
            return Settled.DONE
        app.pause(JOBS)
        return Settled.HELD

    async def main() -> None:
        engine.answer = answer
        async with app.running():
            await app.send(JOBS, "tried", key="k")
            await until(lambda: Decision.RELEASE in decisions(engine))
            assert seen == ["tried"]
            app.resume(JOBS)
            await app.send(JOBS, "next", key="k")
            await until(lambda: len(seen) == 3)

    run(main())
    assert seen == ["tried", "tried", "next"]
