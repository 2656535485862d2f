"""The pipeline above the contract, on an engine that does what it is told."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Sequence
from typing import Any

import pytest

from telex import (
    Batch,
    Delivery,
    Discard,
    Disconnected,
    Procedure,
    PublishFailed,
    PublishUncertain,
    Queue,
    Reject,
    RemoteError,
    RequestTimeout,
    Retry,
    RetryAfter,
    Topic,
)
from telex.engine import Decision, Settled, Source, SourceStats, Stored

from .kit import QUICK, decisions, make, run, until


def test_accepts_what_the_handler_returns_from() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    seen: list[int] = []

    @app.receive(jobs)
    async def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app:
            assert await app.send_many(jobs, range(500)) == 500
            await app.run(until_idle=True)

    run(main())
    assert seen == list(range(500))
    assert decisions(engine) == [Decision.ACCEPT] * 500


def test_an_outage_is_not_the_end_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    right, outage = engine.stats, [Disconnected("the broker is gone")] * 3

    async def stats(sources: Sequence[Source]) -> Sequence[SourceStats]:
        if outage:
            raise outage.pop()
        return await right(sources)

    monkeypatch.setattr(engine, "stats", stats)

    @app.receive(jobs)
    async def work(job: int) -> None: ...

    async def main() -> None:
        async with app:
            await app.run(until_idle=True)

    run(main())
    assert not outage


def test_publishes_of_one_turn_are_one_batch() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)

    async def main() -> None:
        async with app:
            await asyncio.gather(*(app.send(jobs, i) for i in range(100)))

    run(main())
    assert engine.batches[-1] == 100


def test_retries_then_dead_letters_with_the_history() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    attempts: list[int] = []

    @app.receive(jobs, retry=QUICK)
    async def work(job: int, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise TimeoutError("bank")

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert attempts == [1, 2, 3]
    assert decisions(engine) == [Decision.RETRY, Decision.RETRY, Decision.DEAD]
    last = engine.settlements[-1]
    assert last.reason == "exhausted"
    assert '"error":"builtins.TimeoutError"' in last.error
    assert last.cause.startswith("TimeoutError|tests.core.test_delivery")


@pytest.mark.parametrize(
    ("error", "decision", "reason"),
    [
        (Reject("no"), Decision.DEAD, "rejected"),
        (Discard("old"), Decision.DISCARD, "old"),
        (KeyError("x"), Decision.DEAD, "rejected"),
    ],
)
def test_verdicts(error: Exception, decision: Decision, reason: str) -> None:
    app, engine = make()
    jobs = Queue("jobs", int)

    @app.receive(jobs, retry=Retry(unless=(KeyError,)))
    async def work(job: int) -> None:
        raise error

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert decisions(engine) == [decision]
    assert engine.settlements[0].reason == reason


def test_retry_after_waits_as_told() -> None:
    app, _ = make()
    jobs = Queue("jobs", int)
    times: list[float] = []

    @app.receive(jobs)
    async def work(job: int, delivery: Delivery) -> None:
        times.append(time.monotonic())
        if delivery.attempt == 1:
            raise RetryAfter(0.2)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert len(times) == 2
    assert times[1] - times[0] >= 0.2


def test_an_undecodable_body_goes_to_dead_letters_and_the_next_one_on() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    seen: list[int] = []

    @app.receive(jobs)
    async def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app:
            await app.send("jobs", 1)
            message = engine.queues["jobs"][0].message
            engine.queues["jobs"][0].message = type(message)(id="bad", channel="jobs", body=b"\xff{", time=message.time)
            await app.send(jobs, 2)
            await app.run(until_idle=True)

    run(main())
    assert seen == [2]
    assert sorted(s.reason for s in engine.settlements) == ["", "undecodable"]


def test_emissions_leave_only_with_success() -> None:
    app, _ = make()
    jobs, mails = Queue("jobs", int), Queue("mails", str)

    @app.receive(jobs, retry=QUICK)
    async def work(job: int, delivery: Delivery) -> None:
        delivery.send(mails, f"attempt {delivery.attempt}")
        if delivery.attempt < 3:
            raise ValueError

    ids: list[str] = []
    got: list[str] = []

    @app.receive(mails)
    async def mail(text: str, delivery: Delivery) -> None:
        got.append(text)
        ids.append(delivery.message.id)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert got == ["attempt 3"]
    assert len(ids[0]) == 36


def test_a_handler_that_runs_too_long_is_cancelled_and_counts_as_a_failure() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    cancelled: list[bool] = []

    @app.receive(jobs, timeout=0.05, retry=Retry(attempts=1), concurrency=1)
    async def work(job: int) -> None:
        if job == 0:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    async def main() -> None:
        async with app:
            await app.send_many(jobs, [0, 1, 2])
            await app.run(until_idle=True)

    run(main())
    assert cancelled == [True]
    assert decisions(engine) == [Decision.DEAD, Decision.ACCEPT, Decision.ACCEPT]
    assert "telex.errors.HandlerTimeout" in engine.settlements[0].error


def test_a_function_in_a_thread_holds_its_slot_past_the_timeout() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)

    @app.receive(jobs, timeout=0.3, retry=Retry(attempts=1), concurrency=1)
    def work(job: int) -> None:
        if job == 0:
            time.sleep(1)

    async def main() -> float:
        async with app:
            await app.send_many(jobs, [0, 1])
            started = time.monotonic()
            await app.run(until_idle=True)
            return time.monotonic() - started

    assert run(main()) >= 0.3
    assert decisions(engine) == [Decision.DEAD, Decision.ACCEPT]


def test_context_variables_do_not_leak_into_the_next_message() -> None:
    app, _ = make()
    jobs = Queue("jobs", int)
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
    seen: list[str] = []

    @app.receive(jobs, concurrency=1)
    async def work(job: int) -> None:
        seen.append(tenant.get())
        tenant.set(f"tenant {job}")
        if job % 2:
            await asyncio.sleep(0)
        assert tenant.get() == f"tenant {job}"

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(10))
            await app.run(until_idle=True)

    run(main())
    assert seen == ["none"] * 10


def test_concurrency_is_bounded_and_used() -> None:
    app, _ = make()
    jobs = Queue("jobs", int)
    running = most = 0

    @app.receive(jobs, concurrency=7)
    async def work(job: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(50))
            await app.run(until_idle=True)

    run(main())
    assert most == 7


def test_order_per_key_across_failures_where_the_core_holds_keys() -> None:
    app, engine = make(holds=True)
    topic = Topic("orders", str, ordered=True, key=lambda text: text[0])
    seen: dict[str, list[str]] = {}

    engine.answer = lambda s: Settled.HELD if s.decision is Decision.RETRY else Settled.DONE

    @app.subscribe(topic, concurrency=8, retry=Retry(delay=0.02, jitter=0))
    async def work(text: str, delivery: Delivery) -> None:
        await asyncio.sleep(0.001)
        if text in ("a3", "b0") and delivery.attempt < 3:
            raise ValueError
        seen.setdefault(text[0], []).append(text)

    async def main() -> None:
        async with app:
            await app.publish_many(topic, [f"{key}{n}" for n in range(6) for key in "abc"])
            await app.run(until_idle=True)

    run(main())
    assert seen == {key: [f"{key}{n}" for n in range(6)] for key in "abc"}


def test_batches_are_full_or_wait_and_fail_one_by_one() -> None:
    app, engine = make()
    topic = Topic("rows", int)
    sizes: list[int] = []

    @app.subscribe(topic, batch=Batch(10, wait=0.05), retry=QUICK, concurrency=1)
    async def work(rows: list[int], delivery: Delivery) -> None:
        sizes.append(len(rows))
        for index, row in enumerate(rows):
            if row == 3:
                delivery.fail(index, Reject("three"))

    async def main() -> None:
        async with app:
            await app.publish_many(topic, range(25))
            await app.run(until_idle=True)

    run(main())
    assert sizes == [10, 10, 5]
    assert decisions(engine).count(Decision.DEAD) == 1
    assert decisions(engine).count(Decision.ACCEPT) == 24


def test_a_failed_batch_is_tried_again_one_by_one() -> None:
    app, _ = make()
    topic = Topic("rows", int)
    sizes: list[int] = []

    @app.subscribe(topic, batch=Batch(5, wait=0.05), retry=QUICK, concurrency=1)
    async def work(rows: list[int]) -> None:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise ValueError

    async def main() -> None:
        async with app:
            await app.publish_many(topic, range(5))
            await app.run(until_idle=True)

    run(main())
    assert sizes == [5, 1, 1, 1, 1, 1]


def test_requests_are_answered_out_of_order_and_errors_are_answers() -> None:
    app, _ = make()
    double = Procedure("double", int, int)

    @app.reply(double)
    async def answer(number: int) -> int:
        await asyncio.sleep(0.02 if number % 2 else 0)
        if number == 13:
            raise ValueError("unlucky")
        return number * 2

    async def main() -> None:
        async with app.running():
            answers = await asyncio.gather(*(app.request(double, n) for n in range(10)))
            assert answers == [n * 2 for n in range(10)]
            with pytest.raises(RemoteError, match="unlucky") as caught:
                await app.request(double, 13)
            assert caught.value.type == "ValueError"

    run(main())


def test_a_request_without_an_answer_times_out() -> None:
    app, _ = make()
    slow = Procedure("slow", int, int)

    async def main() -> None:
        async with app:
            with pytest.raises(RequestTimeout, match="slow did not answer"):
                await app.request(slow, 1, timeout=0.05)

    run(main())


def test_three_outcomes_of_a_publish() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)

    async def main() -> None:
        async with app:
            engine.outcome = lambda outgoing: (Stored.NO, OSError("full"))
            with pytest.raises(PublishFailed, match="full"):
                await app.send(jobs, 1, id="mine")
            engine.outcome = lambda outgoing: (Stored.UNCERTAIN, None)
            with pytest.raises(PublishUncertain) as caught:
                await app.send(jobs, 1, id="mine")
            assert caught.value.id == "mine"
            stored = iter([Stored.YES] * 7 + [Stored.NO] + [Stored.YES] * 100)
            engine.outcome = lambda outgoing: (next(stored), None)
            with pytest.raises(PublishFailed) as failed:
                await app.send_many(jobs, range(20), window=4)
            assert failed.value.stored == 7

    run(main())


def test_an_outcome_that_cannot_be_stored_is_stored_later_and_the_handler_not_run_again() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    runs: list[int] = []
    failures = 3

    def answer(settlement: Any) -> Settled:
        nonlocal failures
        if failures:
            failures -= 1
            return Settled.FAILED
        return Settled.DONE

    engine.answer = answer

    @app.receive(jobs)
    async def work(job: int) -> None:
        runs.append(job)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert runs == [1]
    assert decisions(engine) == [Decision.ACCEPT] * 4


def test_a_lost_lease_cancels_the_handler_and_settles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    started = asyncio.Event()

    @app.receive(jobs)
    async def work(job: int) -> None:
        started.set()
        await asyncio.sleep(5)

    async def main() -> None:
        async with app.running():
            await app.send(jobs, 1)
            await started.wait()
            consumer = engine.consumers[0]
            consumer.lost(list(consumer.leased))
            consumer.leased.clear()
            await asyncio.sleep(0.05)

    run(main(), 3)
    assert engine.settlements == []
    assert "LeaseLost" in caplog.text


def test_leaving_gives_back_what_was_not_started_and_finishes_what_runs() -> None:
    app, engine = make()
    jobs = Queue("jobs", int)
    begun: list[int] = []
    done: list[int] = []

    @app.receive(jobs, concurrency=2)
    async def work(job: int) -> None:
        begun.append(job)
        await asyncio.sleep(0.5)
        done.append(job)

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(4))
            async with app.running():
                await until(lambda: len(begun) == 2)

    run(main())
    assert done == [0, 1]
    assert sorted(d.name for d in decisions(engine)) == ["ACCEPT", "ACCEPT", "RELEASE", "RELEASE"]


def test_the_grace_ends() -> None:
    app, engine = make(grace=0.1)
    jobs = Queue("jobs", int)

    begun: list[int] = []

    @app.receive(jobs)
    async def work(job: int) -> None:
        begun.append(job)
        await asyncio.sleep(60)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            async with app.running():
                await until(lambda: begun == [1])

    run(main(), 10)
    assert engine.settlements == []


def test_pause_and_resume() -> None:
    app, _ = make()
    jobs = Queue("jobs", int)
    seen: list[int] = []

    @app.receive(jobs)
    async def work(job: int) -> None:
        seen.append(job)

    async def main() -> None:
        async with app.running():
            app.pause(jobs)
            await app.send(jobs, 1)
            await asyncio.sleep(0.05)
            assert seen == []
            app.resume(jobs)
            await until(lambda: seen == [1])

    run(main())


def test_a_rate_is_kept() -> None:
    app, _ = make()
    jobs = Queue("jobs", int)
    times: list[float] = []

    @app.receive(jobs, rate=50)
    async def work(job: int) -> None:
        times.append(time.monotonic())

    async def main() -> None:
        async with app:
            await app.send_many(jobs, range(11))
            await app.run(until_idle=True)

    run(main())
    assert 0.1 <= times[-1] - times[0] <= 0.5


def test_middleware_wraps_outermost_first() -> None:
    trail: list[str] = []

    def named(name: str) -> Any:
        async def middleware(delivery: Delivery, call_next: Any) -> Any:
            trail.append(f"{name} before")
            result = await call_next(delivery)
            trail.append(f"{name} after")
            return result

        return middleware

    app, _ = make(middleware=[named("outer"), named("inner")])
    jobs = Queue("jobs", int)

    @app.receive(jobs)
    def work(job: int) -> None:
        trail.append("handler")

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert trail == ["outer before", "inner before", "handler", "inner after", "outer after"]
