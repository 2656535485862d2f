"""An engine that lives in the event loop: what the core does above the contract, without any store below.

It can be told to answer what no real engine can be made to answer at will: HELD, FAILED, LOST, UNCERTAIN.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any

from telex.clock import Clock
from telex.engine import (
    Change,
    Channel,
    ChannelKind,
    Consumer,
    Decision,
    EngineClosed,
    Fetched,
    Lost,
    Outgoing,
    Settled,
    Settlement,
    Source,
    SourceKind,
    SourceStats,
    Status,
    Stored,
    Subscription,
)
from telex.features import Features, Support
from telex.message import Message

FEATURES = Features(
    engine="loopback",
    durable=False,
    settle_confirmed=True,
    atomic=True,
    groups=Support.NATIVE,
    patterns=Support.NATIVE,
    broadcast=Support.NATIVE,
    ordered=Support.NATIVE,
    delay=Support.NATIVE,
    requests=Support.NATIVE,
    replay=Support.NATIVE,
    start_all=Support.NATIVE,
    browse=Support.NATIVE,
    max_body=10_000,
    max_delay=timedelta(days=366),
    max_hold=None,
    hold_window=None,
    retention=None,
)


class Lease:
    """Identity is all it has."""

    def __init__(self, message: Message, failures: int, losses: int, position: int, trial: int | None = None) -> None:
        self.message = message
        self.failures = failures
        self.losses = losses
        self.position = position
        self.trial = trial


class Loopback:
    """Settings, engine and admin in one."""

    schemes = ("loopback",)

    def __init__(self, features: Features = FEATURES) -> None:
        self.features = features
        self.channels: dict[str, Channel] = {}
        self.queues: dict[str, deque[Lease]] = {}
        self.sources: dict[str, Source] = {}
        self.differing: set[Channel] = set()
        """What `plan` finds to exist differently."""
        self.settlements: list[Settlement] = []
        self.consumers: list[LoopbackConsumer] = []
        self.answer: Callable[[Settlement], Settled] = lambda settlement: Settled.DONE
        self.outcome: Callable[[Outgoing], tuple[Stored, Exception | None]] = lambda outgoing: (Stored.YES, None)
        self.batches: list[int] = []
        self.position = 0
        self.clock: Clock | None = None

    # settings

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Any:
        self.clock = clock
        return self

    # engine

    @property
    def admin(self) -> Any:
        return self

    async def open(self, deadline: float) -> None:
        return None

    async def close(self, deadline: float) -> None:
        for consumer in self.consumers:
            await consumer.close()

    async def plan(self, channels: Sequence[Channel], subscriptions: Sequence[Subscription]) -> Sequence[Change]:
        differs = [Change(Status.DIFFERS, c.name, "it is told to") for c in channels if c in self.differing]
        new = [
            Change(Status.CREATE, f"{c.kind.value} {c.name}", apply=c)
            for c in channels
            if c.name not in self.channels and c not in self.differing
        ]
        sources = [s.source for s in subscriptions if str(s.source) not in self.sources]
        return [*differs, *new, *(Change(Status.CREATE, str(source), apply=source) for source in sources)]

    async def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change.apply, Channel):
                self.channels[change.apply.name] = change.apply
                if change.apply.kind is not ChannelKind.TOPIC:
                    self.queues.setdefault(change.apply.name, deque())
            elif isinstance(change.apply, Source):
                self.sources[str(change.apply)] = change.apply
                self.queues.setdefault(str(change.apply), deque())

    async def lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        return [self.channels.get(name) for name in names]

    def problems(self) -> Sequence[str]:
        return []

    async def publish(self, batch: Sequence[Outgoing], deadline: float) -> Sequence[tuple[Stored, Exception | None]]:
        self.batches.append(len(batch))
        await asyncio.sleep(0)
        return [self._store(outgoing) for outgoing in batch]

    def _store(self, outgoing: Outgoing) -> tuple[Stored, Exception | None]:
        outcome = self.outcome(outgoing)
        if outcome[0] is not Stored.YES:
            return outcome
        to = outgoing.to
        if isinstance(to, str):
            names = [to]
        elif isinstance(to, Source) or to.kind is not ChannelKind.TOPIC:
            names = [str(to) if isinstance(to, Source) else to.name]
        else:
            names = [name for name, source in self.sources.items() if source.channel == to.name]
        self.position += 1
        for name in names:
            self.queues.setdefault(name, deque()).append(Lease(outgoing.message, 0, 0, self.position))
        self.wake()
        return outcome if names else (Stored.UNROUTED, None)

    async def consume(self, subscription: Subscription, lost: Lost) -> Consumer:
        name = "inbox" if subscription.source.kind is SourceKind.INBOX else str(subscription.source)
        consumer = LoopbackConsumer(self, self.queues.setdefault(name, deque()), name, lost)
        self.consumers.append(consumer)
        if subscription.source.kind is SourceKind.BROADCAST:
            self.sources[name] = subscription.source
        return consumer

    def wake(self) -> None:
        for consumer in self.consumers:
            consumer.arrived.set()

    # admin

    async def stats(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        return [
            SourceStats(
                source=str(source),
                ready=len(self.queues[str(source)]),
                leased=sum(len(c.leased) for c in self.consumers if c.name == str(source)),
                retrying=sum(c.waiting for c in self.consumers if c.name == str(source)),
            )
            for source in sources
        ]


class LoopbackConsumer:
    def __init__(self, engine: Loopback, queue: deque[Lease], name: str, lost: Lost) -> None:
        self._engine = engine
        self._queue = queue
        self.name = name
        self.lost = lost
        self.arrived = asyncio.Event()
        self.leased: dict[Lease, Settled | None] = {}
        self.waiting = 0
        self.closed = False
        self.stopped = False

    @property
    def address(self) -> str | None:
        return self.name if self.name == "inbox" else None

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        try:
            async with asyncio.timeout(wait):
                while not self._queue or self.stopped:
                    self.arrived.clear()
                    await self.arrived.wait()
                    if self.closed:
                        raise EngineClosed
        except TimeoutError:
            return []
        taken = [self._queue.popleft() for _ in range(min(max, len(self._queue)))]
        for lease in taken:
            self.leased[lease] = None
        return [
            Fetched(lease.message, lease, lease.failures, lease.losses, lease.trial, 0, lease.position)
            for lease in taken
        ]

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        await asyncio.sleep(0)
        return [self._settle(settlement) for settlement in batch]

    def _settle(self, settlement: Settlement) -> Settled:
        self._engine.settlements.append(settlement)
        answer = self._engine.answer(settlement)
        lease = settlement.lease
        assert isinstance(lease, Lease)
        if answer in (Settled.FAILED, Settled.HELD):
            return answer
        self.leased.pop(lease, None)
        if answer is not Settled.DONE:
            return answer
        for outgoing in settlement.emit:
            self._engine._store(outgoing)
        if settlement.decision is Decision.RETRY:
            assert settlement.at is not None
            assert self._engine.clock is not None
            again = Lease(lease.message, lease.failures + 1, lease.losses, lease.position)
            wait = max(0.0, (settlement.at - self._engine.clock.now()).total_seconds())
            self.waiting += 1
            asyncio.get_running_loop().call_later(wait, self._again, again)
        elif settlement.decision is Decision.RELEASE:
            self._queue.appendleft(lease)
            self._engine.wake()
        return answer

    def _again(self, lease: Lease) -> None:
        self.waiting -= 1
        index = next((i for i, other in enumerate(self._queue) if other.position > lease.position), len(self._queue))
        self._queue.insert(index, lease)
        self._engine.wake()

    async def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        self.closed = True
        self.arrived.set()
