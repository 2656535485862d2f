"""Reading what is not leased: answers to this process's requests, and broadcasts. Handing out is settling.

Their queues outlive a connection by a minute (``x-expires``), so that a reconnect loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from aiormq.exceptions import AMQPError

from ...engine import Fetched, Settled, Settlement
from ...errors import AccessDenied, ConfigError, Disconnected
from ...events import BROKER_TROUBLE
from .codec import Incoming
from .codec import Reader as Decoder
from .control import Control, Differs
from .intake import Intake
from .leases import Held, Lease
from .link import DROPPED, Link
from .reader import FIRST_PAUSE, LONGEST_PAUSE, Give

log = logging.getLogger("telex.rabbitmq")

EXPIRES = 60_000
"""Milliseconds an unused queue of this kind lives."""
MOST = 100_000
"""Messages it holds for a process that does not read; the oldest go first."""
ARGUMENTS = {"x-queue-type": "classic", "x-expires": EXPIRES, "x-max-length": MOST}


class PassingReader:
    """Reads an inbox or a broadcast.

    Args:
        queue: Its queue.
        binding: Broadcasts: exchange and routing key.
        window: Most deliveries in hand.
        decoder: Takes messages apart.
        give: Takes them to the application.
        control: Makes and deletes the queue.
    """

    def __init__(
        self,
        queue: str,
        binding: tuple[str, str] | None,
        window: int,
        decoder: Decoder,
        give: Give,
        control: Control,
    ) -> None:
        self._queue = queue
        self._binding = binding
        self._window = window
        self._decoder = decoder
        self._give = give
        self._control = control
        self._link: Link | None = None
        self._intake: Intake | None = None
        self._opening: asyncio.Task[None] | None = None
        self._position = 0
        self._stopped = False
        self.problem: str | None = None

    async def make(self) -> None:
        """Makes the queue, so that it misses nothing from now on."""
        await self._control.queue(self._queue, ARGUMENTS)
        if self._binding is not None:
            exchange, key = self._binding
            await self._control.exchange(exchange, "topic")
            await self._control.bind(self._queue, exchange, key)

    async def up(self, link: Link) -> None:
        """Reads on, on a new connection."""
        self._link = link
        if not self._stopped:
            self._opening = asyncio.get_running_loop().create_task(self._open(link))

    def down(self) -> None:
        """What was not handed out comes again."""
        self._link = None
        if self._opening is not None:
            self._opening.cancel()
        if self._intake is not None:
            self._intake.lose("the connection broke")

    async def _open(self, link: Link) -> None:
        pause = FIRST_PAUSE
        while link.is_open and not self._stopped:
            intake = Intake(self._decoder, self._arrived, self._over)
            try:
                await self.make()
                await intake.start(link, self._queue, self._window)
            except (AccessDenied, ConfigError, Differs, Disconnected, *DROPPED) as error:
                self.problem = f"{self._queue} cannot be read: {error}"
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            self._intake = intake
            self.problem = None
            return

    async def opened(self) -> None:
        """Returns when it reads."""
        if self._opening is not None:
            await asyncio.wait([self._opening], timeout=10)

    def _over(self, intake: Intake, reason: str) -> None:
        intake.open.clear()
        self._intake = None
        link = self._link
        if link is not None and link.is_open and not self._stopped:
            BROKER_TROUBLE.log(log, "%s cannot be read: %s; trying again", self._queue, reason)
            self._opening = asyncio.get_running_loop().create_task(self._open(link))

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        given: list[Fetched] = []
        for incoming, lease in run:
            self._position += 1
            given.append(Fetched(incoming.message, lease, position=self._position))
        self._give(given)

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        """Whatever was decided, they are done with."""
        leases: list[Lease] = []
        for settlement in batch:
            lease = settlement.lease
            assert isinstance(lease, Lease)
            if lease.state is Held.OPEN:
                lease.settled(settlement.decision, Settled.DONE)
                leases.append(lease)
        if self._intake is not None:
            self._intake.ack([lease for lease in leases if lease.intake is self._intake])
        return [Settled.DONE] * len(batch)

    async def stop(self) -> None:
        """Takes no more."""
        self._stopped = True
        if self._intake is not None:
            await self._intake.cancel()

    async def close(self) -> None:
        """Ends, and takes its queue away."""
        self._stopped = True
        if self._opening is not None:
            self._opening.cancel()
        if self._intake is not None:
            await self._intake.close()
        if self._link is not None and self._link.is_open:
            with suppress(AccessDenied, Disconnected, AMQPError):
                await self._control.delete_queue(self._queue)
