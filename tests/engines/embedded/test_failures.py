"""What the writer's thread does when the store fails under it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from telex.clock import SystemClock
from telex.engine import (
    Channel,
    ChannelKind,
    Consumer,
    Decision,
    Engine,
    Fetched,
    Outgoing,
    Settlement,
    Source,
    SourceKind,
    Stored,
    Subscription,
)
from telex.engines import Embedded
from telex.engines.embedded.store import Store
from telex.errors import PublishFailed
from telex.message import Message

QUEUE = Channel("q", ChannelKind.QUEUE)
SUBSCRIPTION = Subscription(source=Source("q", SourceKind.QUEUE))


def _run(path: Path, test: Callable[[Engine], Coroutine[object, object, None]], retention: float = 60) -> None:
    async def main() -> None:
        engine = Embedded(retention=retention).engine(str(path), app="test", clock=SystemClock(), random=Random(1))
        await engine.open(time.monotonic() + 10)
        try:
            await engine.apply(await engine.plan([QUEUE], []))
            await test(engine)
        finally:
            await engine.close(time.monotonic() + 5)

    asyncio.run(main())


async def _publish(engine: Engine, count: int = 1, wait: float = 5.0) -> tuple[Stored, Exception | None]:
    message = Message(id="m", channel="q", body=b"{}", time=datetime.now(UTC))
    outcomes = await engine.publish([Outgoing(QUEUE, message)] * count, time.monotonic() + wait)
    return outcomes[-1]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def test_a_deleted_file_is_noticed_without_spinning_and_forgiven(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        os.rename(tmp_path / "telex.db", tmp_path / "away.db")
        before = _cpu()
        await asyncio.sleep(2.5)
        assert _cpu() - before < 1.0  # A thread that tries again and again uses all of 2.5 s.
        assert any("was deleted" in problem for problem in engine.problems())
        stored, error = await _publish(engine)
        assert stored is Stored.NO
        assert isinstance(error, PublishFailed)
        os.rename(tmp_path / "away.db", tmp_path / "telex.db")
        assert (await _publish(engine))[0] is Stored.YES
        assert engine.problems() == []

    _run(tmp_path / "telex.db", test)


def test_a_writer_that_never_lets_go_stops_neither_publish_nor_close(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await engine.consume(SUBSCRIPTION, lambda leases: None)
        other = os.open(tmp_path / "telex.db-writer", os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX)
        start = time.monotonic()
        stored, _ = await _publish(engine, wait=0.3)
        assert stored is Stored.NO
        await engine.close(time.monotonic() + 0.5)
        assert time.monotonic() - start < 4
        os.close(other)

    _run(tmp_path / "telex.db", test)


def test_settled_history_goes_as_fast_as_it_comes(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        consumer = await engine.consume(SUBSCRIPTION, lambda leases: None)
        for _ in range(400):  # A run each: more than one step a second deletes.
            await _publish(engine)
        left = 400
        while left:
            fetched = await consumer.fetch(1000, 1)
            left -= len(fetched)
            await consumer.settle([Settlement(one.lease, Decision.ACCEPT) for one in fetched])
        for _ in range(40):
            if (await engine.admin.browse("q", None, 1000)).messages:
                await asyncio.sleep(0.1)
        assert (await engine.admin.browse("q", None, 1000)).messages == []

    _run(tmp_path / "telex.db", test, retention=0)


def test_lanes_of_a_consumer_that_drains_go_to_the_others_at_once(tmp_path: Path) -> None:
    topic = Channel("t", ChannelKind.TOPIC, ordered=True, lanes=4)
    subscription = Subscription(source=Source("t", SourceKind.GROUP, "g", True), start="all")

    async def test(engine: Engine) -> None:
        await engine.apply(await engine.plan([topic], [subscription]))
        first = await engine.consume(subscription, lambda leases: None)
        second = await engine.consume(subscription, lambda leases: None)
        for consumer in (first, second):
            await consumer.fetch(10, 0.5)  # Each has its two lanes now.
        await first.stop()  # And does not close for a long time.
        keys = [f"k{index}" for index in range(40)]
        messages = [Message(id=key, channel="t", body=b"{}", time=datetime.now(UTC), key=key) for key in keys]
        await engine.publish([Outgoing(topic, message) for message in messages], time.monotonic() + 5)
        got: list[str] = []
        for _ in range(20):
            got += [one.message.id for one in await second.fetch(100, 0.2)]
            if len(got) == 40:
                break
        assert sorted(got) == sorted(keys)

    _run(tmp_path / "telex.db", test)


@pytest.mark.parametrize("ordered", [False, True])
def test_an_innocent_alone_in_its_source_is_not_the_one_that_each_restart_meets(tmp_path: Path, ordered: bool) -> None:
    lonely = Channel("a", ChannelKind.QUEUE, ordered, 1)
    sources = [Source("a", SourceKind.QUEUE, None, ordered), Source("q", SourceKind.QUEUE)]
    message = Message(id="lonely", channel="a", body=b"{}", time=datetime.now(UTC), key="k")

    async def take(consumer: Consumer) -> list[Fetched]:
        got: list[Fetched] = []
        for _ in range(3):
            new = await consumer.fetch(50, 0.05)
            suspects = [one for one in new if one.losses >= 2 and one.trial is None]
            await consumer.settle([Settlement(one.lease, Decision.TRIAL) for one in suspects])
            got += [one for one in new if one not in suspects]
        return got

    async def test(engine: Engine) -> None:
        await engine.apply(await engine.plan([lonely], [Subscription(source=source) for source in sources]))
        await engine.publish([Outgoing(lonely, message)], time.monotonic() + 5)
        await _publish(engine, 10)
        trials: list[int | None] = []
        for _ in range(12):
            consumers = [await engine.consume(Subscription(source=source), lambda leases: None) for source in sources]
            got = [one for each in await asyncio.gather(*map(take, consumers)) for one in each]
            trials += [one.trial for one in got if one.trial is not None]
            for consumer in consumers:
                await consumer.close()  # With all of it in hand, as if the process had been killed.
        assert len(trials) >= 10
        assert max(trial or 0 for trial in trials) <= 1, trials

    _run(tmp_path / "telex.db", test)


def test_a_consumer_that_closes_in_the_middle_of_a_transaction_leaves_nothing_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Store._claim

    def closes(store: Store) -> None:
        """As the application's thread may do at any time: after this transaction looked for what is closing."""
        for holder in store.holders:
            holder.closing = holder.closing or holder.want > 0
        claim(store)

    async def test(engine: Engine) -> None:
        await _publish(engine, 3)
        consumer = await engine.consume(SUBSCRIPTION, lambda leases: None)
        assert len(await consumer.fetch(3, 1)) == 3
        monkeypatch.setattr(Store, "_claim", closes)
        await consumer.fetch(1, 0.3)
        monkeypatch.setattr(Store, "_claim", claim)
        await consumer.close()
        other = await engine.consume(SUBSCRIPTION, lambda leases: None)
        assert [one.losses for one in await other.fetch(3, 2)] == [1, 1, 1]

    _run(tmp_path / "telex.db", test)
