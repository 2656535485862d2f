"""A publisher that is stopped for longer than its publishes may take, and goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from .crew import assert_good, crew, until

TIMEOUT = 2.0


def test_a_publisher_stopped_past_its_timeout_knows_what_it_does_not_know(tmp_path: Path, store: str) -> None:
    with crew(tmp_path, store=store, timeout=TIMEOUT) as made:
        publisher = made.spawn("publisher", burst=200, pace=0)
        worker = made.spawn("worker")
        until(lambda: len(publisher.events()) > 800 and len(worker.events()) > 100)
        for _ in range(2):
            while True:
                until(lambda: publisher.under_way() > 0)
                publisher.signal(signal.SIGSTOP)
                time.sleep(0.05)
                if publisher.under_way() > 0:
                    break
                publisher.signal(signal.SIGCONT)
            made.fault("stop a publisher", publisher.under_way())
            time.sleep(2.5 * TIMEOUT)
            before = len(publisher.events())
            publisher.signal(signal.SIGCONT)
            until(lambda before=before: len(publisher.events()) > before + 1000)  # type: ignore[misc]  # mypy: default of a lambda
        made.drain()
        report = made.judge(faults=frozenset({"stop a publisher"}), acknowledged=400)
        outcomes = {event.outcome for event in made.events() if event.op == "publish" and event.phase == "end"}
        print(f"{report.uncertain} publishes ended as uncertain; outcomes {sorted(outcomes)}")
        assert_good(report)
