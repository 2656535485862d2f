"""Processes that join and die all the time, on an ordered topic whose keys fail."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from telex.testing.history import Event

from .crew import Crew, Process, assert_good, crew, until

CREW = 4
"""Workers besides the one that joins: each lives for about as many seconds."""


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_order_holds_while_processes_join_and_die_each_second(tmp_path: Path, store: str, seconds: int) -> None:
    choice = random.Random(seconds)
    with crew(tmp_path, store=store, lanes=16, failing=0.25, keys=50, work=0.1, burst=40, pace=0.1) as made:
        publisher = made.spawn("publisher")
        workers = [made.spawn("worker") for _ in range(CREW)]
        until(lambda: publisher.under_way() > 0 and all(worker.handled > 10 for worker in workers))
        steady = {worker.config.name for worker in workers}
        begun = time.monotonic()
        for second in range(seconds):
            workers.append(made.spawn("worker"))
            time.sleep(max(0.0, begun + second + choice.random() - time.monotonic()))
            victim = _busy(workers, choice)
            workers.remove(victim)
            made.fault("kill a member", victim.kill())
            time.sleep(max(0.0, begun + second + 1 - time.monotonic()))
        took = time.monotonic() - begun
        made.drain()
        report = made.judge(
            acknowledged=1000, faults=frozenset({"kill a member"}), redelivered=seconds, workers=frozenset(steady)
        )
        fired = [event for event in made.events() if event.op == "fault"]
        joined = sum(process.handled > 0 for process in made.processes[1 + CREW :])
        print(f"{len(fired)} members killed in {took:.0f} s, {joined} that joined meanwhile handled something")
        assert len(fired) == seconds
        assert took < 1.5 * seconds, "less than a kill a second"
        busy = sum(event.value > 0 for event in fired)  # Not all: between a look and the kill, work may end.
        assert busy > 0.7 * seconds, "most members had nothing in hand when they were killed"
        assert joined >= seconds // 2, "those that join are given nothing"
        assert _inherited(made), "nobody took over what a killed member had in hand"
        assert_good(report)


def _inherited(made: Crew) -> set[tuple[str, str]]:
    """What was in hand in a process at its end, and was begun again by another."""
    begun, again = dict[tuple[str, int], Event](), set[tuple[str, str]]()
    for event in made.events():
        if event.op == "deliver":
            if event.phase == "begin":
                begun[event.proc, event.number] = event
            else:
                begun.pop((event.proc, event.number))
    left = {(event.id, event.source): event for event in begun.values()}
    for event in made.events():
        one = left.get((event.id, event.source))
        if one is not None and event.op == "deliver" and event.proc != one.proc and event.t > one.t:
            again.add((event.id, event.source))
    return again


def _busy(workers: list[Process], choice: random.Random) -> Process:
    """Any of them that has something in hand."""
    busy: list[Process] = []

    def found() -> bool:
        busy[:] = [worker for worker in workers if worker.under_way() > 0]
        return bool(busy)

    until(found, 20)
    return choice.choice(busy)
