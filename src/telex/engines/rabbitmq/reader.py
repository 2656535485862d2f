"""Consuming an unordered source: its queue, and beside it who is on trial; through everything that breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec

from ...engine import Decision, Fetched, Settled, Settlement
from ...errors import AccessDenied, ConfigError, Disconnected
from ...events import BROKER_TROUBLE
from .codec import Counts, Incoming
from .codec import Reader as Decoder
from .control import Control, Differs
from .intake import Intake
from .leases import Held, Lease, Spared
from .link import DROPPED, Link
from .settling import Settling
from .suspects import Suspects

log = logging.getLogger("telex.rabbitmq")

LONGEST_HOLD = 25 * 60.0
"""Seconds. The broker ends a channel that holds a delivery for 30 minutes (``consumer_timeout``, its default)."""
GROWTH, AMPLE = 4, 16
"""Who handles so quickly that more must be handed over ahead than this gets so many times as much: each step costs a
channel."""
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
        decoder: Takes messages apart.
        settling: Settles what was read.
        spared: Remembers what was lost with a connection.
        suspects: Makes what reads its trial queue.
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
        decoder: Decoder,
        settling: Settling,
        spared: Spared,
        suspects: Callable[[SourceReader], Suspects],
        window: int,
        hold: float | None,
        give: Give,
        tell: Tell,
        control: Control,
        remake: Callable[[], Awaitable[None]],
    ) -> None:
        self._source = source
        self._queue = queue
        self._decoder = decoder
        self.settling = settling
        self._spared = spared
        self._window = window
        self._hold = min(hold or LONGEST_HOLD, LONGEST_HOLD)
        self._give = give
        self._tell = tell
        self._control = control
        self._remake = remake
        self._link: Link | None = None
        self._channels: list[Intake] = []
        self._opening: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self.prefetch = 0
        """Most messages that the broker hands over ahead: what lies here when the process dies counts as lost."""
        self._position = 0
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = self._loop.call_later(self._look, self._expire)
        self._problem: str | None = None
        self._looking = self._loop.create_task(self._look_for_dry())
        self._suspects = suspects(self)

    @property
    def _look(self) -> float:
        return min(self._hold / 4, 5.0)

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        return self._problem or self.settling.problem

    @property
    def _intakes(self) -> list[Intake]:
        """Where deliveries are in hand: of the queue, and on trial."""
        trial = self._suspects.intake
        return [*self._channels, trial] if trial is not None and not trial.is_over else list(self._channels)

    @property
    def in_hand(self) -> int:
        """Deliveries that are not settled."""
        return sum(len(intake.open) for intake in self._intakes)

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
        for intake in list(self._channels):
            await intake.fence()

    # -- life -------------------------------------------------------------------------------------------------------

    async def up(self, link: Link) -> None:
        """Begins to consume on a new connection."""
        self._link = link
        self.settling.nack_is_free = link.gates.nack_is_free
        if not self._stopped:
            await self._open(link)
            self._suspects.up(link)

    def down(self) -> None:
        """Everything in hand is lost."""
        self._link = None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        for intake in list(self._channels):
            intake.lose("the connection broke")
        self._suspects.down()

    async def stop(self) -> None:
        """Takes no more; what was under way has been given when this returns."""
        self._stopped = True
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        async with self._changing:  # Nothing can cancel a channel that is being opened.
            channels = list(self._channels)
        await asyncio.gather(*(self._cancel(intake) for intake in channels), self._suspects.stop())

    async def _cancel(self, intake: Intake) -> None:
        with suppress(AccessDenied, Disconnected):
            await intake.settled_down(self._queue, self._control)
        await intake.cancel()

    async def close(self) -> None:
        """Ends; what is unsettled comes back as a loss."""
        self._stopped = True
        self._looking.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self.settling.nack_is_free:  # From 4.3 on only a rejected delivery counts for certain.
            for intake in self._intakes:
                intake.give_back(list(intake.open.values()), counted=True)
        try:
            async with self._changing:
                channels, self._channels = self._channels, []
            await asyncio.gather(*(intake.close() for intake in channels))
        finally:  # Whoever is on trial here would keep all others from it.
            await self._suspects.close()

    def may_ask(self, most: int) -> bool:
        """Whether `asked` would change anything; from any thread."""
        return min(self.in_hand + most, self._window) > self.prefetch

    def asked(self, most: int) -> None:
        """The application waits for so many deliveries: the broker may hand over as many ahead.

        What lies here unstarted counts as lost when this process dies, so that it should be no more than what is
        handled soon. A consumer's prefetch cannot be changed, so that there is another one for the difference.
        """
        wanted = min(self.in_hand + most, self._window)
        if wanted > self.prefetch:
            ample = GROWTH * self.prefetch if self.prefetch >= AMPLE else 0
            self.prefetch = min(max(wanted, ample), self._window)
            self._begin(0.0)

    async def carry_out(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """Settles a batch; answers per item."""
        answers = await self.settling.carry_out(batch)
        self._suspects.look()
        if any(settlement.decision is Decision.TRIAL for settlement in batch):
            self._suspects.hint()
        return answers

    async def _open(self, link: Link, pause: float = 0.0) -> None:
        """Consumes as much ahead as is wanted."""
        async with self._changing:
            while (lacking := self.prefetch - sum(intake.prefetch for intake in self._channels)) > 0:
                if self._stopped:
                    return
                intake = Intake(self._decoder, self._arrived, self._over)
                try:
                    await intake.start(link, self._queue, lacking)
                except (Disconnected, *DROPPED) as error:
                    if not link.is_open:
                        raise
                    self._problem = f"{self._source}: cannot be consumed: {error}"
                    self._begin(min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE))
                    return
                self._channels.append(intake)
            self._problem = None

    def _over(self, intake: Intake, reason: str) -> None:
        """A channel is gone."""
        lost = list(intake.open.values())
        intake.open.clear()
        if intake in self._channels:
            self._channels.remove(intake)
        self.lose(lost)
        link = self._link
        if link is not None and link.is_open and not self._stopped:
            self._problem = f"{self._source}: cannot be consumed: {reason}"
            BROKER_TROUBLE.log(log, "%s; trying again", self._problem)
            self._begin(FIRST_PAUSE)

    def lose(self, lost: Sequence[Lease]) -> None:
        """Deliveries are gone, without having killed anybody."""
        for lease in lost:
            self._spared.note(lease)
        if lost:
            self._tell(lost)

    def _begin(self, pause: float) -> None:
        """Consumes, unless that is under way; after a pause the queue may have to be made again."""
        link = self._link
        if link is None or not link.is_open or self._stopped or self._opening is not None:
            return

        async def work() -> None:
            if pause:
                await asyncio.sleep(pause)
                with suppress(AccessDenied, ConfigError, Differs, Disconnected, *DROPPED):
                    await self._remake()
            self._opening = None
            if link.is_open and self._link is link and not self._stopped:
                with suppress(Disconnected, *DROPPED):
                    await self._open(link, pause)

        self._opening = self._loop.create_task(work())

    # -- what comes -------------------------------------------------------------------------------------------------

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        for incoming, lease in run:
            if incoming.returns:
                lease.counts = self.counted(lease)
        self.give([lease for _, lease in run])

    def give(self, leases: Sequence[Lease]) -> None:
        """Hands deliveries out."""
        self._give([self._fetched(lease) for lease in leases])

    def _fetched(self, lease: Lease) -> Fetched:
        self._position += 1
        counts = lease.counts
        return Fetched(lease.message, lease, counts.failures, counts.losses, counts.trial, 0, self._position)

    def counted(self, lease: Lease) -> Counts:
        """What the broker took back counts as lost, unless this process lost it with its connection, not started."""
        spared = self._spared.of(lease)
        losses = lease.base.losses + lease.returns
        if spared is not None and not spared.fetched:
            losses = spared.losses
        return msgspec.structs.replace(lease.base, losses=losses)

    async def _look_for_dry(self) -> None:
        """Consumes again where the broker has forgotten that it is consumed."""
        while not self._stopped:
            await asyncio.sleep(LOOK)
            with suppress(AccessDenied, Disconnected, *DROPPED):
                for intake in list(self._channels):
                    if await intake.is_dry(self._queue, self._control) and not self._stopped:
                        intake.lose("the broker has messages and delivers none")

    def _expire(self) -> None:
        """Lets go what is held too long: another process may have it."""
        self._expiry = self._loop.call_later(self._look, self._expire)
        oldest = self._loop.time() - self._hold
        for intake in self._intakes:
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
        self._suspects.look()
