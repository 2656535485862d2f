"""Consumers as the application's loop sees them; the work is done on the writer's thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence

from ...engine import Decision, Fetched, Lost, Settled, Settlement
from ...errors import TelexError
from ..buffer import Buffer
from ..retrying import Retrying
from .broadcast import Listener
from .inbox import Inbox
from .leases import Holder
from .writer import Writer

CLOSE = 2.0
"""Seconds for which closing waits for the store."""
AGAIN = 0.2
"""Seconds between two tries to give messages back."""


class EmbeddedConsumer:
    """A consumer of a queue, a procedure or a group."""

    address: str | None = None

    def __init__(self, writer: Writer, holder: Holder, lost: Lost, *, quick: bool) -> None:
        self._writer = writer
        self._holder = holder
        self._lost = lost
        self._quick = quick
        self._buffer = Buffer()
        self._stopped = False
        self._wanted = 0
        """What `fetch` waits for; the holder's number is 0 again as soon as something was handed out."""
        self._retrying = Retrying()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where deliveries go."""
        return self._buffer.loop

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        self._wanted = max
        try:
            await self._buffer.wait(wait, self._ask)
        finally:
            self._wanted = self._holder.want = 0
        return self._buffer.take(max)

    def _ask(self) -> None:
        self._holder.want = self._wanted
        self._writer.poke()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        if not batch:
            return []
        retries = self._retrying.begin(batch) if self._holder.source.ordered else []
        if not retries:
            return await self._writer.settle(batch, quick=self._quick and _only_answers(batch))
        stale = _releases(self._buffer.take_if(self._retrying.is_stale))
        answers = await self._writer.settle([*batch, *stale], quick=False, answered=lambda: self._retrying.end(retries))
        own = len(batch)
        if failed := _failed(stale, answers[own:]):
            self._start(self._give_back(failed))
        return answers[:own]

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._holder.stopping = True
        with contextlib.suppress(TelexError):  # Then nothing was under way.
            await self._writer.call(_nothing)  # What was under way has arrived now.
        await self._release(self._buffer.take(self._holder.window))
        self._holder.look = 0.0
        self._writer.poke()

    async def close(self) -> None:
        if self._buffer.closed:
            return
        self._buffer.closed = True
        self._buffer.wake()
        self._holder.closing = True
        try:
            # If the store cannot be written now, what was in hand comes back with the next transaction, or our end.
            with contextlib.suppress(TelexError, TimeoutError):
                async with asyncio.timeout(CLOSE):
                    await self._writer.call(_nothing)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends it without waiting: what was in hand comes back with the next transaction. Idempotent."""
        self._buffer.closed = True
        self._buffer.wake()
        self._holder.closing = True
        self._writer.sinks.pop(self._holder, None)
        self._buffer.take(self._holder.window)
        self._writer.poke()

    def arrived(self, given: Sequence[Fetched]) -> None:
        """Takes deliveries."""
        if self._buffer.closed:
            return
        if self._stopped:
            self._start(self._release(given))
            return
        given, stale = self._retrying.part(given)
        if stale:
            self._start(self._release(stale))
        self._buffer.add(given)
        if stale and not given and self._wanted:  # Who waits got nothing of what was handed out.
            self._ask()

    def lost(self, leases: Sequence[object]) -> None:
        """Is told, on the writer's thread, what is not ours any more."""
        self._lost(leases)

    async def _release(self, given: Sequence[Fetched]) -> None:
        await self._give_back(_releases(given))

    async def _give_back(self, releases: list[Settlement]) -> None:
        """Releases until it is done: nobody else knows of these, and their keys would wait for them for ever."""
        while releases and not self._buffer.closed:
            releases = _failed(releases, await self._writer.settle(releases, quick=False))
            if releases:
                await asyncio.sleep(AGAIN)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = self.loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class PassingConsumer:
    """A consumer of what is not leased: replies and broadcasts. Handing out is settling."""

    def __init__(self, writer: Writer, reader: Inbox | Listener, leave: Callable[[], None]) -> None:
        self._writer = writer
        self._reader = reader
        self._leave = leave
        self._buffer = Buffer()
        self.address = reader.address if isinstance(reader, Inbox) else None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where deliveries go."""
        return self._buffer.loop

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        await self._buffer.wait(wait, _nothing_asked)
        taken = self._buffer.take(max)
        if isinstance(self._reader, Listener) and taken:
            self._reader.waiting -= len(taken)
            self._writer.poke()
        return taken

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        return [Settled.DONE] * len(batch)

    async def stop(self) -> None:
        self._leave()

    async def close(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Ends it. Idempotent."""
        self._leave()
        self._writer.sinks.pop(self._reader, None)
        self._buffer.closed = True
        self._buffer.wake()

    def arrived(self, given: Sequence[Fetched]) -> None:
        """Takes deliveries."""
        self._buffer.add(given)

    def lost(self, leases: Sequence[object]) -> None:
        """Nothing of it is leased."""


def _nothing(db: object) -> None:
    """Waits for a transaction."""


def _nothing_asked() -> None:
    """It comes by itself."""


def _releases(given: Sequence[Fetched]) -> list[Settlement]:
    return [Settlement(fetched.lease, Decision.RELEASE) for fetched in given]


def _failed(batch: Sequence[Settlement], answers: Sequence[Settled]) -> list[Settlement]:
    return [one for one, answer in zip(batch, answers, strict=True) if answer is Settled.FAILED]


def _only_answers(batch: Sequence[Settlement]) -> bool:
    """Whether all that is emitted goes to inboxes: anything else must be on the disk before it counts."""
    return all(isinstance(outgoing.to, str) for settlement in batch for outgoing in settlement.emit)
