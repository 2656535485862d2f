"""`telex run`: the handlers of an application, in one process or several."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Coroutine
from typing import Any

from ..app import Telex
from .output import Exit, Output

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STEADY = 10.0
"""Seconds after which a process counts as started well, and its next crash begins with the first pause again."""


def go(main: Coroutine[Any, Any, Any]) -> Any:
    """Runs on uvloop where it is installed."""
    try:
        import uvloop  # An extra, and only here.
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def run(app: Telex, arguments: Namespace, output: Output) -> Exit:
    """Runs the handlers here until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if arguments.grace is not None:
        app.grace = arguments.grace
    only = [name for part in arguments.only for name in part.split(",") if name]
    async with app:
        await app.run(only=only, until_idle=arguments.until_idle)
    return Exit.OK


def supervise(arguments: Namespace, output: Output) -> Exit:
    """Runs several processes; one that dies is started again, with growing pauses."""
    command = [sys.executable, "-m", "telex", "run", arguments.app]
    for part in arguments.only:
        command += ["--only", part]
    if arguments.grace is not None:
        command += ["--grace", str(arguments.grace)]
    if arguments.until_idle:
        command.append("--until-idle")
    return _Supervisor(command, arguments.processes, output).run()


class _Supervisor:
    """Starts, watches and stops worker processes."""

    def __init__(self, command: list[str], count: int, output: Output) -> None:
        self._command = command
        self._count = count
        self._output = output
        self._running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self._due = dict.fromkeys(range(count), 0.0)
        self._pauses = dict.fromkeys(range(count), FIRST_PAUSE)
        self._stopping = False

    def run(self) -> Exit:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while self._running or (self._due and not self._stopping):
            self._start_due()
            code = self._reap()
            if code is not None:
                self._stop(signal.SIGTERM, None)
                while self._running:
                    self._reap()
                    time.sleep(0.05)
                return code
            time.sleep(0.05)
        return Exit.OK

    def _start_due(self) -> None:
        now = time.monotonic()
        for index, due in list(self._due.items()):
            if due <= now and not self._stopping:
                del self._due[index]
                self._running[index] = (subprocess.Popen(self._command), now)

    def _reap(self) -> Exit | None:
        """Takes note of processes that ended; the exit code that ends us all, if one of them was used wrongly."""
        for index, (process, started) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[index]
            if code in (Exit.USAGE, Exit.UNREACHABLE, Exit.REFUSED):
                return Exit(code)
            if code == 0 or self._stopping:
                continue
            if time.monotonic() - started > STEADY:
                self._pauses[index] = FIRST_PAUSE
            pause = self._pauses[index]
            self._pauses[index] = min(pause * 2, LONGEST_PAUSE)
            self._due[index] = time.monotonic() + pause
            self._output.problem(f"worker {index + 1} ended with {_how(code)}; starting it again in {pause:g} s")
        return None

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        for process, _ in self._running.values():
            process.send_signal(signal.SIGTERM)


def _how(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
