"""The trial queue of an unordered source: suspects lie on the broker until one is summoned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from aiormq.exceptions import AMQPError

from ...engine import Decision, Settlement
from ...errors import AccessDenied, Disconnected
from .codec import Counts, Incoming
from .codec import Reader as Decoder
from .control import Control
from .errands import Errands
from .intake import Intake
from .leases import Held, Lease, Spared
from .link import DROPPED, Link, is_cancelled
from .settling import Settling
from .trials import Trials

POLL = 1.0
"""Seconds between looks whether others have put something into the trial queue."""
ARRIVAL = 0.3
"""Seconds for a suspect to arrive: another process may have had it first."""
ANSWER = 5.0
"""Seconds for the broker to answer."""
REST = 1.0
"""Seconds until it is tried again to store a suspect that cannot be stored."""


class Suspects:
    """The trial queue of a source, from which one suspect at a time is summoned.

    The broker counts whatever lies in a process that dies. So nothing is handed over ahead; and a suspect that cannot
    be tried now is stored again, at the end of its queue.

    Args:
        queue: The trial queue.
        decoder: Takes messages apart.
        settling: Puts suspects back.
        trials: Chooses.
        spared: Remembers what was lost with a connection of this process.
        lost: Which deliveries of a copy were lost by processes that live.
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
        counted: Callable[[Lease], Counts],
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
        self._judging = False
        self._loop = asyncio.get_running_loop()
        self._resting = 0.0
        self._arrival = asyncio.Event()
        self._changing = asyncio.Lock()
        self._dismissing = asyncio.Lock()
        """Taken under `_changing` or without it: what is dismissed while its source stops is stored once."""
        self._errands = Errands()
        self._may_have = True
        self.intake: Intake | None = None
        trials.join(self)
        self._errands.run(self._poll())

    # -- life -------------------------------------------------------------------------------------------------------

    def up(self, link: Link) -> None:
        """Begins on a new connection."""
        self._link = link
        self.hint()

    def down(self) -> None:
        """Everything in hand is lost."""
        self._link = None
        if self.intake is not None:
            self.intake.lose("the connection broke")

    async def stop(self) -> None:
        """Takes no more; who is here and not on trial goes back."""
        self._stopped = True
        self._trials.leave(self)
        async with self._changing:
            await self.dismiss()

    async def close(self) -> None:
        """Ends; what is in hand counts as lost."""
        self._stopped = True
        self._trials.leave(self)
        self._errands.cancel()
        if self.intake is not None:
            await self.intake.close()
        self._trials.end(self)

    def hint(self) -> None:
        """Something was put into the queue."""
        self._may_have = True
        self._trials.look()

    def look(self) -> None:
        """Something was settled or lost: perhaps it was on trial."""
        if self._lease is not None and self._lease.state is not Held.OPEN:
            self._lease, self._begun = None, False
            self._trials.end(self)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            if not self._may_have and self._link is not None and self._link.is_open:
                with suppress(AccessDenied, Disconnected, AMQPError, *DROPPED):
                    depth = await self._control.depth(self._queue)
                    self._may_have = depth is not None and depth.ready > 0
            if self._may_have:
                self._trials.look()

    # -- one suspect ------------------------------------------------------------------------------------------------

    @property
    def blame(self) -> int:
        """Of the suspect that is here."""
        return (self._lease.counts.trial or 0) if self._lease is not None else 0

    @property
    def is_open(self) -> bool:
        """Whether it may have a suspect, and somebody who wants it."""
        link = self._link
        if self._loop.time() < self._resting:
            return False
        ready = self._may_have and not (self._stopped or self._judging) and self._lease is None
        return ready and link is not None and link.is_open and self._wanted()

    async def summon(self) -> bool:
        """Fetches a suspect; whether there was one that may be chosen."""
        async with self._changing:
            if not self.is_open:
                return False
            self._may_have = False
            try:
                async with asyncio.timeout(ANSWER):
                    await self._pull()
            except (asyncio.CancelledError, TimeoutError, Disconnected, AMQPError, *DROPPED) as error:
                if isinstance(error, asyncio.CancelledError) and is_cancelled():
                    raise
                self._fail("the broker does not answer")
                return False
            lease = self._lease
            if lease is None:
                return False
            self._may_have = True
            if not lease.returns:
                return True
            self._judging = True
            self._errands.run(self._judge(lease))
            return False

    async def _pull(self) -> None:
        link = self._link
        assert link is not None
        intake = self.intake  # While this waits it may be over, and forgotten.
        if intake is None or intake.is_over:
            intake = Intake(self._decoder, self._arrived, self._over)
            await intake.open_channel(link, 1)
            self.intake = intake
        self._arrival.clear()
        await intake.consume(self._queue)
        try:
            async with asyncio.timeout(ARRIVAL):
                await self._arrival.wait()
        except TimeoutError:
            await intake.settled_down(self._queue, self._control)
        await intake.cancel()

    def _fail(self, reason: str) -> None:
        """The channel is of no use any more; who was on the way over it was not begun."""
        intake, self.intake, self._lease = self.intake, None, None
        if intake is None:
            return
        intake.lose(reason)
        for lease in intake.open.values():  # It was over already, and told nobody what came just before.
            lease.state = Held.LOST
        self._ended(list(intake.open.values()))
        intake.open.clear()

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        for incoming, lease in run:
            lease.counts = self._counted(lease) if incoming.returns else incoming.counts
            self._lease, self._begun = lease, False
        self._arrival.set()

    async def _judge(self, lease: Lease) -> None:
        """Stores a suspect again that came back, with its true blame.

        The broker's count does not say who died, and who knows that his connection broke may die himself. It is one
        death at most: the process after it meets the suspect, and stores it again. What else was counted never began.
        """
        try:
            deaths = frozenset(range(lease.returns)) - self._spared.lost(lease.copy)
            if deaths:
                deaths -= await self._lost(lease.copy)
            async with self._changing:
                if self._lease is lease:
                    trial = (lease.base.trial or 0) + bool(deaths)
                    lease.counts = msgspec.structs.replace(lease.counts, trial=trial)
                    await self.dismiss()  # Each restart would meet it again, so that those behind it go first.
        finally:
            self._judging = False
        self.hint()

    async def dismiss(self) -> None:
        """Stores the suspect that is here at the end of its queue, unless it is on trial."""
        async with self._dismissing:
            lease = self._lease
            if lease is None or self._begun:
                return
            if lease.state is Held.OPEN:
                with suppress(Disconnected):
                    await self._settling.carry_out([Settlement(lease, Decision.TRIAL)])
            self._lease = None
            if lease.state is Held.OPEN and self.intake is not None:  # It comes back by itself, and killed nobody.
                self._resting = self._loop.time() + REST
                self.intake.lose("a suspect could not be stored again")

    def begin(self) -> None:
        """Hands out who was summoned."""
        lease = self._lease
        if lease is None or lease.state is not Held.OPEN or self._dismissing.locked():
            self._lease = None
            self._trials.end(self)
        else:
            self._begun = True
            self._give([lease])

    def _over(self, intake: Intake, reason: str) -> None:
        lost = list(intake.open.values())
        intake.open.clear()
        if intake is self.intake:
            self.intake = None
        self._ended(lost)
        self.look()
        self.hint()
