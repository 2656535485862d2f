"""Locks, bells, mounts, forks."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from telex.engines.embedded.platform import (
    FileLock,
    ForkGuard,
    LocalBell,
    Place,
    Sleep,
    SocketBell,
    boot_id,
    is_free,
)
from telex.errors import AccessDenied, Closed

HOLDER = """
import sys, time
from telex.engines.embedded.platform import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def _holder(path: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    with _holder(path) as process:
        assert not is_free(path)
        process.send_signal(signal.SIGSTOP)
        assert not is_free(path)  # Stopped is not dead.
        process.kill()
    assert is_free(path)


def test_a_lock_holds_within_one_process_too(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    first, second = FileLock(path), FileLock(path)
    assert first.acquire(0)
    assert not second.acquire(0)
    assert not is_free(path)
    start = time.monotonic()
    assert not second.acquire(0.05)
    assert time.monotonic() - start >= 0.05
    first.release()
    assert second.acquire(0.05)
    second.close()
    second.close()
    assert is_free(path)
    first.close()


def test_waiting_in_the_kernel_ends_when_the_holder_lets_go(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    timer = threading.Timer(0.05, first.release)
    timer.start()
    assert second.acquire()
    timer.join()
    first.close()
    second.close()


def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    lock = FileLock(path)
    lock.acquire()
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert not is_free(path)  # The child closed its copy, which must not unlock ours.
    os.close(lock.fd)  # As a dying process would.
    lock.fd = -1
    assert is_free(path)
    os.write(done[1], b"x")
    os.waitpid(child, 0)
    for fd in (*ready, *done):
        os.close(fd)


def test_a_missing_lock_file_is_free(tmp_path: Path) -> None:
    assert is_free(str(tmp_path / "none.lock"))


def test_a_lock_follows_no_link_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(str(tmp_path / "link"))
    before = os.umask(0o077)
    try:
        lock = FileLock(str(tmp_path / "x.lock"), 0o660)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(lock.path).st_mode) == 0o660
    lock.close()


def test_the_sleep_byte_is_seen_by_another_opener(tmp_path: Path) -> None:
    lock, other = FileLock(str(tmp_path / "x.lock")), FileLock(str(tmp_path / "x.lock"))
    mine, theirs = Sleep(lock.path), Sleep(other.path)
    assert not theirs.asleep
    mine.asleep = True
    assert theirs.asleep
    mine.asleep = False
    assert not theirs.asleep
    for thing in (mine, theirs, lock, other):
        thing.close()


@pytest.mark.parametrize("portable", [False, True])
def test_a_bell_wakes_its_own_thread_and_forgets(tmp_path: Path, portable: bool) -> None:
    (tmp_path / "telex.db").touch()
    bell = Place(str(tmp_path / "telex.db"), portable=portable).bell(1)
    assert isinstance(bell, LocalBell if portable else SocketBell)
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(5)
    assert not bell.wait(0.01)
    timer = threading.Timer(0.02, bell.ring)
    timer.start()
    assert bell.wait(5)
    timer.join()
    bell.close()
    bell.close()


def test_a_bell_whose_file_is_gone_still_wakes_its_own_process(tmp_path: Path) -> None:
    (tmp_path / "telex.db").touch()
    bell = Place(str(tmp_path / "telex.db")).bell(1)
    os.unlink(bell.address)
    bell.ring()
    assert bell.wait(5)
    bell.close()
    bell.ring()


def test_a_bell_is_rung_by_others_and_never_blocks_them(tmp_path: Path) -> None:
    (tmp_path / "telex.db").touch()
    place = Place(str(tmp_path / "telex.db"))
    one, two = place.bell(1), place.bell(2)
    assert isinstance(one, SocketBell)
    for _ in range(1000):  # Far more than the kernel queues.
        one.ring_other(two.address)
    assert two.wait(0)
    assert not two.wait(0)
    two.close()
    one.ring_other(two.address)  # Gone: no error.
    assert not os.path.exists(two.address)
    one.close()


def test_a_long_path_gets_its_bell_in_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / "telex.db").touch()
    place = Place(str(deep / "telex.db"))
    bell = place.bell(7)
    if len(str(runtime)) < 60:
        assert bell.address.startswith(str(runtime))
    assert not bell.address.startswith(str(deep))
    bell.ring()
    assert bell.wait(1)
    bell.close()


def test_a_member_directory_is_private_and_must_stay_so(tmp_path: Path) -> None:
    (tmp_path / "telex.db").touch(0o600)
    place = Place(str(tmp_path / "telex.db"))
    place.member_lock(1).close()
    assert stat.S_IMODE(os.stat(place.members).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(place.lock_path(1)).st_mode) == 0o600
    os.chmod(place.members, 0o777)
    with pytest.raises(AccessDenied, match=r"telex\.db-members"):
        place.member_lock(2)


def test_a_shared_store_has_shared_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "telex.db").touch()
    place = Place(str(tmp_path / "telex.db"), mode=0o660)
    place.member_lock(1).close()
    bell = place.bell(1)
    assert stat.S_IMODE(os.stat(place.members).st_mode) == 0o770
    assert stat.S_IMODE(os.stat(place.lock_path(1)).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(bell.address).st_mode) == 0o660
    bell.close()


def test_cleaning_removes_what_a_dead_member_left(tmp_path: Path) -> None:
    (tmp_path / "telex.db").touch()
    place = Place(str(tmp_path / "telex.db"))
    lock, bell = place.member_lock(1), place.bell(1)
    lock.close()
    place.clean(1, bell.address)
    place.clean(1, bell.address)
    assert os.listdir(place.members) == []
    bell.close()


def test_boot_id_is_stable() -> None:
    assert boot_id() == boot_id() != ""


def test_use_after_a_fork_is_told() -> None:
    guard = ForkGuard()
    guard.check("telex.db")
    child = os.fork()
    if child == 0:
        try:
            guard.check("telex.db")
        except Closed as error:
            os._exit(7 if "telex.db" in str(error) and "after the fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
