"""A publisher that is stopped for longer than its publishes may take, and goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from .crew import Process, assert_good, crew, until

TIMEOUT = 2.0


def test_a_publisher_stopped_past_its_timeout_knows_what_it_does_not_know(tmp_path: Path, store: str) -> None:
    with crew(tmp_path, store=store, timeout=TIMEOUT) as made:
        publisher = made.spawn("publisher", burst=200, pace=0)
        worker = made.spawn("worker")
        until(_stored(publisher, 400))
        until(lambda: len(worker.events()) > 100)
        for _ in range(2):
            while True:
                until(lambda: publisher.under_way() > 0)
                publisher.signal(signal.SIGSTOP)
                time.sleep(0.05)
                if publisher.under_way() > 0:
                    break
                publisher.signal(signal.SIGCONT)
            made.fault("stop a publisher", publisher.under_way())
            time.sleep(3 * TIMEOUT)
            publisher.signal(signal.SIGCONT)
            until(_stored(publisher, 400))
        made.drain()
        report = made.judge(faults=frozenset({"stop a publisher"}), acknowledged=1000)
        outcomes = {event.outcome for event in made.events() if event.op == "publish" and event.phase == "end"}
        print(f"{report.uncertain} publishes ended as uncertain; outcomes {sorted(outcomes)}")
        assert_good(report)


def _stored(publisher: Process, more: int) -> Callable[[], bool]:
    """Asks whether so many more publishes were acknowledged than now."""

    def count() -> int:
        return sum(event.op == "publish" and event.outcome == "ok" for event in publisher.events())

    wanted = count() + more
    return lambda: count() >= wanted
