"""How far the work is: asks the sources, draws a bar, says when it is time for an accident."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from telex import Disconnected, SourceStats, Telex

LOOK, ALERT = 0.2, 0.05
"""Seconds between two looks; between those for the moment of an accident."""
QUIET = 2.0
"""Seconds without anything to do after which all is done: one look may miss what passes from one worker to another."""
STUCK = 60.0
"""Seconds without progress after which the demonstration gives up."""


@dataclass(frozen=True, slots=True)
class State:
    """How the work stands.

    Attributes:
        done: Deliveries to the groups that are done; where the broker does not say what is in hand, that too.
        in_hand: Deliveries in hand; None where the broker does not say.
        left: Whether anything is left to do.
    """

    done: int
    in_hand: int | None
    left: bool


@dataclass(frozen=True, slots=True)
class Accident:
    """What happens on the way.

    Attributes:
        at: The share of the work after which it happens.
        happen: Makes it happen; it is given the deliveries in hand.
    """

    at: float
    happen: Callable[[int | None], Awaitable[None]]


class Work:
    """What the workers have done of what was published."""

    def __init__(self, app: Telex, groups: int, check: Callable[[], None]) -> None:
        self._app = app
        self._groups = groups
        self._check = check
        self.published = 0

    async def look(self) -> State:
        """How the work stands now."""
        sources = (await self._app.stats()).sources
        groups = [source for source in sources if "/" in source.source]
        known = [source.leased for source in groups if source.leased is not None]
        return State(
            done=self.published * self._groups - sum(map(_open, groups)),
            in_hand=sum(known) if known else None,
            left=any(map(_open, sources)),
        )

    async def follow(self, total: int, accidents: Sequence[Accident]) -> None:
        """Returns once all ``total`` messages are done by every group; accidents happen when their time has come.

        Raises:
            TimeoutError: Nothing moved for a minute.
            RuntimeError: All was done before an accident could happen with work in hand.
        """
        goal, waiting = total * self._groups, sorted(accidents, key=lambda accident: accident.at)
        now = asyncio.get_running_loop().time
        best, since, quiet = 0, now(), now()
        with tqdm(total=goal, desc="handled  ", unit=" deliveries", position=1, mininterval=0.5) as bar:
            while True:
                self._check()
                try:
                    state = await self.look()
                except Disconnected:  # The broker is being restarted.
                    state = State(best, None, True)
                if state.done > best:
                    bar.update(state.done - best)
                    best, since = state.done, now()
                if state.left or self.published < total:
                    quiet = now()
                if waiting and state.left and state.done >= waiting[0].at * goal and state.in_hand != 0:
                    await waiting.pop(0).happen(state.in_hand)
                    quiet = since = now()
                if self.published == total and now() - quiet >= QUIET and not state.left:
                    if waiting:
                        raise RuntimeError("the work was done too fast to be interrupted: give it more flights")
                    return
                if now() - since > STUCK:
                    raise TimeoutError(f"nothing moved for {STUCK:g} s: {await self._app.stats()}")
                await asyncio.sleep(ALERT if waiting else LOOK)

    async def joined(self, source: str, number: int) -> None:
        """Returns once so many processes consume a source, or nobody can say how many."""
        async with asyncio.timeout(STUCK):
            while True:
                self._check()
                (stats,) = (stats for stats in (await self._app.stats()).sources if stats.source == source)
                if stats.consumers is None or stats.consumers >= number:
                    return
                await asyncio.sleep(LOOK)

    async def idle(self) -> None:
        """Returns once nothing is left to do."""
        async with asyncio.timeout(STUCK):
            quiet = asyncio.get_running_loop().time()
            while True:
                self._check()
                state, now = await self.look(), asyncio.get_running_loop().time()
                if state.left:
                    quiet = now
                elif now - quiet >= QUIET:
                    return
                await asyncio.sleep(LOOK)


def _open(source: SourceStats) -> int:
    return (source.ready or 0) + (source.leased or 0) + (source.retrying or 0)
