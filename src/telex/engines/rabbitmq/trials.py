"""Trials: of all sources of this process, one message at a time is in hand that may kill it; the least blamed first."""

from __future__ import annotations

import asyncio
from typing import Protocol

SETTLING_IN = 1.0
"""Seconds after connecting in which all sources get to show whom they suspect, before one that was blamed is chosen."""


class Suspect(Protocol):
    """A message that is to be handled alone, or a lane with such a message."""

    @property
    def blame(self) -> int:
        """How often a process died while this was on trial."""
        ...

    def begin(self) -> None:
        """It is on trial now. `Trials.end` must follow, whatever becomes of it."""
        ...


class Court(Suspect, Protocol):
    """A source whose suspects lie on the broker until they are summoned: what lies in a dying process is blamed."""

    @property
    def is_open(self) -> bool:
        """Whether it may have a suspect, and somebody who wants it."""
        ...

    async def summon(self) -> bool:
        """Fetches a suspect; whether there was one."""
        ...

    async def dismiss(self) -> None:
        """Puts the suspect back, behind the others."""
        ...


class Trials:
    """Who is on trial in this process, and who waits for it. Lives on the engine's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Suspect] = []
        self._courts: list[Court] = []
        self._current: Suspect | None = None
        self._ended = asyncio.Event()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready = 0.0
        self._turn = 0

    def connected(self) -> None:
        """The sources begin to show whom they suspect."""
        self._ready = self._loop.time() + SETTLING_IN

    def join(self, court: Court) -> None:
        """Summons its suspects from now on."""
        self._courts.append(court)

    def leave(self, court: Court) -> None:
        """Summons them no more."""
        if court in self._courts:
            self._courts.remove(court)

    def look(self) -> None:
        """A court may have a suspect."""
        self._news.set()
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name="telex rabbitmq trials")

    def offer(self, suspect: Suspect) -> None:
        """Waits for its turn; idempotent."""
        if suspect is not self._current and suspect not in self._waiting:
            self._waiting.append(suspect)
            self.look()

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
            while True:
                self._news.clear()
                chosen = await self._choose()
                if chosen is not None:
                    await self._try(chosen)
                elif self._waiting:  # Only such as were blamed: the others get some time.
                    await self._rest(max(0.001, self._ready - self._loop.time()))
                elif not self._news.is_set():
                    return
        finally:
            self._task = self._current = None

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _try(self, chosen: Suspect) -> None:
        if chosen in self._waiting:
            self._waiting.remove(chosen)
        self._current = chosen
        self._ended.clear()
        chosen.begin()
        await self._ended.wait()

    async def _choose(self) -> Suspect | None:
        """The next, if anybody may be chosen now: innocents first, of each kind in turn."""
        self._turn += 1
        innocent = next((suspect for suspect in self._waiting if not suspect.blame), None)
        if innocent is not None and self._turn % 2:
            return innocent
        blamed: Court | None = None
        for court in self._in_turn():
            if not await court.summon():
                continue
            if not court.blame:
                if blamed is not None:
                    await blamed.dismiss()
                return court
            if blamed is None and innocent is None and self._loop.time() >= self._ready:
                blamed = court
            else:
                await court.dismiss()
        innocent = next((suspect for suspect in self._waiting if not suspect.blame), None)
        if innocent is None and self._loop.time() >= self._ready:
            return await self._least([*self._waiting, *([blamed] if blamed is not None else [])], blamed)
        if blamed is not None:
            await blamed.dismiss()
        return innocent

    async def _least(self, blamed: list[Suspect], court: Court | None) -> Suspect | None:
        least = min(blamed, key=lambda suspect: suspect.blame, default=None)
        if court is not None and least is not court:
            await court.dismiss()
        return least

    def _in_turn(self) -> list[Court]:
        courts = [court for court in self._courts if court.is_open]
        first = self._turn // 2 % len(courts) if courts else 0  # Every other turn is not theirs.
        return [*courts[first:], *courts[:first]]
