"""Processes that stop in a handler, and handlers that let nothing else run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from telex.testing.history import Event

from .crew import Crew, Process, assert_good, crew, is_stopped, until
from .program import AUDIT, BILLING, JOBS

LEASE = 1.0


def _began(made: Crew, act_id: str, source: str, outcome: str | None = None) -> list[Event]:
    """Runs of a message that began, or that ended so."""
    phase = "begin" if outcome is None else "end"
    return [
        event for event in made.events()
        if event.op == "deliver" and event.phase == phase and (event.id, event.source) == (act_id, source)
        and (outcome is None or event.outcome == outcome)
    ]  # fmt: skip


def test_a_process_stopped_in_a_handler_loses_its_lease_and_changes_nothing(tmp_path: Path, store: str) -> None:
    others = [("jobs", ""), ("orders.placed", "")] * 20
    with crew(tmp_path, store=store, lease=LEASE, concurrency=1) as made:
        made.send(("jobs", "stop"), *others)
        first = made.spawn("worker")
        until(lambda: len(_began(made, "t0-1", JOBS)) == 1)
        until(lambda: is_stopped(first.popen.pid))
        made.fault("stop", first.under_way())
        second = made.spawn("worker")
        until(lambda: len(_began(made, "t0-1", JOBS, "ok")) == 1, 15 * LEASE)
        first.signal(signal.SIGCONT)
        until(lambda: "LeaseLost" in first.log, 15)
        made.drain()
        report = made.judge(faults=frozenset({"stop"}))
        events = made.events()
        settled = [event for event in events if event.op == "settle" and (event.id, event.source) == ("t0-1", JOBS)]
        lost = [event for event in events if event.op == "lost" and event.id == "t0-1"]
        assert [event.proc for event in settled] == [second.config.name], "one process settles it, once"
        assert first.config.name in {event.proc for event in lost}
        assert report.dead == 0
        assert_good(report)


@pytest.mark.parametrize(("keys", "concurrency"), [(7, 8), (30, 2)])
def test_a_stopped_owner_of_lanes_breaks_no_order(tmp_path: Path, store: str, keys: int, concurrency: int) -> None:
    """With few keys all are being handled when it stops; with many, most wait in it, each with others behind it."""
    with crew(tmp_path, store=store, lease=LEASE, lanes=4, concurrency=concurrency) as made:
        made.send(*[("orders.placed", "stop" if no == 10 else "") for no in range(200)], keys=keys)
        first = made.spawn("worker")
        until(lambda: is_stopped(first.popen.pid))
        made.fault("stop", first.under_way())
        second = made.spawn("worker")
        until(lambda: _taken_over(made, second, 200), 60 * LEASE)
        first.signal(signal.SIGCONT)
        made.drain()
        report = made.judge(faults=frozenset({"stop"}), acknowledged=200)
        assert [event for event in made.events() if event.op == "lost" and event.id], "no lease was lost"
        assert_good(report)


def test_a_handler_that_blocks_the_loop_for_three_leases_loses_nothing(tmp_path: Path, store: str) -> None:
    with crew(tmp_path, store=store, lease=LEASE) as made:
        made.send(("orders.placed", "block"), ("jobs", "block"), *[("orders.placed", ""), ("jobs", "")] * 50)
        blocked = made.spawn("worker")
        until(lambda: len(_began(made, "t0-1", BILLING)) + len(_began(made, "t0-1", AUDIT)) > 0)
        made.fault("block", blocked.under_way())
        made.spawn("worker")
        until(lambda: bool(_began(made, "t0-1", BILLING, "ok") and _began(made, "t0-1", AUDIT, "ok")), 30 * LEASE)
        made.drain()
        report = made.judge(faults=frozenset({"block"}), acknowledged=100, duplicates=False)
        assert not [event for event in made.events() if event.op == "lost"], "a busy process lost its leases"
        runs = [event for event in made.events() if event.op == "deliver" and event.phase == "begin"]
        assert all(event.attempt == 1 for event in runs)
        assert_good(report)


def _taken_over(made: Crew, process: Process, number: int) -> bool:
    """Whether every run is done though the first process stands still; its heir goes on when the message stops it too.

    All of them, because the first may not have got as far as to own each lane when it stopped: an heir that has done
    some of them need not have inherited.
    """
    process.signal(signal.SIGCONT)
    done = {(event.id, event.source) for event in made.events() if event.op == "deliver" and event.outcome == "ok"}
    return len(done) == number * len((BILLING, AUDIT))
