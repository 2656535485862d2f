"""An ordered source in one loop: lanes, reader and consumer are real; what the broker and the others do is told.

Deliveries come as soon as a lane is consumed, each incarnation of a channel with those that were planned for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar, cast

import msgspec

from telex import Telex
from telex.engine import Consumer, Lost, Stored, Subscription
from telex.engines.buffer import Buffer
from telex.engines.rabbitmq.codec import NONE, Counts, Incoming, Reader
from telex.engines.rabbitmq.consumer import Delivering, LaneConsumer
from telex.engines.rabbitmq.control import Control
from telex.engines.rabbitmq.intake import Arrived, Ended, Intake
from telex.engines.rabbitmq.lane import Lane
from telex.engines.rabbitmq.lanestate import LaneState, StateStore
from telex.engines.rabbitmq.leases import Held, Lease, Spared
from telex.engines.rabbitmq.link import Link
from telex.engines.rabbitmq.members import Members
from telex.engines.rabbitmq.ordered import OrderedReader
from telex.engines.rabbitmq.publisher import Outcome, Posting, Publisher
from telex.engines.rabbitmq.settling import Plan, Settling
from telex.engines.rabbitmq.trials import Trials
from telex.engines.sideloop import SideLoop
from telex.message import Message

from ...core.loopback import Loopback

T = TypeVar("T")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATE = 10
"""Turns of the loop."""


class Copy(NamedTuple):
    """A message as the broker has it."""

    id: str
    key: str | None = "k"
    returns: int = 0
    counts: Counts = NONE

    @property
    def message(self) -> Message:
        return Message(id=self.id, channel="jobs", body=f'"{self.id}"'.encode(), time=NOW, key=self.key)


class Channel:
    """Stands for an `Intake`."""

    queue = "jobs:0"
    prefetch = 100

    def __init__(self, broker: Broker, arrived: Arrived, ended: Ended) -> None:
        self._broker = broker
        self._arrived = arrived
        self._ended = ended
        self._tag = 0
        self.open: dict[int, Lease] = {}
        self.acked: list[str] = []
        self.is_over = False

    async def start(self, link: Link, queue: str, prefetch: int) -> None:
        self.deliver(self._broker.planned.pop(0) if self._broker.planned else [])
        await asyncio.sleep(0)

    def deliver(self, copies: Iterable[Copy]) -> None:
        came = []
        for copy in copies:
            self._tag += 1
            lease = Lease(cast(Intake, self), self._tag, copy.message, copy.counts, copy.returns, 0.0)
            self.open[self._tag] = lease
            came.append((Incoming(lease.message, copy.counts, copy.returns, None, None, None, known=True), lease))
        if came:
            self._arrived(cast(Intake, self), came)

    def ack(self, leases: Sequence[Lease]) -> None:
        self.acked += [lease.message.id for lease in leases if self.open.pop(lease.tag, None) is not None]

    async def settled_down(self, queue: str, control: Control) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.is_over = True
        for lease in self.open.values():
            lease.state = Held.LOST

    def lose(self, reason: str) -> None:
        if not self.is_over:
            self.is_over = True
            for lease in self.open.values():
                lease.state = Held.LOST
            self._ended(cast(Intake, self), reason)


class Broker:
    """What each channel is given, in the order they are opened; put in the place of `Intake`."""

    def __init__(self) -> None:
        self.planned: list[Sequence[Copy]] = []
        self.channels: list[Channel] = []

    def __call__(self, reader: Reader, arrived: Arrived, ended: Ended) -> Channel:
        self.channels.append(Channel(self, arrived, ended))
        return self.channels[-1]

    def plan(self, *ids: str | Copy) -> None:
        self.planned.append([Copy(each) if isinstance(each, str) else each for each in ids])


class Store:
    """Where a lane's state is kept.

    Attributes:
        saved: Whatever was written, and is kept if `stored`.
        gate: Closed, it keeps a write waiting.
    """

    def __init__(self, kept: LaneState | None = None) -> None:
        self._state: Callable[[], LaneState] = LaneState
        self._kept = msgspec.json.encode(kept or LaneState())
        self.saved: list[LaneState] = []
        self.stored = True
        self.gate = open_gate()

    def of(self, state: Callable[[], LaneState]) -> StateStore:
        self._state = state
        return cast(StateStore, self)

    async def load(self) -> LaneState:
        return msgspec.json.decode(self._kept, type=LaneState)

    async def save(self) -> bool:
        body = msgspec.json.encode(self._state())
        self.saved.append(msgspec.json.decode(body, type=LaneState))
        await self.gate.wait()
        if self.stored:
            self._kept = body
        return self.stored


class Peers:
    """Stands for `Members`."""

    me = "me"

    def __init__(self) -> None:
        self.sharing_now = ["me"]
        self._changed: Callable[[], None] = lambda: None

    def become(self, *names: str) -> None:
        """The lane belongs to the first."""
        self.sharing_now = [*names]
        self._changed()

    def sharing(self, source: str) -> Sequence[str]:
        return self.sharing_now

    async def join(self, source: str, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def leave(self, source: str, changed: Callable[[], None]) -> None: ...


class Other:
    """What another source of the process has on trial."""

    blame = 0
    begun = False

    def begin(self) -> None:
        self.begun = True


class Copies:
    """Stands for `Settling` and `Publisher`: whatever has to be published is, when the gate is open."""

    problem: str | None = None

    def __init__(self) -> None:
        self.gate = open_gate()

    async def plan(self, settlement: object) -> Plan:
        return Plan([])

    async def store(self, postings: Sequence[Posting], deadline: float) -> Sequence[Outcome]:
        await self.gate.wait()
        return [(Stored.YES, None)] * len(postings)


class Here:
    """The engine's loop is the application's; what is asked of it arrives some turns later."""

    async def run(self, work: Awaitable[T]) -> T:
        for _ in range(LATE):
            await asyncio.sleep(0)
        return await work

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        asyncio.get_running_loop().call_soon(function, *arguments)


class Process:
    """One process, and one lane."""

    def __init__(self, lost: Lost) -> None:
        self.store, self.peers, self.trials, self.copies = Store(), Peers(), Trials(), Copies()
        buffer = Buffer()
        delivering = Delivering(buffer, lost)

        def lanes(ready: Callable[[], None], ended: Callable[[Lane, Sequence[Lease], str], None]) -> Sequence[Lane]:
            self.lane = make_lane(self.store, self.trials, lambda: datetime.now(UTC), ready=ready, ended=ended)
            return [self.lane]

        async def remake() -> None: ...

        self.reader = OrderedReader(
            source="jobs",
            make=lanes,
            members=cast(Members, self.peers),
            settling=cast(Settling, self.copies),
            publisher=cast(Publisher, self.copies),
            window=1000,
            hold=None,
            give=delivering.give,
            tell=delivering.tell,
            recall=delivering.recall,
            wanted=delivering.is_wanted,
            remake=remake,
        )
        self.consumer = LaneConsumer(
            cast(SideLoop, Here()), buffer, self.reader, self.reader.carry_out, lambda consumer: None
        )
        self.consumer.begin(self.reader, delivering)
        delivering.consumer = self.consumer

    async def begin(self) -> None:
        await self.up()
        await self.reader.join()

    async def up(self, link: Link | None = None) -> None:
        await self.reader.up(link or cast(Link, Connected()))

    async def flap(self) -> None:
        """The connection is lost and back."""
        self.reader.down()
        await self.up()


class Connected:
    """Stands for a `Link`."""

    is_open = True


class Rig(Loopback):
    """An engine whose sources are read by such a process; all else is the loopback's."""

    process: Process

    async def consume(self, subscription: Subscription, lost: Lost) -> Consumer:
        self.process = Process(lost)
        await self.process.begin()
        return self.process.consumer


def make_app() -> tuple[Telex, Rig]:
    rig = Rig()
    return Telex("loopback://", name="test", engines=[rig], grace=0.5), rig


def make_lane(
    store: Store,
    trials: Trials | None = None,
    now: Callable[[], datetime] = lambda: NOW,
    *,
    ready: Callable[[], None] = lambda: None,
    ended: Callable[[Lane, Sequence[Lease], str], None] = lambda lane, lost, reason: None,
) -> Lane:
    return Lane(
        0, "jobs:0", store.of, cast(Reader, None), cast(Control, None), Spared(), _nobody, trials or Trials(), now,
        ready, ended,
    )  # fmt: skip


def open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


async def _nobody(copy: str) -> frozenset[int]:
    return frozenset()
