"""Commits that fail: one bad value fails alone, a full store still empties, what was given back is given back."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from telex import Delivery, Procedure, Queue, Telex
from telex.engine import (
    Channel,
    Decision,
    Fetched,
    Settled,
    Settlement,
    Stored,
)
from telex.engines.embedded import consumer as consumers
from telex.engines.embedded import writer as writers
from telex.engines.embedded.committer import Committer
from telex.engines.embedded.consumer import EmbeddedConsumer
from telex.engines.embedded.engine import EmbeddedEngine
from telex.engines.embedded.leases import Lease
from telex.engines.embedded.store import Store
from telex.engines.embedded.work import Work
from telex.engines.embedded.writer import Writer

from .running import LANE, SUBSCRIPTION, TOPIC, held, outgoing, publish, use

BROKEN = "\udcff"
"""A text that nothing can write down. The core lets none through; the engine must not rely on that."""


async def in_hand(engine: EmbeddedEngine, *ids: str) -> tuple[EmbeddedConsumer, dict[str, Fetched]]:
    """A consumer that has these messages in hand."""
    await publish(engine, *(outgoing(id) for id in ids))
    consumer = await engine.consume(SUBSCRIPTION, lambda leases: None)
    assert isinstance(consumer, EmbeddedConsumer)
    fetched = await consumer.fetch(100, 2)
    assert [one.message.id for one in fetched] == list(ids)
    return consumer, {one.message.id: one for one in fetched}


def work_of(engine: EmbeddedEngine) -> Writer:
    assert engine._core is not None
    return engine._core.writer


# -- one bad value ------------------------------------------------------------------------------------------------

BAD: list[dict[str, Any]] = [{"headers": {"file": BROKEN}}, {"headers": {"n": object()}}, {"key": BROKEN}]


@pytest.mark.parametrize("bad", BAD, ids=["surrogate", "no text", "key"])
def test_a_message_that_cannot_be_written_is_refused_alone(bad: dict[str, Any]) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        # All of it is one commit: a batch with the bad one in the middle, and what others do in the same turn.
        mixed, others, none = await asyncio.gather(
            publish(engine, outgoing("a"), outgoing("bad", **bad), outgoing("b")),
            publish(engine, outgoing("c"), outgoing("d")),
            engine.admin.stats([SUBSCRIPTION.source]),
        )
        assert mixed == [Stored.YES, Stored.NO, Stored.YES]
        assert others == [Stored.YES, Stored.YES]
        assert len(none) == 1
        consumer = await engine.consume(SUBSCRIPTION, lambda leases: None)
        assert sorted(one.message.id for one in await consumer.fetch(10, 2)) == ["a", "b", "c", "d"]

    use("memory://", test)


@pytest.mark.parametrize("field", ["text", "reason", "cause", "error"])
def test_a_settlement_that_cannot_be_written_fails_alone(field: str) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        consumer, fetched = await in_hand(engine, "a", "bad", "b", "c")
        good: dict[str, Any] = {"reason": "rejected", "text": "no", "cause": "ValueError|place", "error": "{}"}
        dead = {id: Settlement(one.lease, Decision.DEAD, **good) for id, one in fetched.items()}
        dead["bad"] = Settlement(fetched["bad"].lease, Decision.DEAD, **{**good, field: BROKEN})
        mixed, other, stored = await asyncio.gather(
            consumer.settle([dead["a"], dead["bad"], dead["b"]]),
            consumer.settle([Settlement(fetched["c"].lease, Decision.ACCEPT)]),
            publish(engine, outgoing("d")),
        )
        assert list(mixed) == [Settled.DONE, Settled.FAILED, Settled.DONE]
        assert list(other) == [Settled.DONE]
        assert stored == [Stored.YES]
        again = await consumer.settle([Settlement(fetched["bad"].lease, Decision.DEAD, **good)])
        assert list(again) == [Settled.DONE]  # It was still ours.
        (stats,) = await engine.admin.stats([SUBSCRIPTION.source])
        assert (stats.dead, stats.leased) == (3, 0)

    use("memory://", test)


def test_an_emission_that_cannot_be_written_fails_its_settlement_alone() -> None:
    async def test(engine: EmbeddedEngine) -> None:
        consumer, fetched = await in_hand(engine, "a", "bad", "b")
        emit = [outgoing("emitted", key=BROKEN)]
        answers = await consumer.settle(
            [
                Settlement(fetched["a"].lease, Decision.ACCEPT),
                Settlement(fetched["bad"].lease, Decision.ACCEPT, emit=emit),
                Settlement(fetched["b"].lease, Decision.ACCEPT),
            ]
        )
        assert list(answers) == [Settled.DONE, Settled.FAILED, Settled.DONE]

    use("memory://", test)


# -- no room ------------------------------------------------------------------------------------------------------


def test_a_store_without_room_still_takes_what_frees_it(tmp_path: Path) -> None:
    """Accepts leave in the transaction of a retry that does not fit, and questions are answered."""

    def cap(db: apsw.Connection) -> None:
        pages = db.pragma("page_count")
        db.pragma("max_page_count", pages)

    async def test(engine: EmbeddedEngine) -> None:
        consumer, fetched = await in_hand(engine, *(f"m{number}" for number in range(60)))
        await work_of(engine).call(cap)
        leases = [one.lease for one in fetched.values()]
        error = "x" * 4000
        batch = [
            *(Settlement(lease, Decision.RETRY, at=datetime.now(UTC), error=error) for lease in leases[:30]),
            *(Settlement(lease, Decision.ACCEPT) for lease in leases[30:]),
        ]
        answers = await consumer.settle(batch)
        assert list(answers) == [Settled.FAILED] * 30 + [Settled.DONE] * 30
        (stats,) = await engine.admin.stats([SUBSCRIPTION.source])
        assert stats.leased == 30
        await consumer.close()

    use(str(tmp_path / "telex.db"), test)


# -- what is given back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["beside a retry", "as it arrives"])
def test_what_could_not_be_given_back_is_given_back_again(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor of a retried message is released by the engine itself: its key would wait for it for ever."""
    monkeypatch.setattr(consumers, "AGAIN", 0.01, raising=False)
    real = Store.run
    failures = [OSError("input/output error")]

    def fails(store: Store, work: Work) -> Any:
        releases = [one for job in work.settles for one in job.batch if one.decision is Decision.RELEASE]
        if releases and failures:
            raise failures.pop()
        return real(store, work)

    async def test(engine: EmbeddedEngine) -> None:
        consumer = await engine.consume(LANE, lambda leases: None)
        assert isinstance(consumer, EmbeddedConsumer)
        await publish(engine, outgoing("m1", TOPIC, key="k"))
        (first,) = await consumer.fetch(1, 2)
        # A fetch that ends just as the successors arrive: they stay in the engine's buffer.
        fetching = asyncio.ensure_future(consumer.fetch(2, 5))
        await asyncio.sleep(0.05)
        await publish(engine, outgoing("m2", TOPIC, key="k"), outgoing("m3", TOPIC, key="k"))
        async with asyncio.timeout(2):
            while not consumer._buffer._given:  # noqa: ASYNC110
                await asyncio.sleep(0)
        fetching.cancel()
        await asyncio.wait([fetching])
        retry = [Settlement(first.lease, Decision.RETRY, at=datetime.now(UTC), error="{}")]
        monkeypatch.setattr(Store, "run", fails)
        if when == "as it arrives":
            given = consumer._buffer.take_if(lambda fetched: fetched.message.key == "k")
            keys = consumer._retrying.begin(retry)
            consumer.arrived(given)
            consumer._retrying.end(keys)
            await asyncio.sleep(0.1)
        while (await consumer.settle(retry))[0] is Settled.FAILED:
            pass
        assert failures == []
        done: list[str] = []
        async with asyncio.timeout(4):
            while len(done) < 3:
                fetched = await consumer.fetch(10, 0.5)
                await consumer.settle([Settlement(one.lease, Decision.ACCEPT) for one in fetched])
                done += [one.message.id for one in fetched]
        assert done == ["m1", "m2", "m3"]

    use("memory://", test)


def test_who_waits_gets_others_though_what_was_handed_out_goes_back() -> None:
    """All that a transaction handed out is of keys whose retry is being written: the fetch must ask again, and not wait
    for the end of its time."""

    async def test(engine: EmbeddedEngine) -> None:
        consumer = await engine.consume(LANE, lambda leases: None)
        assert isinstance(consumer, EmbeddedConsumer)
        failed = Lease(consumer._holder, outgoing("m0", TOPIC, key="k").message, 0, 0, 0.0)
        retries = consumer._retrying.begin([Settlement(failed, Decision.RETRY)])
        fetching = asyncio.ensure_future(consumer.fetch(10, 20))
        await asyncio.sleep(0)
        await publish(engine, outgoing("m1", TOPIC, key="k"))
        async with asyncio.timeout(2):
            while not consumer._background:  # noqa: ASYNC110
                await asyncio.sleep(0)
        consumer._retrying.end(retries)
        await publish(engine, outgoing("m2", TOPIC, key="other"))
        async with asyncio.timeout(2):
            fetched = list(await fetching)
            while len(fetched) < 2:
                fetched += await consumer.fetch(10, 20)
        assert {one.message.id for one in fetched} == {"m1", "m2"}

    use("memory://", test)


# -- the disk -----------------------------------------------------------------------------------------------------


def test_what_a_procedure_emits_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may be lost together with who waits for it; a message to a queue may not."""
    attempt = Committer._attempt
    flushed: dict[bool, set[object]] = {True: set(), False: set()}

    def noted(committer: Committer, work: Work) -> Any:
        done = attempt(committer, work)
        to = [outgoing.to for job in work.settles for one in job.batch for outgoing in one.emit]
        if to:
            flushed[any(isinstance(one, Channel) for one in to)].add(committer._store.db.pragma("synchronous"))
        return done

    monkeypatch.setattr(Committer, "_attempt", noted)
    app = Telex(str(tmp_path / "telex.db"), name="test")
    buy, look, shipments = Procedure("buy", int, int), Procedure("look", int, int), Queue("shipments", int)

    @app.reply(buy)
    async def bought(number: int, delivery: Delivery) -> int:
        delivery.send(shipments, number)
        return number

    @app.reply(look)
    async def looked(number: int) -> int:
        return number

    async def main() -> None:
        async with app.running():
            assert await app.request(buy, 1) == 1
            assert await app.request(look, 1) == 1

    asyncio.run(main())
    assert flushed[True] == {2}  # FULL
    assert flushed[False] == {1}  # NORMAL: the difference can be seen.


# -- a writer elsewhere that never lets go ------------------------------------------------------------------------


def test_a_consumer_closes_though_the_store_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "CLOSE", 0.05, raising=False)

    async def test(engine: EmbeddedEngine) -> None:
        consumer, _ = await in_hand(engine, "a")
        with held(tmp_path / "telex.db"):
            await asyncio.wait_for(consumer.close(), 2)
        other = await engine.consume(SUBSCRIPTION, lambda leases: None)
        assert [one.losses for one in await other.fetch(1, 2)] == [1]

    use(str(tmp_path / "telex.db"), test)


def test_handlers_stop_though_the_store_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "CLOSE", 0.05, raising=False)
    monkeypatch.setattr(writers, "LEAVE", 0.1, raising=False)
    app = Telex(str(tmp_path / "telex.db"), name="test", grace=0.1)
    jobs = Queue("jobs", int)
    started = asyncio.Event()

    @app.receive(jobs)
    async def work(job: int) -> None:
        started.set()
        await asyncio.sleep(60)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            async with app.running():
                await started.wait()
                lock = held(tmp_path / "telex.db")
                lock.__enter__()
                asyncio.get_running_loop().call_later(3, lock.__exit__, None, None, None)
                began = time.monotonic()
            assert time.monotonic() - began < 2.5

    asyncio.run(asyncio.wait_for(main(), 10))
