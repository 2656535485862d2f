"""Several workers: one that cannot start ends all at the beginning, and nobody else later."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from telex.cli import supervisor
from telex.cli.output import Exit
from telex.cli.supervisor import STEADY, _Supervisor, _Worker


class Process:
    """One that ended, or has not yet."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


def worker(code: int | None) -> _Worker:
    reader = threading.Thread(target=lambda: None)
    reader.start()
    return _Worker(Process(code), time.monotonic(), reader)  # type: ignore[arg-type]  # all that is asked of it


def supervising(*codes: int | None, age: float) -> _Supervisor:
    """A supervisor that has run for so long, and whose workers ended like this."""
    made = _Supervisor([], len(codes), lambda worker, fd: None, lambda worker: None, None)
    made._due.clear()
    made._running = {index: worker(code) for index, code in enumerate(codes)}
    made._began = time.monotonic() - age
    return made


@pytest.mark.parametrize("code", sorted(supervisor.FINAL))
def test_a_worker_that_cannot_start_ends_all_at_the_beginning(code: Exit) -> None:
    assert supervising(None, code, age=0)._reap() is code


@pytest.mark.parametrize("code", [*sorted(supervisor.FINAL), 1, -9])
def test_a_worker_that_cannot_start_again_leaves_the_others_at_work(code: int) -> None:
    """As when the store is held for a while, just when one worker was killed and is started again."""
    made = supervising(None, code, None, age=STEADY + 1)
    assert made._reap() is None
    assert made._running.keys() == {0, 2}
    assert made._due.keys() == {1}
    assert 0 < made._due[1] - time.monotonic() <= supervisor.FIRST_PAUSE


def told_to(made: _Supervisor) -> list[list[int]]:
    """The signals each worker got."""
    return [one.process.signals for one in made._running.values()]  # type: ignore[attr-defined]  # see `worker`


def test_two_changes_in_a_row_stop_a_worker_once() -> None:
    """Told twice it would end at once, and cut its handlers off."""
    made = supervising(None, None, age=0)
    made._restart("one.py")
    made._restart("two.py")
    assert told_to(made) == [[signal.SIGTERM], [signal.SIGTERM]]
    made._running[0] = worker(0)
    made._reap()
    made._running[0] = worker(None)
    made._restart("three.py")
    assert made._running[0].process.signals == [signal.SIGTERM]  # type: ignore[attr-defined]  # see `worker`
    assert made._running[1].process.signals == [signal.SIGTERM]  # type: ignore[attr-defined]  # see `worker`


def test_a_stop_while_a_change_stops_the_workers_cuts_nothing_off_before_it_is_repeated() -> None:
    made = supervising(None, age=0)
    made._restart("one.py")
    made._stop(signal.SIGTERM, None)
    made._pass_on()
    assert told_to(made) == [[signal.SIGTERM]]
    made._stop(signal.SIGTERM, None)
    made._pass_on()
    assert told_to(made) == [[signal.SIGTERM, signal.SIGINT]]
