"""Random walks through the engine beside a model of it; Hypothesis shrinks a walk that goes astray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telex.engine import Channel, Consumer, Decision, Engine, Fetched, Settled, Settlement, Source
from telex.testing.contract import Kit, Target, opened
from telex.testing.contract.kit import source_of

from .targets import InMemory, OnFile

SLOTS = 3
"""Consumers at once."""
WAIT = 0.03
"""Seconds for which the walk waits for deliveries; short, since most of the time there are none."""

Step = tuple[str, int, int]
"""What to do, in which slot, and with which of the messages there."""

STEPS = st.tuples(
    st.sampled_from(
        [
            "publish",
            "fetch",
            "fetch",
            "fetch",
            "accept",
            "accept",
            "retry",
            "dead",
            "release",
            "trial",
            "stop",
            "close",
            "pass",
        ]
    ),
    st.integers(0, SLOTS - 1),
    st.integers(0, 7),
)


@dataclass
class Known:
    """What the model knows of a message."""

    seq: int
    key: str | None
    failures: int = 0
    losses: int = 0
    ended: bool = False


@dataclass
class Slot:
    """A consumer and what it holds, in the order of its fetches."""

    engine: Engine
    consumer: Consumer
    hand: list[Fetched] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Walk:
    """One walk."""

    kit: Kit
    channel: Channel
    engines: Sequence[Engine]
    known: dict[str, Known] = field(default_factory=dict)
    slots: list[Slot | None] = field(default_factory=lambda: [None] * SLOTS)
    closes: int = 0

    @property
    def source(self) -> Source:
        return source_of(self.channel)

    async def step(self, step: Step) -> None:
        what, number, which = step
        if what == "publish":
            await self.publish(which)
            return
        if what == "pass":
            await self.kit.passes((1 + which) / 2)
            return
        slot = self.slots[number]
        if what == "fetch":
            if slot is None:
                slot = self.slots[number] = await self.open(number)
            if not slot.stopped:
                await self.fetch(slot, 1 + which)
        elif slot is None:
            return
        elif what == "stop":
            await slot.consumer.stop()
            slot.stopped = True
        elif what == "close":
            await self.close(number, slot)
        else:
            await self.settle(slot, Decision[what.upper()], which)

    async def open(self, number: int) -> Slot:
        engine = self.engines[number % len(self.engines)]
        return Slot(engine, await self.kit.consumer(engine, self.source, window=6))

    async def publish(self, number: int) -> None:
        batch = []
        for index in range(1 + number):
            seq = len(self.known)
            key = f"k{(seq + index) % 3}" if self.channel.ordered else None
            outgoing = self.kit.outgoing(self.channel, b"%d" % seq, key=key)
            self.known[outgoing.message.id] = Known(seq, key)
            batch.append(outgoing)
        await self.kit.store(self.engines[number % len(self.engines)], batch)

    async def fetch(self, slot: Slot, most: int) -> None:
        for fetched in await slot.consumer.fetch(most, WAIT):
            self.arrived(fetched)
            slot.hand.append(fetched)
        assert len(slot.hand) <= 6, "more in hand than the window"

    def arrived(self, fetched: Fetched) -> None:
        known = self.known[fetched.message.id]
        assert fetched.message.body == b"%d" % known.seq
        assert not known.ended, f"{known} came again"
        assert all(fetched.message.id != other.message.id for slot in self.slots if slot for other in slot.hand)
        assert fetched.failures == known.failures, (fetched, known)
        assert known.losses <= fetched.losses <= known.losses + self.closes, (fetched, known, self.closes)
        known.losses = fetched.losses

    async def settle(self, slot: Slot, decision: Decision, which: int) -> None:
        if not slot.hand:
            return
        fetched = slot.hand[which % len(slot.hand)]
        if self.channel.ordered:
            if decision is Decision.TRIAL:
                return
            fetched = next(other for other in slot.hand if other.message.key == fetched.message.key)
        known = self.known[fetched.message.id]
        batch = [self.settlement(fetched, decision, which)]
        gone = [fetched]
        if self.channel.ordered and decision in (Decision.RETRY, Decision.RELEASE):
            others = [other for other in slot.hand if other.message.key == known.key and other is not fetched]
            batch += [Settlement(other.lease, Decision.RELEASE) for other in others]
            gone += others
        assert set(await slot.consumer.settle(batch)) == {Settled.DONE}
        slot.hand = [other for other in slot.hand if other not in gone]
        known.failures += decision is Decision.RETRY
        if decision in (Decision.ACCEPT, Decision.DEAD):
            known.ended = True
            if known.key is not None:
                self.demand_order(known)

    def settlement(self, fetched: Fetched, decision: Decision, which: int) -> Settlement:
        if decision is Decision.RETRY:
            at = self.kit.clock.now() + timedelta(seconds=which / 2)
            return Settlement(fetched.lease, decision, at=at, error="{}", cause="E|x")
        return Settlement(fetched.lease, decision, reason="rejected")

    def demand_order(self, ended: Known) -> None:
        for other in self.known.values():
            if other.key == ended.key and other.seq < ended.seq:
                assert other.ended, f"{ended} ended before {other}"

    async def close(self, number: int, slot: Slot) -> None:
        await slot.consumer.close()
        for fetched in slot.hand:
            self.known[fetched.message.id].losses += 1
        self.closes += 1
        self.slots[number] = None

    async def finish(self) -> None:
        """Everything comes to its end: what the walk left is handed out, once, and nothing else."""
        for number, slot in enumerate(self.slots):
            if slot is not None:
                await self.close(number, slot)
        await self.kit.passes(10.0)
        slot = self.slots[0] = await self.open(0)
        for _ in range(400):
            if all(known.ended for known in self.known.values()):
                break
            await self.kit.passes(0.2)
            await self.fetch(slot, 6)
            while slot.hand:
                await self.settle(slot, Decision.ACCEPT, 0)
        left = [known for known in self.known.values() if not known.ended]
        assert not left, f"lost: {left}"
        await self.kit.nothing(slot.consumer)
        stats = await self.kit.stats(self.engines[0], self.source)
        assert (stats.ready, stats.leased, stats.retrying) == (0, 0, 0), stats


async def walk(target: Target, url: str, steps: Sequence[Step], ordered: bool) -> None:
    async with asyncio.timeout(60), opened(target, url) as kit:
        engines = [await kit.engine(), await kit.engine()]
        channel = await kit.queue(engines[0], ordered=ordered, lanes=2)
        model = Walk(kit, channel, engines)
        await model.publish(5)
        for step in steps:
            await model.step(step)
        await model.finish()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("target", [InMemory(), OnFile()], ids=["memory", "file"])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(steps=st.lists(STEPS, min_size=10, max_size=50))
def test_no_walk_goes_astray(target: Target, ordered: bool, steps: list[Step]) -> None:
    with target.place() as url:
        asyncio.run(walk(target, url, steps, ordered))
