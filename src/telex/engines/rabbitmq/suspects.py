"""The trial queue of an unordered source: shows one suspect at a time, and hands it out when its turn comes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from aiormq.exceptions import AMQPError

from ...engine import Decision, Settlement
from ...errors import Disconnected
from .codec import Counts, Incoming
from .codec import Reader as Decoder
from .control import Control
from .intake import Intake
from .leases import Held, Lease, Spared
from .link import DROPPED, Link
from .settling import Settling
from .trials import Suspect, Trials

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
MOST_FORGIVEN = 1000


class Suspects:
    """Reads the trial queue of a source, unless a message of another source is on trial.

    The broker counts whatever lies in a process that dies. So a suspect that cannot be tried now is stored again, at
    the end of its queue, before the one that is tried begins.

    Args:
        queue: The trial queue.
        decoder: Takes messages apart.
        settling: Puts suspects back.
        trials: Chooses.
        spared: Remembers what was lost with a connection of this process.
        lost: Which deliveries of a message were lost by processes that live.
        counted: The counts of a delivery that the broker had taken back.
        wanted: Whether the application waits for deliveries.
        give: Hands one out.
        over: Told which deliveries are lost.
        control: Looks at the queue.
    """

    def __init__(
        self,
        *,
        queue: str,
        decoder: Decoder,
        settling: Settling,
        trials: Trials,
        spared: Spared,
        lost: Callable[[str], Awaitable[frozenset[int]]],
        counted: Callable[[Incoming], Counts],
        wanted: Callable[[], bool],
        give: Callable[[Sequence[Lease]], None],
        over: Callable[[Sequence[Lease]], None],
        control: Control,
    ) -> None:
        self._queue = queue
        self._decoder = decoder
        self._settling = settling
        self._trials = trials
        self._spared = spared
        self._lost = lost
        self._counted = counted
        self._wanted = wanted
        self._give = give
        self._ended = over
        self._control = control
        self._link: Link | None = None
        self._stopped = False
        self._lease: Lease | None = None
        """The suspect that is here."""
        self._begun = False
        self._waiting = False
        self._forgiven: OrderedDict[str, int] = OrderedDict()
        """Returns of suspects that were put back, which turned out to be nobody's death."""
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.intake: Intake | None = None
        self.is_resting = False
        """Nobody wanted its suspect: until somebody does it shows none."""
        trials.join(self)

    # -- life -------------------------------------------------------------------------------------------------------

    async def up(self, link: Link) -> None:
        """Begins on a new connection."""
        self._link = link
        await self.resume()

    def down(self) -> None:
        """Everything in hand is lost."""
        self._link = None
        if self.intake is not None:
            self.intake.lose("the connection broke")

    async def stop(self) -> None:
        """Takes no more; whoever waits for its turn goes back."""
        self._stopped = True
        self._trials.leave(self)
        async with self._changing:
            if self.intake is not None:
                await self.intake.cancel()
            await self._put_back()

    async def close(self) -> None:
        """Ends; what is in hand counts as lost."""
        self._stopped = True
        self._trials.leave(self)
        for task in self._tasks:
            task.cancel()
        if self.intake is not None:
            await self.intake.close()
        self._trials.end(self)

    def wake(self) -> None:
        """Somebody wants messages again."""
        if self.is_resting:
            self.is_resting = False
            self._keep(self.resume())

    def look(self) -> None:
        """Something was settled or lost: perhaps it was on trial."""
        if self._lease is not None and self._lease.state is not Held.OPEN:
            self._lease, self._begun = None, False
            self._trials.end(self)

    async def check(self) -> None:
        """Consumes again where the broker has forgotten that it is consumed."""
        intake = self.intake
        if intake is not None and await intake.is_dry(self._queue, self._control) and intake is self.intake:
            intake.lose("the broker has messages and delivers none")

    # -- between trials ---------------------------------------------------------------------------------------------

    async def adjourn(self, chosen: Suspect) -> None:
        """Another source's suspect begins: whoever waits here goes back first."""
        if chosen is self:
            return
        async with self._changing:
            await self._shut()

    async def resume(self) -> None:
        """Consumes, unless it does or may not."""
        async with self._changing:
            link = self._link
            idle = (
                self.intake is None and self._trials.is_free and not (self._stopped or self.is_resting or self._waiting)
            )
            if not idle or link is None or not link.is_open:
                return
            intake = Intake(self._decoder, self._arrived, self._over, on_trial=True)
            try:
                await intake.start(link, self._queue, 1)
            except (Disconnected, AMQPError, *DROPPED):
                if link.is_open:  # The source's own queue is gone as well, most likely, and its reader says so.
                    self._keep(self._again())
                return
            self.intake = intake

    async def _again(self) -> None:
        await asyncio.sleep(LONGEST_PAUSE)
        await self.resume()

    async def _shut(self) -> None:
        intake = self.intake
        if intake is not None:
            await intake.cancel()
            await self._put_back()
            self.intake = None
            left = list(intake.open.values())
            await intake.close()
            self._ended(left)  # Could not be stored: it comes back, and killed nobody.

    async def _put_back(self) -> None:
        """Stores the suspect that is here at the end of its queue, unless it is on trial."""
        lease = self._lease
        if lease is None or self._begun:
            return
        self._lease = None
        self._trials.end(self)
        if lease.state is Held.OPEN:
            with suppress(Disconnected):
                await self._settling.carry_out([Settlement(lease, Decision.TRIAL)])

    # -- one suspect ------------------------------------------------------------------------------------------------

    @property
    def blame(self) -> int:
        """Of the suspect that is here."""
        return (self._lease.counts.trial or 0) if self._lease is not None else 0

    def begin(self) -> None:
        """Hands it out, if it is wanted."""
        lease = self._lease
        if lease is None or lease.state is not Held.OPEN:
            self._trials.end(self)
        elif self._wanted():
            self._begun = True
            self._give([lease])
        else:
            self.is_resting = True
            self._keep(self._rest())

    async def _rest(self) -> None:
        async with self._changing:
            await self._shut()
        if self._wanted():
            self.wake()

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        for incoming, lease in run:
            self.look()  # The one before it is settled: they come one at a time.
            self._lease, self._begun = lease, False
            id = lease.message.id
            # The broker counts each return; those of connections that broke here killed nobody.
            losses = frozenset(range(incoming.returns)) - self._spared.lost(id)
            trial = max(0, (incoming.counts.trial or 0) + len(losses) - self._forgiven.pop(id, 0))
            counts = self._counted(incoming) if incoming.returns else incoming.counts
            lease.counts = msgspec.structs.replace(counts, trial=trial)
            if losses or self._trials.wait(trial):
                self._keep(self._put_off(lease, losses))
            else:
                self._trials.offer(self)

    async def _put_off(self, lease: Lease, losses: frozenset[int]) -> None:
        """A suspect that a process may have died of is stored again, behind the others, until it may be chosen.

        Each restart would meet it again otherwise; and it must not lie here while it waits, nor while the others are
        asked whether they have lost it alive, for this process may die meanwhile.
        """
        self._waiting = True
        try:
            async with self._changing:
                await self._shut()
            if losses:
                await self._ask(lease.message.id, losses)
            await asyncio.sleep(self._trials.wait(1))
        finally:
            self._waiting = False
        await self.resume()

    async def _ask(self, id: str, losses: frozenset[int]) -> None:
        forgiven = losses & (await self._lost(id) - self._spared.lost(id))
        if forgiven:
            self._forgiven[id] = len(forgiven)
            if len(self._forgiven) > MOST_FORGIVEN:
                self._forgiven.popitem(last=False)

    def _over(self, intake: Intake, reason: str) -> None:
        lost = list(intake.open.values())
        intake.open.clear()
        if intake is self.intake:
            self.intake = None
        self._ended(lost)
        self.look()
        link = self._link
        if link is not None and link.is_open and not self._stopped:
            self._keep(self._again_soon())

    async def _again_soon(self) -> None:
        await asyncio.sleep(FIRST_PAUSE)
        await self.resume()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            with suppress(Disconnected, *DROPPED):
                await work

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
