"""A message that kills its process ends as a dead letter; messages that were only near it do not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .crew import assert_good, crew, until

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
