"""Processes that join and die all the time, on an ordered topic whose keys fail."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from .crew import assert_good, crew, until


@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_order_holds_while_processes_join_and_die_each_second(tmp_path: Path, store: str, seconds: int) -> None:
    choice = random.Random(seconds)
    with crew(tmp_path, store=store, lanes=16, failing=0.25, keys=50, work=0.01, burst=50, pace=0.1) as made:
        publisher = made.spawn("publisher")
        workers = [made.spawn("worker") for _ in range(2)]
        until(lambda: all(len(process.events()) > 40 for process in (publisher, *workers)))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            workers.append(made.spawn("worker"))
            until(lambda: workers[-1].history.exists() and len(workers[-1].events()) > 0, 30)
            victim = workers.pop(choice.randrange(len(workers) - 1))
            made.fault("kill a member", victim.kill())
            time.sleep(1)
        made.drain()
        report = made.judge(acknowledged=1000, faults=frozenset({"kill a member"}), redelivered=10)
        fired = [event for event in made.events() if event.op == "fault"]
        assert len(fired) >= seconds // 3
        assert report.duplicates > 0
        assert_good(report)
