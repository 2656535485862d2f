"""SIGINT and SIGTERM, for every application that runs in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Told = Callable[[str], None]


class _Listeners:
    """Who is told in one loop. A loop has one handler a signal: a second would replace the first, and be removed alone.

    The first to listen adds the handlers, the last to leave puts back what the host had set with `signal.signal`.
    What it had set on the loop itself is lost, since a loop does not say what that was.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.before: dict[signal.Signals, Any] = {}

    def add(self, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        if not self.told:
            for number in SIGNALS:
                loop.remove_signal_handler(number)  # Else what is put back were the loop's inner handler, a deaf one.
                self.before[number] = signal.getsignal(number)
                loop.add_signal_handler(number, self._tell, number.name)
        self.told.append(told)

    def remove(self, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self.told.remove(told)
        if self.told:
            return
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            if (before := self.before.pop(number)) is not None:  # None: not set by Python, which cannot set it again.
                signal.signal(number, before)

    def _tell(self, name: str) -> None:
        for told in tuple(self.told):
            told(name)


_LISTENERS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Listeners] = WeakKeyDictionary()
"""Global as signals are: applications that know nothing of each other share the handlers of their loop."""


@contextlib.contextmanager
def listening(told: Told) -> Iterator[None]:
    """Within it, ``told`` is called with the name of each signal. Only the main thread may listen: no other hears."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    listeners = _LISTENERS.setdefault(loop, _Listeners())
    listeners.add(loop, told)
    try:
        yield
    finally:
        listeners.remove(loop, told)
