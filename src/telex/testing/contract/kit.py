"""What the tests of the contract are written with: a place to run in, engines that close themselves, short verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any, Protocol, TypeVar

from ...app import Telex
from ...clock import Clock, SystemClock
from ...engine import (
    Address,
    Channel,
    ChannelKind,
    Consumer,
    Decision,
    Engine,
    EngineSettings,
    Fetched,
    Letter,
    Outgoing,
    Settled,
    Settlement,
    Source,
    SourceKind,
    SourceStats,
    Start,
    Stored,
    Subscription,
)
from ...message import Message
from ..clock import VirtualClock

PATIENCE = 10.0
"""Seconds for which a message is waited for."""
SILENCE = 0.15
"""Seconds of waiting after which nothing is taken to come."""
LIMIT = 60.0
"""Seconds after which a test is taken to hang."""
SEED = 20_300_101

S = TypeVar("S", bound="Suite")


class Target(Protocol):
    """The engine under test.

    Attributes:
        settings: The engine's settings, with leases as short as the tests shall wait.
        lease: How long those leases are, in seconds.
        virtual: Whether time may be virtual: true for engines that take all time from their clock.
    """

    settings: EngineSettings
    lease: float
    virtual: bool

    def place(self) -> AbstractContextManager[str]:
        """A URL where nothing was before, taken down at the end. Engines opened on it share what is stored."""
        ...


@dataclass
class Kit:
    """One test's tools."""

    target: Target
    url: str
    stack: AsyncExitStack
    clock: Clock
    names: count[int] = field(default_factory=count)
    engines: list[Engine] = field(default_factory=list)

    # -- engines ----------------------------------------------------------------------------------------------------

    async def engine(self, clock: Clock | None = None) -> Engine:
        """One more process, as far as the engine can tell; closed at the end.

        Args:
            clock: Its own time; one that stands still makes it a process that was stopped.
        """
        engine = self.make(clock)
        await engine.open((clock or self.clock).monotonic() + PATIENCE)
        if clock is None:
            self.engines.append(engine)
        self.stack.push_async_callback(self.close, engine)
        return engine

    def make(self, clock: Clock | None = None) -> Engine:
        """An engine that is not open; the randomness of each is its own, and the same in every run."""
        random = Random(SEED + next(self.names))
        return self.target.settings.engine(self.url, app="contract", clock=clock or self.clock, random=random)

    async def close(self, engine: Engine) -> None:
        """Closes an engine; again does no harm."""
        self.engines = [other for other in self.engines if other is not engine]
        await engine.close(self.clock.monotonic() + PATIENCE)

    async def passes(self, seconds: float) -> None:
        """Lets time pass: at once where it is virtual.

        With several engines it passes in steps shorter than a lease, and each engine has something to do after each
        step: one that sleeps through its lease is taken for dead by the others, and rightly.
        """
        if not isinstance(self.clock, VirtualClock):
            await asyncio.sleep(seconds)
            return
        step = seconds if len(self.engines) < 2 else self.target.lease / 2
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step
            for engine in self.engines:
                await engine.lookup([])

    # -- declaring --------------------------------------------------------------------------------------------------

    async def declare(
        self, engine: Engine, channels: Sequence[Channel], sources: Sequence[Source] = (), start: Start = "new"
    ) -> None:
        """Declares as an application does."""
        subscriptions = [Subscription(source=source, start=start) for source in sources]
        await engine.apply(await engine.plan(channels, subscriptions))

    async def queue(self, engine: Engine, name: str = "work", *, ordered: bool = False, lanes: int = 4) -> Channel:
        """A queue, declared with its source."""
        channel = Channel(name, ChannelKind.QUEUE, ordered, lanes if ordered else 1)
        await self.declare(engine, [channel], [source_of(channel)])
        return channel

    async def topic(
        self,
        engine: Engine,
        name: str,
        *groups: str,
        ordered: bool = False,
        lanes: int = 4,
        start: Start = "new",
        history: timedelta | None = None,
    ) -> Channel:
        """A topic, declared with groups."""
        channel = Channel(name, ChannelKind.TOPIC, ordered, lanes if ordered else 1, history)
        await self.declare(engine, [channel], [source_of(channel, group) for group in groups], start)
        return channel

    async def consumer(
        self,
        engine: Engine,
        source: Source,
        *,
        window: int = 1000,
        max_hold: float | None = None,
        lost: Callable[[Sequence[object]], None] | None = None,
        start: Start = "new",
    ) -> Consumer:
        """A consumer of a source."""
        hold = None if max_hold is None else timedelta(seconds=max_hold)
        subscription = Subscription(source=source, window=window, max_hold=hold, start=start)
        return await engine.consume(subscription, lost or _ignore)

    # -- publishing -------------------------------------------------------------------------------------------------

    def message(self, channel: str, body: bytes = b"{}", **fields: Any) -> Message:
        """A message with an id of its own."""
        fields.setdefault("id", f"m{next(self.names)}")
        return Message(channel=channel, body=body, time=self.clock.now(), **fields)

    def outgoing(self, to: Channel | Source, body: bytes = b"{}", **fields: Any) -> Outgoing:
        """A message on its way to a channel, or to one source alone."""
        name = to.name if isinstance(to, Channel) else to.channel
        return Outgoing(to, self.message(name, body, **fields))

    async def publish(self, engine: Engine, to: Channel, *bodies: bytes, **fields: Any) -> list[Message]:
        """Publishes and demands success."""
        batch = [self.outgoing(to, body, **fields) for body in bodies]
        await self.store(engine, batch)
        return [outgoing.message for outgoing in batch]

    async def store(self, engine: Engine, batch: Sequence[Outgoing]) -> None:
        """Publishes what was made and demands success."""
        answers = await self.answers(engine, batch)
        assert answers == [Stored.YES] * len(batch), f"publish answered {answers}"

    async def answers(self, engine: Engine, batch: Sequence[Outgoing]) -> list[Stored]:
        """Publishes, and returns the outcomes."""
        return [stored for stored, _ in await engine.publish(batch, self.clock.monotonic() + PATIENCE)]

    # -- consuming --------------------------------------------------------------------------------------------------

    async def take(self, consumer: Consumer, number: int) -> list[Fetched]:
        """Exactly so many deliveries.

        Raises:
            AssertionError: They did not come in time, or more came than were asked for.
        """
        taken: list[Fetched] = []
        until = asyncio.get_running_loop().time() + PATIENCE
        while len(taken) < number:
            left = until - asyncio.get_running_loop().time()
            assert left > 0, f"{len(taken)} of {number} deliveries came within {PATIENCE:g} s"
            taken += await consumer.fetch(number - len(taken), min(left, 1.0))
        assert len(taken) == number, f"fetch returned {len(taken)}, more than the {number} asked for"
        return taken

    async def take_one(self, consumer: Consumer) -> Fetched:
        """The next delivery."""
        return (await self.take(consumer, 1))[0]

    async def take_over(self, consumer: Consumer, number: int) -> list[Fetched]:
        """Like `take`, for what another process must first be found to have lost: time flows while it waits."""
        taken: list[Fetched] = []
        until = asyncio.get_running_loop().time() + PATIENCE
        while len(taken) < number:
            assert asyncio.get_running_loop().time() < until, f"{len(taken)} of {number} were taken over"
            await self.passes(self.target.lease / 2)
            taken += await consumer.fetch(number - len(taken), 0.05)
        return taken

    async def nothing(self, consumer: Consumer) -> None:
        """Demands that nothing comes.

        Raises:
            AssertionError: Something came.
        """
        came = await consumer.fetch(100, SILENCE)
        assert not came, f"came unexpectedly: {[fetched.message.id for fetched in came]}"

    async def settle(
        self, consumer: Consumer, fetched: Fetched | Sequence[Fetched], decision: Decision, **fields: Any
    ) -> None:
        """Settles and demands success.

        Raises:
            AssertionError: The engine answered something else.
        """
        batch = [fetched] if isinstance(fetched, Fetched) else fetched
        answers = await consumer.settle([Settlement(item.lease, decision, **fields) for item in batch])
        assert len(answers) == len(batch), f"settle answered {len(answers)} of {len(batch)}"
        assert set(answers) <= {Settled.DONE, Settled.SENT}, f"settle answered {answers}"

    async def accept(self, consumer: Consumer, fetched: Fetched | Sequence[Fetched]) -> None:
        """Accepts."""
        await self.settle(consumer, fetched, Decision.ACCEPT)

    async def retry(self, consumer: Consumer, fetched: Fetched, delay: float) -> None:
        """Counts a failure; again after a delay."""
        at = self.clock.now() + timedelta(seconds=delay)
        await self.settle(consumer, fetched, Decision.RETRY, at=at, error='{"number":1}', cause="ValueError|here")

    async def bury(self, consumer: Consumer, fetched: Fetched | Sequence[Fetched], **fields: Any) -> None:
        """Dead-letters."""
        fields = {"reason": "rejected", "text": "no", "error": '{"number":1}', "cause": "ValueError|here", **fields}
        await self.settle(consumer, fetched, Decision.DEAD, **fields)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def stats(self, engine: Engine, source: Source) -> SourceStats:
        """The state of one source."""
        (stats,) = await engine.admin.stats([source])
        return stats

    async def letters(self, engine: Engine, source: Source) -> list[Letter]:
        """All dead letters of a source, taking none away."""
        found: list[Letter] = []

        def keep(letter: Letter) -> Any:
            found.append(letter)
            return "keep"

        after: str | None = None
        while True:
            swept = await engine.admin.sweep(source, keep, after, 100, 1.0)
            after = swept.after
            if after is None:
                return found

    async def eventually(self, what: str, true: Callable[[], Awaitable[bool]]) -> None:
        """Waits until something holds.

        Raises:
            AssertionError: It did not in time.
        """
        until = asyncio.get_running_loop().time() + PATIENCE
        while not await true():
            assert asyncio.get_running_loop().time() < until, f"not within {PATIENCE:g} s: {what}"
            await asyncio.sleep(0.01)

    # -- applications -----------------------------------------------------------------------------------------------

    def app(self, name: str = "contract", **settings: Any) -> Telex:
        """An application on this engine; not open."""
        return Telex(self.url, name=name, engines=[self.target.settings], **settings)


class Suite:
    """Base of the classes of tests. A subclass sets ``target``; pytest and unittest find the rest."""

    target: Target


Scenario = Callable[[S, Kit], Awaitable[None]]


def scenario(test: Scenario[S]) -> Callable[[S], None]:
    """Makes a test method of a coroutine: it runs in a place of its own, in virtual time where there is such, and has
    a minute to end."""

    def method(self: S) -> None:
        with self.target.place() as url:
            asyncio.run(_run(self, test, url))

    method.__name__ = test.__name__
    method.__qualname__ = test.__qualname__
    method.__doc__ = test.__doc__
    method.__module__ = test.__module__
    return method


async def _run(suite: S, test: Scenario[S], url: str) -> None:
    async with asyncio.timeout(LIMIT), opened(suite.target, url) as kit:
        await test(suite, kit)


@asynccontextmanager
async def opened(target: Target, url: str) -> AsyncIterator[Kit]:
    """Tools for one test at one place; closes all engines at the end."""
    clock: Clock = VirtualClock() if target.virtual else SystemClock()
    async with AsyncExitStack() as stack:
        yield Kit(target, url, stack, clock)


async def until(true: Callable[[], bool]) -> None:
    """Waits until something holds.

    Raises:
        AssertionError: It did not in time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while not true():
        assert loop.time() < end, f"it did not come true within {PATIENCE:g} s"
        await asyncio.sleep(0.005)  # What is waited for has no event: it happens in handlers and in other threads.


def source_of(channel: Channel, group: str | None = None) -> Source:
    """A queue's source, or a topic's for a group."""
    kind = SourceKind.QUEUE if group is None else SourceKind.GROUP
    return Source(channel.name, kind, group, channel.ordered)


def bodies(deliveries: Sequence[Fetched]) -> list[bytes]:
    """Their bodies, in order."""
    return [fetched.message.body for fetched in deliveries]


def ids(deliveries: Sequence[Fetched]) -> list[str]:
    """Their ids, in order."""
    return [fetched.message.id for fetched in deliveries]


def to(address: Address, message: Message, **fields: Any) -> Outgoing:
    """A message on its way."""
    return Outgoing(address, message, **fields)


def _ignore(leases: Sequence[object]) -> None:
    """Nobody asked for lost leases."""
