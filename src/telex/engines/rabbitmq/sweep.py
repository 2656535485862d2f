"""Passes over dead letters. Looking at a queue is holding what is in it: a session holds, decides, and gives back."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity

from ...deadreason import DeadReason
from ...engine import Decide, Letter, Source, Stored, Swept
from ...errors import Disconnected
from ...events import BROKER_TROUBLE
from .codec import NONE, Counts, Incoming
from .codec import Reader as Decoder
from .control import Control
from .intake import PREFETCH, Intake
from .leases import Lease
from .line import Line
from .link import DROPPED
from .outbound import Outbound
from .publisher import Posting, Publisher

log = logging.getLogger("telex.rabbitmq")

QUIET = 2.0
"""Seconds without another letter, of those that there were, after which no more are taken to come."""
BUSY = 20.0
"""Seconds to wait for another process that sweeps the same letters."""
TIMEOUT = 30.0

Item = tuple[Incoming, Lease]


class Session:
    """What one sweep holds, pass after pass."""

    def __init__(self, source: Source, dead: str, decoder: Decoder) -> None:
        self.source = source
        self.dead = dead
        self._came: deque[Item] = deque()
        self._more = asyncio.Event()
        self.intake = Intake(decoder, self._arrived, self._over)
        self.total = 0
        """Letters there were when it began."""
        self.seen = 0
        self.kept = 0
        self.timer: asyncio.TimerHandle | None = None

    def _arrived(self, intake: Intake, run: Sequence[Item]) -> None:
        self._came.extend(run)
        self._more.set()

    def _over(self, intake: Intake, reason: str) -> None:
        self._more.set()

    async def next(self, most: int, expected: int) -> list[Item]:
        """The next letters; fewer than asked for only at the end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + QUIET
        while len(self._came) < min(most, expected) and not self.intake.is_over:
            self._more.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._more.wait()
                end = loop.time() + QUIET
            except TimeoutError:
                break
        return [self._came.popleft() for _ in range(min(most, len(self._came)))]

    @property
    def left(self) -> int:
        """Letters that came and were not shown."""
        return len(self._came)


class Sweeper:
    """Sweeps dead letters, one session at a time for each source."""

    def __init__(
        self,
        line: Line,
        control: Control,
        outbound: Outbound,
        publisher: Publisher,
        dead: Callable[[Source], str],
        decoder: Callable[[Source], Decoder],
    ) -> None:
        self._line = line
        self._control = control
        self._outbound = outbound
        self._publisher = publisher
        self._dead = dead
        self._decoder = decoder
        self._sessions: dict[str, Session] = {}
        self._count = 0
        self._lock = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    def held(self, source: Source) -> int:
        """Letters of a source that sessions hold now."""
        dead = self._dead(source)
        return sum(len(s.intake.open) for s in self._sessions.values() if s.dead == dead)

    async def sweep(self, source: Source, decide: Decide, after: str | None, limit: int, hold: float) -> Swept:
        """One pass."""
        async with self._lock:
            token, session = await self._session(source, after)
            if session is None:
                return Swept(seen=0, moved=0, uncertain=0, after=None, complete=True)
            try:
                swept, ended = await self._pass(session, decide, limit)
            except BaseException:
                await self._end(token)
                raise
            if ended:
                await self._end(token)
                return swept
            loop = asyncio.get_running_loop()
            session.timer = loop.call_later(hold, self._expire, token)
            return msgspec.structs.replace(swept, after=f"{token}:{session.kept}")

    async def close(self) -> None:
        """Gives everything back."""
        for token in list(self._sessions):
            await self._end(token)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def _session(self, source: Source, after: str | None) -> tuple[str, Session | None]:
        token, _, kept = (after or "").rpartition(":")
        session = self._sessions.get(token)
        if session is not None and not session.intake.is_over:
            if session.timer is not None:
                session.timer.cancel()
            return token, session
        for other, old in list(self._sessions.items()):
            if old.dead == self._dead(source):
                await self._end(other)
        session = await self._open(source)
        if session is None:
            return "", None
        self._count += 1
        token = f"s{self._count}"
        self._sessions[token] = session
        if kept.isdecimal():  # The old session is over: go on behind what it kept. What it moved is not there any more.
            skipped = await session.next(int(kept), int(kept))
            session.seen = session.kept = len(skipped)
        return token, session

    async def _open(self, source: Source) -> Session | None:
        """A new session; None where there are no letters."""
        loop = asyncio.get_running_loop()
        end = loop.time() + BUSY
        while True:
            dead = self._dead(source)
            depth = await self._control.depth(dead)
            if depth is None or (not depth.ready and not depth.consumers):
                return None
            if not depth.consumers:
                session = Session(source, dead, self._decoder(source))
                session.total = depth.ready
                link = await self._line.up(loop.time() + TIMEOUT)
                try:
                    await session.intake.start(link, dead, PREFETCH)
                    return session
                except ChannelNotFoundEntity:
                    return None
                except DROPPED as error:
                    raise Disconnected(f"{dead} cannot be read: {error}") from error
            if loop.time() > end:
                raise Disconnected(f"{dead}: another process looks at these letters; try again")
            await asyncio.sleep(0.1)

    def _expire(self, token: str) -> None:
        task = asyncio.get_running_loop().create_task(self._end(token))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, token: str) -> None:
        """Gives back what is held, and waits until it can be seen again."""
        session = self._sessions.pop(token, None)
        if session is None:
            return
        if session.timer is not None:
            session.timer.cancel()
        held = len(session.intake.open)
        await session.intake.close()
        with suppress(AMQPError, Disconnected):
            for _ in range(50):
                if self._line.link is None:  # It was given back when the connection broke, and cannot be looked at.
                    return
                depth = await self._control.depth(session.dead)
                if depth is None or depth.ready >= held or depth.consumers:
                    return
                await asyncio.sleep(0.01)

    # -- a pass -----------------------------------------------------------------------------------------------------

    async def _pass(self, session: Session, decide: Decide, limit: int) -> tuple[Swept, bool]:
        """What was done, and whether the session has ended.

        Raises:
            Disconnected: The letters went back with their channel; nothing was decided.
        """
        items = await session.next(limit, session.total - session.seen)
        if session.intake.is_over:
            raise Disconnected(f"{session.dead}: the channel was closed while its letters were read")
        redrive: list[Item] = []
        discard: list[Item] = []
        for incoming, lease in items:
            verb = decide(letter(session.source, incoming))
            if verb == "redrive":
                redrive.append((incoming, lease))
            elif verb == "discard":
                discard.append((incoming, lease))
        session.seen += len(items)
        session.kept += len(items) - len(redrive) - len(discard)
        dropped, kept = await self._discard(session, discard)
        moved, uncertain = await self._redrive(session, redrive)
        full = session.kept >= PREFETCH
        all_seen = session.seen >= session.total  # Else another process holds some: it began at the same moment.
        ended = full or len(items) < limit or (not session.left and all_seen)
        complete = not full and all_seen
        return (
            Swept(seen=len(items), moved=moved + dropped, uncertain=uncertain + kept, after=None, complete=complete),
            ended,
        )

    async def _discard(self, session: Session, items: Sequence[Item]) -> tuple[int, int]:
        """(certainly gone, perhaps gone)."""
        if not items:
            return 0, 0
        session.intake.ack([lease for _, lease in items])
        await session.intake.fence()  # Nothing answers an acknowledgement; what comes after it is answered.
        return (0, len(items)) if session.intake.is_over else (len(items), 0)

    async def _redrive(self, session: Session, items: Sequence[Item]) -> tuple[int, int]:
        """(certainly moved, perhaps moved)."""
        if not items:
            return 0, 0
        postings: list[Posting] = []
        for incoming, _ in items:
            counts = Counts(redrives=incoming.counts.redrives + 1, errors=incoming.counts.errors)
            postings.append(self._outbound.to_source(session.source, incoming.message, counts))
        outcomes = await self._publisher.store(postings, asyncio.get_running_loop().time() + TIMEOUT)
        done: list[Lease] = []
        uncertain = 0
        for (_, lease), (stored, error) in zip(items, outcomes, strict=True):
            if stored is Stored.YES:
                done.append(lease)
            else:
                session.kept += 1
                uncertain += stored is Stored.UNCERTAIN
                BROKER_TROUBLE.log(log, "%s: a dead letter was not sent back: %s", session.source, error)
        if session.intake.is_over:
            return 0, uncertain + len(done)
        session.intake.ack(done)
        return len(done), uncertain


def letter(source: Source, incoming: Incoming) -> Letter:
    """A dead letter; of one that the broker itself put there, what can be known."""
    death, counts = incoming.death, incoming.counts if incoming.counts is not NONE else NONE
    return Letter(
        source=source,
        message=incoming.message,
        reason=death.reason if death is not None else DeadReason.REJECTED.value,
        text=death.text if death is not None else "the broker put it here: it was rejected, or too large to be kept",
        cause=death.cause if death is not None else "broker|",
        errors=counts.errors,
        at=death.at if death is not None else None,
        redrives=counts.redrives,
    )
