"""An event loop of an engine's own, in a thread that never runs user code: a blocked application loses no lease."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class SideLoop:
    """A loop in a thread. Every method but `running` is called from other threads.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Starts the thread; returns when its loop runs, within a few milliseconds.

        Raises:
            OSError: No loop can be made, for example because too many files are open.
            RuntimeError: No thread can be started.
        """
        loop = asyncio.new_event_loop()  # Here and not in the thread, whose failure nobody would hear.
        loop.call_soon(self._started.set)
        self._loop = loop
        try:
            self._thread.start()
        except BaseException:
            loop.close()
            raise
        self._started.wait()

    @property
    def running(self) -> asyncio.AbstractEventLoop:
        """The loop.

        Raises:
            RuntimeError: It is not started, or ended.
        """
        if self._loop is None or self._loop.is_closed():
            raise RuntimeError("the engine's loop does not run")
        return self._loop

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for it here. Cancelling here cancels there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.running))

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Calls a function there soon; not at all if the loop has ended."""
        with suppress(RuntimeError):
            self.running.call_soon_threadsafe(function, *arguments)

    async def stop(self) -> None:
        """Cancels what still runs there and ends the thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        done: concurrent.futures.Future[None] = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        await asyncio.wrap_future(done)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        loop = self.running
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()


async def _cancel_all() -> None:
    current = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not current]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=5)
