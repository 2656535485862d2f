"""A message that kills its process ends as a dead letter; messages that were only near it do not."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from telex import DeadReason, Queue, Telex, Topic
from telex.testing.history import Recorder

from .crew import Crew, assert_good, crew, until
from .program import BILLING

STARTS = 30
"""More than the restarts that two suspicions and three trials of one message can cost."""


@pytest.mark.parametrize("channel", ["jobs", "orders.placed"])
def test_a_message_that_kills_its_process_is_found_and_innocents_are_not(
    tmp_path: Path, store: str, channel: str
) -> None:
    innocents = [("jobs", ""), ("orders.placed", "")] * 30
    with crew(tmp_path, store=store) as made:
        made.send(*innocents[:20], (channel, "poison"), *innocents[20:])
        for _ in range(STARTS):
            worker = made.spawn("worker", until_idle=True)
            code = worker.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL
            made.fault("poison", worker.under_way())
        made.drain()
        report = made.judge(faults=frozenset({"poison"}), acknowledged=61, redelivered=1)
        letters = [event for event in made.events() if event.op == "letter"]
        sources = {"jobs"} if channel == "jobs" else {"orders.placed/billing", "orders.placed/audit"}
        assert {(event.id, event.source, event.name) for event in letters} == {
            ("t0-21", source, "crashed") for source in sources
        }
        kills = [event for event in made.events() if event.op == "fault"]
        print(f"{len(kills)} processes died of it")
        assert 3 <= len(kills) <= 6 * len(sources)
        assert_good(report)


async def _redrive(made: Crew, recorder: Recorder) -> int:
    app = made.program("redrive", recorder).app
    async with app:
        return await app.dead_letters(BILLING).redrive()


async def _letters(made: Crew, recorder: Recorder) -> list[tuple[str, DeadReason]]:
    app = made.program("letters", recorder).app
    async with app:
        return [(letter.message.id, letter.reason) async for letter in app.dead_letters()]


def test_a_redriven_message_of_an_ordered_source_that_kills_its_process_is_found(tmp_path: Path) -> None:
    """It is outside the order: no lane restarts slowly with it, and who is in a lane must not be blamed for it."""
    with crew(tmp_path, work=0.2) as made, Recorder(tmp_path / "operator.jsonl", "operator") as recorder:
        made.send(("orders.placed", "late poison"), work=0)
        assert made.spawn("worker", until_idle=True).wait() == 0
        assert asyncio.run(_letters(made, recorder)) == [("t0-1", DeadReason.REJECTED)]
        assert asyncio.run(_redrive(made, recorder)) == 1
        made.send(*[("orders.placed", "")] * 12, work=0)
        kills = 0
        while (worker := made.spawn("worker", until_idle=True)).wait() != 0 and kills < 9:
            assert worker.popen.returncode == -signal.SIGKILL
            kills += 1
        assert worker.popen.returncode == 0, "it goes on for ever"
        print(f"{kills} processes died of it")
        assert 3 <= kills <= 6
        assert asyncio.run(_letters(made, recorder)) == [("t0-1", DeadReason.CRASHED)]
        handled = {e.id for e in made.events() if (e.op, e.source, e.outcome) == ("deliver", BILLING, "ok")}
        assert handled == {f"t1-{number}" for number in range(1, 13)}


@pytest.mark.parametrize("ordered", [False, True], ids=["queue", "ordered group"])
def test_clean_deploys_bury_nothing_though_the_handler_is_longer_than_the_grace(tmp_path: Path, ordered: bool) -> None:
    jobs = Queue("jobs", int)
    placed = Topic("orders.placed", int, ordered=True, key=str)
    attempts: list[int] = []

    async def deploy(number: int) -> None:
        app = Telex(str(tmp_path / "telex.db"), name="test", grace=0.02)
        started = asyncio.Event()

        async def work(job: int) -> None:
            attempts.append(number)
            started.set()
            if number < 7:
                await asyncio.sleep(60)

        if ordered:
            app.subscribe(placed, group="g")(work)
        else:
            app.receive(jobs)(work)
        async with app:
            if number == 0:
                await (app.publish(placed, 1) if ordered else app.send(jobs, 1))
            async with app.running():
                await asyncio.wait_for(started.wait(), 5)
            assert await app.dead_letters().count() == 0

    for number in range(8):
        asyncio.run(deploy(number))
    assert attempts == list(range(8))  # Each started it, and the last one finished it.


def test_ten_quick_restarts_with_full_windows_bury_nothing(tmp_path: Path, store: str) -> None:
    with crew(tmp_path, store=store, work=0.5) as made:
        made.send(*[("jobs", ""), ("orders.placed", "")] * 200, work=0)
        for _ in range(10):
            worker = made.spawn("worker")
            until(lambda worker=worker: worker.under_way() > 10)  # type: ignore[misc]  # mypy: default of a lambda
            made.fault("restart", worker.kill())
        fired = [int(event.value) for event in made.events() if event.op == "fault"]
        assert min(fired) > 10
        made._defaults["work"] = 0.0
        made.drain()
        report = made.judge(faults=frozenset({"restart"}), acknowledged=400, redelivered=100)
        assert report.dead == 0
        assert_good(report)
