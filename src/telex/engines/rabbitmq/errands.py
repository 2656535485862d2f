"""Work that nobody waits for: it ends quietly with the connection, and is cancelled with its owner."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from ...errors import Disconnected
from .link import DROPPED


class Errands:
    """The errands of one owner, on the engine's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Begins one."""

        async def guarded() -> None:
            with suppress(Disconnected, *DROPPED):
                await work

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # It may be cancelled before it has begun.

    def cancel(self) -> None:
        """Ends all."""
        for task in self._tasks:
            task.cancel()
