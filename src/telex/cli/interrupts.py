"""Ctrl-C, SIGTERM and a terminal that goes away: a command stops where nothing is half done, and says how to go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator

from .output import Exit, Failure, Output

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether the command was told to stop. The second time it ends at once."""

    def __init__(self, task: asyncio.Task[Exit]) -> None:
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        """`nohup telex …` goes on when its terminal goes away."""
        self._gentle = False
        self.asked = False

    def listen(self) -> None:
        """From now on signals come here."""
        for number in self._heard:
            self._loop.add_signal_handler(number, self._signalled)

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Inside, the loop stands still: signals end the program as they end any."""
        for number in self._heard:
            self._loop.remove_signal_handler(number)
        try:
            yield
        finally:
            self.listen()

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Inside, the command looks at `asked` itself and stops where it is safe."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    def _signalled(self) -> None:
        if self.asked or not self._gentle:
            self._task.cancel()
        self.asked = True


Action = Callable[[Stop], Awaitable[Exit]]


def run(action: Action) -> Exit:
    """Runs a command's coroutine to its end, or until a signal.

    Raises:
        Failure: It was interrupted.
    """
    return asyncio.run(_run(action))


async def _run(action: Action) -> Exit:
    task = asyncio.current_task()
    assert task is not None
    stop = Stop(task)
    stop.listen()
    try:
        return await action(stop)
    except asyncio.CancelledError:
        if stop.asked:
            raise Failure(Exit.INTERRUPTED, "interrupted") from None
        raise


def confirm(text: str, yes: bool, output: Output, stop: Stop) -> None:
    """Asks whether to go on; ``yes`` says so beforehand.

    Raises:
        Failure: No, or there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(Exit.USAGE, f"{text}: say --yes to do it without being asked")
    with stop.deaf():
        try:
            answer = output.ask(f"{text}. Go on? [y/N] ")
        except KeyboardInterrupt:
            output.note("")
            raise Failure(Exit.INTERRUPTED, "interrupted, nothing was done") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise Failure(Exit.PROBLEM, "nothing was done")
