"""The store's file is deleted, replaced, made read-only, cut short or damaged under workers and publishers at work."""

from __future__ import annotations

import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from telex.engines.embedded import frame

from .crew import Crew, Process, assert_good, crew, until

BUSY = 0.6
"""A process that tries again and again uses all of a processor."""


def _start(made: Crew) -> tuple[Process, Process]:
    publisher, worker = made.spawn("publisher", pace=0.02), made.spawn("worker")
    until(lambda: len(publisher.events()) > 300 and worker.handled > 100)
    return publisher, worker


def _hit(made: Crew, name: str, worker: Process, act: Callable[[], object]) -> None:
    until(lambda: worker.under_way() > 0)
    made.fault(name, worker.under_way())
    act()


def _share(process: Process, seconds: float) -> float:
    """Of a processor, used in the next seconds."""
    before = _cpu(process)
    time.sleep(seconds)
    return (_cpu(process) - before) / seconds


def _cpu(process: Process) -> float:
    fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _refused(process: Process) -> int:
    return sum(event.op == "publish" and event.outcome in ("fail", "unknown") for event in process.events())


def _stored(process: Process) -> int:
    return sum(event.op == "publish" and event.outcome == "ok" for event in process.events())


@pytest.mark.parametrize("name", ["telex.db", pytest.param("telex.db-wal", marks=pytest.mark.slow)])
def test_a_file_that_is_moved_away_stops_all_and_back_again_goes_on(tmp_path: Path, name: str) -> None:
    with crew(tmp_path, work=0.05, grace=1) as made:
        publisher, worker = _start(made)
        _hit(made, "moved away", worker, lambda: os.rename(tmp_path / name, tmp_path / "away"))
        until(lambda: f"{name} was deleted while it was open" in publisher.log, 20)
        until(lambda: f"{name} was deleted while it was open" in worker.log, 20)
        until(lambda: _refused(publisher) > 0, 20)
        used = _share(worker, 2.0)
        print(f"\n{used:.0%} of a processor")
        assert used < BUSY
        assert publisher.alive
        assert worker.alive
        os.rename(tmp_path / "away", tmp_path / name)
        stored, handled = _stored(publisher), worker.handled
        until(lambda: _stored(publisher) > stored + 50 and worker.handled > handled + 50)
        made.drain()
        assert_good(made.judge(faults=frozenset({"moved away"}), acknowledged=150))


def test_a_file_that_is_replaced_is_left_alone(tmp_path: Path) -> None:
    """Somebody puts a backup in its place: nobody writes into that, all say so and end when they are told to."""
    with crew(tmp_path, work=0.05, grace=1) as made:
        publisher, worker = _start(made)
        foreign = b"somebody else's" * 1000

        def replace() -> None:
            os.rename(tmp_path / "telex.db", tmp_path / "away")
            (tmp_path / "telex.db").write_bytes(foreign)

        _hit(made, "replaced", worker, replace)
        until(lambda: "telex.db was replaced by another file" in publisher.log, 20)
        until(lambda: "telex.db was replaced by another file" in worker.log, 20)
        used = _share(worker, 2.0)
        print(f"\n{used:.0%} of a processor")
        assert used < BUSY
        for process in (publisher, worker):
            process.signal(signal.SIGTERM)
            assert process.wait() == 0, process.log[-1000:]
        assert (tmp_path / "telex.db").read_bytes() == foreign
        os.rename(tmp_path / "away", tmp_path / "telex.db")  # The right file, and its log beside it.
        made.drain()
        assert_good(made.judge(faults=frozenset({"replaced"}), acknowledged=150))


def test_a_file_made_read_only_disturbs_nobody_who_has_it_open_and_stops_who_comes(tmp_path: Path) -> None:
    with crew(tmp_path, work=0.05, grace=1) as made:
        publisher, worker = _start(made)
        _hit(made, "read-only", worker, lambda: os.chmod(tmp_path / "telex.db", stat.S_IRUSR))
        stored, handled = _stored(publisher), worker.handled
        until(lambda: _stored(publisher) > stored + 50 and worker.handled > handled + 50)
        if os.geteuid():  # Root may write it all the same.
            late = made.spawn("worker")
            assert late.wait() != 0
            assert "run chmod u+rw" in late.errors
        os.chmod(tmp_path / "telex.db", 0o600)
        made.drain()
        assert_good(made.judge(faults=frozenset({"read-only"}), acknowledged=150))


@pytest.mark.parametrize("name", ["telex.db", pytest.param("telex.db-wal", marks=pytest.mark.slow)])
def test_a_file_cut_short_under_them_is_reported_and_nobody_spins(tmp_path: Path, name: str) -> None:
    """What was cut off is gone. But nothing wrong is handed out, everybody says what is wrong, and ends in peace."""
    with crew(tmp_path, work=0.05, grace=1) as made:
        made.send(*[("jobs", "x" * 200)] * 500)  # In the file itself, not in the log.
        publisher, worker = _start(made)
        _hit(made, "cut short", worker, lambda: os.truncate(tmp_path / name, 6000))
        until(lambda: "is damaged" in worker.log or "was cut short" in worker.log)
        used = _share(worker, 2.0)
        print(f"\n{used:.0%} of a processor")
        assert used < BUSY
        for process in (publisher, worker):
            process.signal(signal.SIGTERM)
            assert process.wait() == 0, process.log[-1000:]
        late = made.spawn("worker", until_idle=True)  # It is refused, or handles what is left.
        code = late.wait()
        print(f"who comes now ends with {code}: {late.errors[-300:]}")
        invented = [v for v in made.judge(faults=frozenset({"cut short"})).violations if v.check == "I2"]
        assert not invented


def test_flipped_bits_in_bodies_become_dead_letters_and_never_wrong_bodies(tmp_path: Path) -> None:
    """Bits flip in the log of a store in use. Every message comes as it was, or is a dead letter that says why."""
    choice = random.Random(3)
    with crew(tmp_path, work=0.01, failing=0.0, rejected=0.0) as made:
        made.send(*[("jobs", "x" * 200), ("orders.placed", "x" * 200)] * 200)
        publisher = made.spawn("publisher", pace=0.1, burst=10)
        worker = made.spawn("worker", concurrency=1, work=0.05)
        until(lambda: worker.handled > 20 and len(publisher.events()) > 40)
        ids = _ids(tmp_path / "telex.db")
        _hit(made, "bits flip", worker, lambda: _flip(tmp_path / "telex.db", b"x" * 100, 40, choice))
        until(lambda: "damaged" in worker.log)
        stored, handled = _stored(publisher), worker.handled
        until(lambda: _stored(publisher) > stored + 20 and worker.handled > handled + 20)
        made.drain()
        damaged = [event for event in made.events() if event.op == "letter" and event.name == "damaged"]
        print(f"\n{len(damaged)} damaged letters")
        assert len(damaged) > 10
        assert_good(made.judge(damaged=ids, faults=frozenset({"bits flip"}), acknowledged=400))


def _ids(path: Path) -> dict[str, str]:
    """Which message each letter of a damaged one would stand for."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    found = {
        f"damaged-{pos + index}": message.id
        for pos, data in db.execute("SELECT pos, data FROM log")
        for index, message in enumerate(frame.decode(data))
    }
    db.close()
    return found


def _flip(path: Path, near: bytes, number: int, choice: random.Random) -> None:
    """Flips a bit in so many of the places that look like a body."""
    data = path.read_bytes()
    places, at = [], data.find(near)
    while at >= 0:
        places.append(at)
        at = data.find(near, at + len(near) * 2)
    with path.open("r+b") as file:
        for at in choice.sample(places, number):
            file.seek(at)
            file.write(bytes([data[at] ^ 1 << choice.randrange(8)]))
