"""Trials: of all sources of this process, one message at a time is in hand that may kill it; the least blamed first."""

from __future__ import annotations

import asyncio
from typing import Protocol

SETTLING_IN = 1.0
"""Seconds after connecting in which all sources get to show whom they suspect, before one that was blamed is chosen."""
SHOWING = 0.1
"""Seconds that they get after each trial."""


class Suspect(Protocol):
    """A message that is to be handled alone, or a lane with such a message."""

    @property
    def blame(self) -> int:
        """How often a process died while this was on trial."""
        ...

    def begin(self) -> None:
        """It is on trial now. `Trials.end` must follow, whatever becomes of it."""
        ...


class Court(Protocol):
    """Who shows suspects only while nobody is on trial: what lies in a dying process counts as blamed."""

    async def adjourn(self, chosen: Suspect) -> None:
        """Takes no more, and puts back whoever was not chosen."""
        ...

    async def resume(self) -> None:
        """Shows suspects again."""
        ...


class Trials:
    """Who is on trial in this process, and who waits for it. Lives on the engine's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Suspect] = []
        self._courts: list[Court] = []
        self._current: Suspect | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready = 0.0

    @property
    def is_free(self) -> bool:
        """Whether nobody is on trial."""
        return self._current is None

    def connected(self) -> None:
        """The sources begin to show whom they suspect."""
        self._ready = self._loop.time() + SETTLING_IN

    def wait(self, blame: int) -> float:
        """Seconds for which a suspect is not chosen yet, so that it should not be here either."""
        return max(0.0, self._ready - self._loop.time()) if blame else 0.0

    def join(self, court: Court) -> None:
        """Has it adjourned during each trial from now on."""
        self._courts.append(court)

    def leave(self, court: Court) -> None:
        """Has it no more."""
        if court in self._courts:
            self._courts.remove(court)

    def offer(self, suspect: Suspect) -> None:
        """Waits for its turn; idempotent."""
        if suspect is self._current or suspect in self._waiting:
            return
        self._waiting.append(suspect)
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name="telex rabbitmq trials")

    def end(self, suspect: Suspect) -> None:
        """It is on trial no more, or waits no more. Of another one this changes nothing."""
        if suspect is self._current:
            self._current = None
            self._ended.set()
        elif suspect in self._waiting:
            self._waiting.remove(suspect)

    def close(self) -> None:
        """Nobody is chosen any more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._try(await self._choose())
        finally:
            self._task = self._current = None

    async def _choose(self) -> Suspect | None:
        while self._waiting:
            least = min(self._waiting, key=lambda suspect: suspect.blame)
            left = self.wait(least.blame)
            if not left:
                return least
            await asyncio.sleep(left)
        return None

    async def _try(self, chosen: Suspect | None) -> None:
        if chosen is None:
            return
        self._waiting.remove(chosen)
        self._current = chosen
        self._ended.clear()
        for court in list(self._courts):
            await court.adjourn(chosen)
        if self._current is chosen:
            chosen.begin()
            await self._ended.wait()
        for court in list(self._courts):
            await court.resume()
        self._ready = max(self._ready, self._loop.time() + SHOWING)
