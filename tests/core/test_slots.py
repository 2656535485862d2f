"""Slots outlive whatever runs in them: no error of a handler stops a source, and nothing runs on a lost lease."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from telex import Batch, Delivery, Discard, Queue, Reject, Retry, Topic
from telex.delivery import execution
from telex.delivery.context import HandlerDelivery
from telex.delivery.rate import Rate
from telex.engine import Decision

from .kit import ONCE, QUICK, decisions, make, run, turns, until
from .loopback import Loopback

jobs = Queue("jobs", int)


class Panic(BaseException):
    """As extensions written in Rust raise, and test tools."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Gate:
    """In place of `Rate.turn`: every slot waits here, with a message taken and not started, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = 0
        self._opened: asyncio.Event | None = None
        monkeypatch.setattr(Rate, "turn", self._turn)

    async def _turn(self, messages: int) -> None:
        if self._opened is None:
            self._opened = asyncio.Event()
        self.waiting += 1
        await self._opened.wait()
        self.waiting -= 1

    def open(self) -> None:
        assert self._opened is not None
        self._opened.set()


def lose(engine: Loopback, source: int = 0) -> list[str]:
    """Another process takes all that a consumer has in hand; what that was."""
    consumer = engine.consumers[source]
    gone = list(consumer.leased)
    consumer.leased.clear()
    consumer.lost(gone)
    return [lease.message.id for lease in gone]


UNWRITABLE = os.fsdecode(b"/data/\xff.txt")


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (ValueError(UNWRITABLE), Decision.DEAD),
        (Reject(UNWRITABLE), Decision.DEAD),
        (Discard(UNWRITABLE), Decision.DISCARD),
        (ExceptionGroup(UNWRITABLE, [ValueError(UNWRITABLE)]), Decision.DEAD),
    ],
    ids=["error", "reject", "discard", "group"],
)
def test_every_text_of_a_settlement_can_be_written(error: Exception, decision: Decision) -> None:
    app, engine = make()

    @app.receive(jobs, retry=ONCE)
    async def work(job: int) -> None:
        raise error

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    (settlement,) = engine.settlements
    assert settlement.decision is decision
    texts = [settlement.reason, settlement.text, settlement.error, settlement.cause]
    assert "\\udcff" in "".join(texts)
    for text in texts:
        text.encode()


@pytest.mark.parametrize("error", [Panic("boom"), Mute()], ids=["no Exception", "no text"])
@pytest.mark.parametrize("batch", [None, Batch(1)])
def test_whatever_a_handler_raises_fails_its_message_and_the_slot_goes_on(
    error: BaseException, batch: Batch | None
) -> None:
    app, engine = make()
    seen: list[Any] = []

    @app.receive(jobs, concurrency=1, retry=ONCE, batch=batch)
    async def work(job: Any) -> None:
        seen.append(job)
        if len(seen) <= 2:
            raise error

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(4))
            await app.run(until_idle=True)

    run(main(), 3)
    assert len(seen) == 4
    assert decisions(engine) == [Decision.DEAD] * 2 + [Decision.ACCEPT] * 2
    assert type(error).__qualname__ in engine.settlements[0].error
    assert type(error).__name__ in engine.settlements[0].text


def test_a_failure_of_our_own_fails_the_message_and_the_slot_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, engine = make()
    seen: list[int] = []
    real = HandlerDelivery
    broken = [True]

    def delivery(*arguments: Any) -> Any:
        if broken:
            broken.clear()
            raise RuntimeError("a bug")
        return real(*arguments)

    monkeypatch.setattr(execution, "HandlerDelivery", delivery)

    @app.receive(jobs, concurrency=1, retry=QUICK)
    async def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(3))
            await app.run(until_idle=True)

    run(main(), 3)
    assert sorted(seen) == [0, 1, 2]
    assert decisions(engine) == [Decision.RETRY] + [Decision.ACCEPT] * 3
    assert "RuntimeError: a bug" in engine.settlements[0].error
    assert "failed outside its handler" in caplog.text


# -- timeouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["swallowed", "turned into another error"])
def test_a_timeout_that_a_handler_swallows_does_not_end_the_next_one(how: str) -> None:
    app, engine = make()
    seen: list[int] = []

    @app.receive(jobs, concurrency=1, timeout=0.02, retry=ONCE)
    async def work(job: int) -> None:
        seen.append(job)
        if job == 0:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                if how != "swallowed":
                    raise ValueError("other") from None
        if job == 1:
            cancelled = asyncio.ensure_future(asyncio.sleep(5))
            cancelled.cancel()
            await cancelled

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(4))
            await app.run(until_idle=True)

    run(main(), 3)
    assert seen == [0, 1, 2, 3]
    assert decisions(engine) == [Decision.DEAD, Decision.DEAD, Decision.ACCEPT, Decision.ACCEPT]
    assert "HandlerTimeout" in engine.settlements[0].error
    assert "CancelledError" in engine.settlements[1].error


# -- lost leases --------------------------------------------------------------------------------------------------


def test_followers_of_a_key_whose_leases_are_lost_with_it_never_run() -> None:
    app, engine = make()
    topic = Topic("orders", str, ordered=True, key=lambda text: text[0])
    started: list[str] = []
    never = asyncio.Event()

    @app.subscribe(topic, concurrency=2)
    async def work(text: str) -> None:
        started.append(text)
        if text != "z":
            await never.wait()

    async def main() -> None:
        async with app.running():
            # a1 and b1 run, c1 waits for a slot, c2 for c1.
            await app.publish_many(topic, ["a1", "b1", "c1", "c2"])
            await until(lambda: len(started) == 2)
            assert len(lose(engine)) == 4
            await app.publish(topic, "z")
            await until(lambda: "z" in started)
            await turns()

    run(main(), 3)
    assert started == ["a1", "b1", "z"]
    assert decisions(engine) == [Decision.ACCEPT]


def test_a_message_that_waits_for_its_turn_does_not_run_when_its_lease_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()
    gate = Gate(monkeypatch)
    seen: list[int] = []

    @app.receive(jobs, concurrency=4, rate=1)
    async def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, range(3))
            await until(lambda: gate.waiting)
            assert len(lose(engine)) == 3
            await turns()
            await app.send(jobs, 3)
            gate.open()
            await until(lambda: 3 in seen)
            await turns()

    run(main(), 3)
    assert seen == [3]
    assert decisions(engine) == [Decision.ACCEPT]


def test_a_batch_leaves_out_what_was_lost_while_it_filled() -> None:
    app, engine = make()
    seen: list[list[int]] = []

    @app.receive(jobs, concurrency=1, batch=Batch(2, wait=60))
    async def work(some: list[int]) -> None:
        seen.append(some)

    async def main() -> None:
        async with app.running():
            await app.send(jobs, 1)
            await until(lambda: engine.consumers[0].leased)
            await turns()
            assert len(lose(engine)) == 1
            await turns()
            await app.send_many(jobs, [2, 3])
            await until(lambda: seen)

    run(main(), 3)
    assert seen == [[2, 3]]


# -- pause, stop --------------------------------------------------------------------------------------------------


def test_a_paused_source_starts_nothing_that_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = make()
    gate = Gate(monkeypatch)
    seen: list[int] = []

    @app.receive(jobs, concurrency=4, rate=1)
    async def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app.running():
            await app.send_many(jobs, range(3))
            await until(lambda: gate.waiting)
            app.pause(jobs)
            gate.open()
            await turns()
            assert seen == []
            app.resume(jobs)
            await until(lambda: len(seen) == 3)

    run(main(), 3)
    assert sorted(seen) == [0, 1, 2]


def test_the_end_of_the_grace_acquits_what_is_on_trial() -> None:
    """Its process did not die of it: that must not be counted."""
    app, engine = make(grace=0.02)
    started = asyncio.Event()

    @app.receive(jobs, retry=Retry(crashes=3))
    async def work(job: int, delivery: Delivery) -> None:
        started.set()
        await asyncio.sleep(60)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            lease = engine.queues["jobs"][0]
            lease.losses, lease.trial = 4, 2
            async with app.running():
                await started.wait()

    run(main(), 3)
    assert decisions(engine) == [Decision.TRIAL]


def test_a_broadcast_that_fails_is_said_to_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    app, engine = make()
    topic = Topic("news", int)

    @app.subscribe(topic, broadcast=True, retry=QUICK)
    async def work(job: int) -> None:
        raise ValueError("wrong")

    async def main() -> None:
        async with app.running():
            await app.publish(topic, 1)
            await until(lambda: engine.settlements)

    run(main(), 3)
    assert decisions(engine) == [Decision.DISCARD]
    assert "ValueError: wrong" in caplog.text
    assert "a broadcast is not tried again and has no dead letters" in caplog.text
    assert "next attempt" not in caplog.text
    assert "goes to dead letters" not in caplog.text
