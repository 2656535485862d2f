"""SIGKILL of workers and publishers: at random, and at each of six points of a delivery's life."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from .crew import Crew, assert_good, crew, until
from .points import POINTS

MANY = 40
"""Operations that must have been seen before the killing begins."""
AFTER_HANDLER = {"after handler before settle", "in emission"}
"""Points at which a kill must make a duplicate: the handler was through."""


def test_sixty_kills_lose_nothing(tmp_path: Path, store: str) -> None:
    with crew(tmp_path, store=store, burst=16) as made:
        _kill_at_random(made, kills=60, seed=1)


@pytest.mark.slow
def test_five_hundred_kills_lose_nothing(tmp_path: Path, store: str) -> None:
    with crew(tmp_path, store=store, burst=20) as made:
        _kill_at_random(made, kills=500, seed=2)


def _kill_at_random(made: Crew, *, kills: int, seed: int) -> None:
    choice = random.Random(seed)
    running = [made.spawn("publisher"), *(made.spawn("worker") for _ in range(3))]
    for process in running:
        until(lambda process=process: len(process.events()) > MANY)  # type: ignore[misc]  # mypy: default of a lambda
        until(lambda process=process: process.handled > 0 or process.config.role == "publisher")  # type: ignore[misc]
    for _ in range(kills):
        time.sleep(choice.random() * 0.2)
        process = choice.choice(running)
        until(lambda process=process: process.under_way() > 0, 20)  # type: ignore[misc]  # as above
        running.remove(process)
        made.fault(f"kill {process.config.role}", process.kill())
        running.append(made.spawn(process.config.role))
    steady = frozenset(process.config.name for process in made.processes[1:4])
    made.drain()
    report = made.judge(
        acknowledged=1000,
        faults=frozenset({"kill worker", "kill publisher"}),
        redelivered=kills // 4,
        workers=steady,
    )
    assert report.duplicates > 0, "no kill made a duplicate: they hit nobody"
    assert_good(report)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_nothing_is_lost(tmp_path: Path, store: str, point: str) -> None:
    with crew(tmp_path, store=store, failing=0.05, rejected=0.1) as made:
        publisher = made.spawn("publisher", burst=40)
        until(lambda: len(publisher.events()) > 200)
        for nth in (1, 3, 11):
            worker = made.spawn("worker", point=point, nth=nth)
            assert worker.wait(30) == -signal.SIGKILL, f"never came to {point!r} {nth} times"
        made.drain()
        report = made.judge(acknowledged=200, faults=frozenset({point}), redelivered=1)
        fired = [event for event in made.events() if event.op == "fault"]
        assert len(fired) == 3
        assert all(event.value > 0 for event in fired), "a fault fired while nothing was in hand"
        assert report.duplicates > 0 or point not in AFTER_HANDLER, "no kill made a duplicate: they hit nobody"
        assert_good(report)
