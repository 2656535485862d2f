"""Several worker processes: one that dies is started again, all are stopped together."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..events import HEALTH, RELOADED, WORKER_ENDED
from .output import Exit, Failure

log = logging.getLogger("telex.run")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STEADY = 10.0
"""Seconds after which a process counts as started well, and its next crash begins with the first pause again."""
LOOK = 0.1
FINAL = (Exit.USAGE, Exit.UNREACHABLE, Exit.REFUSED)
"""At the start these end all: starting again would end the same way. Later, healthy workers go on without the one."""

Down = Callable[[int], object]
Heard = Callable[[int, int], object]
Changed = Callable[[], str | None]


def supervise(arguments: Namespace) -> Exit:
    """Runs worker processes until told to stop, or until they have all done their work."""
    with _reports(arguments) as (heard, down), _changes(arguments) as changed:
        supervisor = _Supervisor(_command(arguments), arguments.processes, heard, down, changed)
        return supervisor.run()


def _command(arguments: Namespace) -> list[str]:
    """How a worker is started; no URL is in it, so none is in the list of processes."""
    words = [sys.executable, "-m", "telex"]
    for option, value in (("-a", arguments.target), ("-p", arguments.profile)):
        if value is not None:
            words += [option, value]
    words.append("run")
    for part in arguments.only:
        words += ["--only", part]
    if arguments.grace is not None:
        words += ["--grace", str(arguments.grace)]
    for option in ("json", "until_idle"):
        if getattr(arguments, option):
            words.append("--" + option.replace("_", "-"))
    return words


@contextlib.contextmanager
def _reports(arguments: Namespace) -> Iterator[tuple[Heard, Down]]:
    """What becomes of the workers' reports: an endpoint answers from them, or they are read and forgotten."""
    if arguments.health is None:
        yield _forget, lambda worker: None
        return
    from . import health  # A web server costs 20 ms: only where somebody asks.
    from .board import Board

    board = Board(arguments.processes)
    with health.serving(arguments.health, board) as (host, port):
        where = f"[{host}]" if ":" in host else host
        HEALTH.log(log, "health and metrics on http://%s:%d", where, port, host=host, port=port)
        yield lambda worker, fd: _listen(board, worker, fd), board.down


def _forget(worker: int, fd: int) -> None:
    with open(fd, "rb") as pipe:
        while pipe.read(65536):
            pass


def _listen(board: Any, worker: int, fd: int) -> None:
    import msgspec

    from .vitals import Report

    decode = msgspec.json.Decoder(Report).decode
    with open(fd, "rb") as pipe:
        for line in pipe:
            with contextlib.suppress(msgspec.DecodeError):  # The worker was killed in the middle of a line.
                board.put(worker, decode(line))


@contextlib.contextmanager
def _changes(arguments: Namespace) -> Iterator[Changed | None]:
    """Tells which source file changed since it was last asked; None without ``--reload``."""
    if not arguments.reload:
        yield None
        return
    try:
        from watchfiles import PythonFilter, watch  # An extra, and only here.
    except ImportError as error:
        raise Failure(Exit.PROBLEM, "--reload needs watchfiles: pip install 'telex[reload]'") from error
    found: queue.SimpleQueue[str] = queue.SimpleQueue()
    stop = threading.Event()

    def look() -> None:
        for changes in watch(Path.cwd(), watch_filter=PythonFilter(), stop_event=stop, raise_interrupt=False):
            found.put(", ".join(sorted({os.path.relpath(path) for _, path in changes})))

    thread = threading.Thread(target=look, name="telex reload", daemon=True)
    thread.start()
    try:
        yield lambda: None if found.empty() else found.get()
    finally:
        stop.set()
        thread.join(5)


class _Worker(NamedTuple):
    """A running process."""

    process: subprocess.Popen[bytes]
    started: float
    reader: threading.Thread


class _Supervisor:
    """Starts, watches and stops worker processes."""

    def __init__(
        self,
        command: list[str],
        count: int,
        heard: Heard,
        down: Down,
        changed: Changed | None,
    ) -> None:
        self._command = command
        self._count = count
        self._heard = heard
        self._down = down
        self._changed = changed
        self._running: dict[int, _Worker] = {}
        self._due = dict.fromkeys(range(count), 0.0)
        self._pauses = dict.fromkeys(range(count), FIRST_PAUSE)
        self._asked = self._passed_on = 0
        """How often it was told to stop, and how often the workers were."""
        self._began = time.monotonic()
        self._restarting: set[int] = set()
        self._waiting: set[int] = set()
        """Ended in a way that only a change of the program can mend."""

    def run(self) -> Exit:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        while self._running or ((self._due or self._waiting) and not self._stopping):
            if self._changed is not None and (file := self._changed()) is not None:
                self._restart(file)
            self._start_due()
            self._pass_on()
            code = self._reap()
            if code is not None:
                self._end()
                return code
            time.sleep(LOOK)
        return Exit.OK

    @property
    def _stopping(self) -> bool:
        return self._asked > 0

    def _restart(self, file: str) -> None:
        """Tells nobody twice: a worker that finishes what it has begun would cut it off."""
        RELOADED.log(log, "%s changed, starting again", file, file=str(file))
        told = self._running.keys() - self._restarting
        self._restarting |= told
        self._due |= dict.fromkeys(self._waiting, 0.0)
        self._waiting.clear()
        for index in told:
            self._running[index].process.send_signal(signal.SIGTERM)

    def _start_due(self) -> None:
        now = time.monotonic()
        for index, due in list(self._due.items()):
            if due <= now and not self._stopping:
                del self._due[index]
                self._running[index] = self._start(index, now)

    def _start(self, index: int, now: float) -> _Worker:
        """In a process group of its own: Ctrl-C would reach it twice otherwise, and twice means at once."""
        read, write = os.pipe()
        try:
            command = [*self._command, "--worker", str(index), "--report", str(write)]
            process = subprocess.Popen(command, pass_fds=(write,), process_group=0, stdin=subprocess.DEVNULL)
        finally:
            os.close(write)
        reader = threading.Thread(target=self._heard, args=(index, read), name=f"telex worker {index + 1}", daemon=True)
        reader.start()
        return _Worker(process, now, reader)

    def _reap(self) -> Exit | None:
        """Takes note of processes that ended; the exit code that ends us all, if one of them was used wrongly."""
        for index, worker in list(self._running.items()):
            code = worker.process.poll()
            if code is None:
                continue
            worker.reader.join(1)
            del self._running[index]
            self._down(index)
            if self._stopping:
                continue
            if index in self._restarting:
                self._restarting.discard(index)
                self._due[index] = 0.0
                continue
            if self._changed is not None and (code == 0 or code in FINAL):
                self._waiting.add(index)
                text = "worker %d ended; it is started again when a file changes"
                WORKER_ENDED.log(log, text, index + 1, worker=index + 1, how=_how(code), delay=None)
                continue
            if code in FINAL and time.monotonic() - self._began < STEADY:
                return Exit(code)
            if code == 0:
                continue
            if time.monotonic() - worker.started > STEADY:
                self._pauses[index] = FIRST_PAUSE
            pause = self._pauses[index]
            self._pauses[index] = min(pause * 2, LONGEST_PAUSE)
            self._due[index] = time.monotonic() + pause
            text, how = "worker %d ended with %s; starting it again in %g s", _how(code)
            WORKER_ENDED.log(log, text, index + 1, how, pause, worker=index + 1, how=how, delay=pause)
        return None

    def _end(self) -> None:
        self._asked += 1
        while self._running:
            self._pass_on()
            self._reap()
            time.sleep(LOOK)

    def _stop(self, number: int, frame: object) -> None:
        """Only counts: a worker that is being started at this very moment must be told as well."""
        self._asked += 1

    def _pass_on(self) -> None:
        """Not the same signal twice: who had no time to listen would hear one (signal(7), standard signals)."""
        while self._passed_on < self._asked:
            self._passed_on += 1
            told = signal.SIGTERM if self._passed_on % 2 else signal.SIGINT
            for index, worker in self._running.items():
                if self._passed_on > 1 or index not in self._restarting:  # These were told to stop by a change.
                    worker.process.send_signal(told)


def _how(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
