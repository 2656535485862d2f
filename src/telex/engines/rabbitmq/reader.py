"""Consuming an unordered source: its queue, and its trial queue one at a time; through everything that breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from ...engine import Fetched
from ...errors import AccessDenied, ConfigError, Disconnected
from ...events import BROKER_TROUBLE
from .codec import Counts, Incoming
from .codec import Reader as Decoder
from .control import Control, Differs
from .intake import Intake
from .leases import Held, Lease, Spared
from .link import DROPPED, Link
from .settling import Settling

log = logging.getLogger("telex.rabbitmq")

LONGEST_HOLD = 25 * 60.0
"""Seconds. The broker ends a channel that holds a delivery for 30 minutes (``consumer_timeout``, its default)."""
LOOK = 4.0
"""Seconds between looks whether what should come comes."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

Give = Callable[[Sequence[Fetched]], None]
Tell = Callable[[Sequence[Lease]], None]


class SourceReader:
    """Reads one source for one consumer. Lives on the engine's loop.

    Args:
        source: Its text form.
        queue: Its queue.
        trial: Its trial queue.
        decoder: Takes messages apart.
        settling: Settles what was read.
        spared: Remembers what was lost with a connection.
        lost: Which deliveries of a message were lost by processes that live.
        window: Most deliveries in hand.
        hold: Seconds a delivery may stay unsettled.
        give: Takes deliveries to the application.
        tell: Tells it which are lost.
        control: Looks at queues.
        remake: Makes the queues again if they are gone.
    """

    def __init__(
        self,
        *,
        source: str,
        queue: str,
        trial: str,
        decoder: Decoder,
        settling: Settling,
        spared: Spared,
        lost: Callable[[str], Awaitable[frozenset[int]]],
        window: int,
        hold: float | None,
        give: Give,
        tell: Tell,
        control: Control,
        remake: Callable[[], Awaitable[None]],
    ) -> None:
        self._source = source
        self._queue = queue
        self._trial = trial
        self._decoder = decoder
        self.settling = settling
        self._spared = spared
        self._lost = lost
        self._window = window
        self._hold = min(hold or LONGEST_HOLD, LONGEST_HOLD)
        self._give = give
        self._tell = tell
        self._control = control
        self._remake = remake
        self._link: Link | None = None
        self._intakes: dict[bool, Intake] = {}
        self._opening: dict[bool, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._position = 0
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = self._loop.call_later(self._look, self._expire)
        self._problem: str | None = None
        self._looking = self._loop.create_task(self._look_for_dry())

    @property
    def _look(self) -> float:
        return min(self._hold / 4, 5.0)

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        return self._problem or self.settling.problem

    @property
    def in_hand(self) -> int:
        """Deliveries that are not settled."""
        return sum(len(intake.open) for intake in self._intakes.values() if not intake.is_over)

    @property
    def parked(self) -> int:
        """Nothing waits here to keep order."""
        return 0

    @property
    def next_due(self) -> datetime | None:
        """Nothing waits here."""
        return None

    async def fence(self) -> None:
        """Returns when everything has come that the broker sent before."""
        for intake in list(self._intakes.values()):
            await intake.fence()

    # -- life -------------------------------------------------------------------------------------------------------

    async def up(self, link: Link) -> None:
        """Begins to consume on a new connection."""
        self._link = link
        self.settling.nack_is_free = link.gates.nack_is_free
        if not self._stopped:
            for on_trial in (False, True):
                await self._open(link, on_trial)

    def down(self) -> None:
        """Everything in hand is lost."""
        self._link = None
        for task in self._opening.values():
            task.cancel()
        for intake in list(self._intakes.values()):
            intake.lose("the connection broke")

    async def stop(self) -> None:
        """Takes no more; what was under way has been given when this returns."""
        self._stopped = True
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*(self._cancel(intake) for intake in list(self._intakes.values())))

    async def _cancel(self, intake: Intake) -> None:
        queue = self._trial if intake.on_trial else self._queue
        with suppress(AccessDenied, Disconnected):
            await intake.settled_down(queue, self._control)
        await intake.cancel()

    async def close(self) -> None:
        """Ends; what is unsettled comes back as a loss."""
        self._stopped = True
        self._looking.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        for task in self._opening.values():
            task.cancel()
        for intake in list(self._intakes.values()):
            if self.settling.nack_is_free:  # From 4.3 on only a rejected delivery counts for certain.
                intake.give_back(list(intake.open.values()), counted=True)
            await intake.close()
        self._intakes.clear()

    async def _open(self, link: Link, on_trial: bool) -> None:
        intake = Intake(self._decoder, self._arrived, self._over, on_trial=on_trial)
        queue, prefetch = (self._trial, 1) if on_trial else (self._queue, self._window)
        try:
            await intake.start(link, queue, prefetch)
        except (Disconnected, *DROPPED) as error:
            if not link.is_open:
                raise
            self._problem = f"{self._source}: cannot be consumed: {error}"
            self._again(link, on_trial, FIRST_PAUSE)
            return
        self._intakes[on_trial] = intake
        self._problem = None

    def _over(self, intake: Intake, reason: str) -> None:
        """A channel is gone."""
        lost = list(intake.open.values())
        for lease in lost:
            self._spared.note(lease)
        intake.open.clear()
        if self._intakes.get(intake.on_trial) is intake:
            del self._intakes[intake.on_trial]
        if lost:
            self._tell(lost)
        link = self._link
        if link is not None and link.is_open and not self._stopped:
            self._problem = f"{self._source}: cannot be consumed: {reason}"
            BROKER_TROUBLE.log(log, "%s; trying again", self._problem)
            self._again(link, intake.on_trial, FIRST_PAUSE)

    def _again(self, link: Link, on_trial: bool, pause: float) -> None:
        async def work() -> None:
            await asyncio.sleep(pause)
            with suppress(AccessDenied, ConfigError, Differs, Disconnected):
                await self._remake()
            if link.is_open and self._link is link and not self._stopped:
                self._opening.pop(on_trial, None)
                with suppress(Disconnected, *DROPPED):
                    await self._reopen(link, on_trial, min(pause * 2, LONGEST_PAUSE))

        self._opening[on_trial] = self._loop.create_task(work())

    async def _reopen(self, link: Link, on_trial: bool, pause: float) -> None:
        intake = Intake(self._decoder, self._arrived, self._over, on_trial=on_trial)
        queue, prefetch = (self._trial, 1) if on_trial else (self._queue, self._window)
        try:
            await intake.start(link, queue, prefetch)
        except (Disconnected, *DROPPED) as error:
            self._problem = f"{self._source}: cannot be consumed: {error}"
            if link.is_open:
                self._again(link, on_trial, pause)
            return
        self._intakes[on_trial] = intake
        self._problem = None

    # -- what comes -------------------------------------------------------------------------------------------------

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        if intake.on_trial:
            for incoming, lease in run:
                self._keep(self._suspect(incoming, lease))
            return
        for incoming, lease in run:
            if incoming.returns:
                lease.counts = self._counted(incoming)
        self._give([self._fetched(lease) for _, lease in run])

    def _fetched(self, lease: Lease) -> Fetched:
        self._position += 1
        counts = lease.counts
        return Fetched(lease.message, lease, counts.failures, counts.losses, counts.trial, 0, self._position)

    def _counted(self, incoming: Incoming) -> Counts:
        """What the broker took back counts as lost, unless this process lost it with its connection, not started."""
        counts, returns = incoming.counts, incoming.returns
        spared = self._spared.of(incoming.message.id, counts, returns)
        losses = counts.losses + returns
        if spared is not None and not spared.fetched:
            losses = spared.counts.losses
        return msgspec.structs.replace(counts, losses=losses)

    async def _suspect(self, incoming: Incoming, lease: Lease) -> None:
        """A message on trial: what was lost by a process that lives has not killed it."""
        returns = incoming.returns
        # Asking takes seconds in which this process may die as well, so that one loss goes without.
        spared = len(await self._lost(incoming.message.id)) if returns > 1 else 0
        counts = self._counted(incoming) if returns else incoming.counts
        trial = (incoming.counts.trial or 0) + max(0, returns - spared)
        lease.counts = msgspec.structs.replace(counts, trial=trial)
        if lease.state is Held.OPEN:
            self._give([self._fetched(lease)])

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_for_dry(self) -> None:
        """Consumes again where the broker has forgotten that it is consumed."""
        while not self._stopped:
            await asyncio.sleep(LOOK)
            for intake in list(self._intakes.values()):
                queue = self._trial if intake.on_trial else self._queue
                with suppress(AccessDenied, Disconnected, *DROPPED):
                    if await intake.is_dry(queue, self._control) and not self._stopped:
                        intake.lose("the broker has messages and delivers none")

    def _expire(self) -> None:
        """Lets go what is held too long: another process may have it."""
        self._expiry = self._loop.call_later(self._look, self._expire)
        oldest = self._loop.time() - self._hold
        for intake in self._intakes.values():
            if intake.is_over:
                continue
            old = []
            for lease in intake.open.values():
                if lease.since > oldest:
                    break
                old.append(lease)
            if old:
                for lease in old:
                    lease.state = Held.LOST
                    if not lease.fetched:
                        self._spared.note(lease)
                intake.give_back(old, counted=True)
                BROKER_TROUBLE.log(log, "%s: %d messages were let go after %g s", self._source, len(old), self._hold)
                self._tell(old)
