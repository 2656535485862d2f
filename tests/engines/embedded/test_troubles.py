"""What fails beside a commit: nothing is done twice, nobody waits for ever, nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from telex.deadletters import DeadLetters
from telex.engine import Decision, Settled, Settlement, Source, SourceKind, Stored, Subscription
from telex.engines.embedded.committer import Committer
from telex.engines.embedded.consumer import EmbeddedConsumer
from telex.engines.embedded.engine import EmbeddedEngine
from telex.engines.embedded.inbox import Inbox
from telex.engines.embedded.store import Store
from telex.engines.embedded.work import Done, Work
from telex.engines.embedded.writer import Writer
from telex.errors import Closed, Disconnected

from .inside import count, store_of, within
from .running import LANE, QUEUE, SUBSCRIPTION, TOPIC, outgoing, publish, use

INBOX = Subscription(source=Source("", SourceKind.INBOX))
BROADCAST = Subscription(source=Source("t", SourceKind.BROADCAST))


def ignore(leases: object) -> None:
    """Nobody minds what is lost."""


def writer_of(engine: EmbeddedEngine) -> Writer:
    assert engine._core is not None
    return engine._core.writer


def fail_once(monkeypatch: pytest.MonkeyPatch, when: Callable[[Work], bool], error: Exception) -> None:
    """The first transaction of this kind does all its work, and is rolled back then."""
    run = Store.run
    left = [error]

    def failing(store: Store, work: Work) -> Done:
        done = run(store, work)
        if left and when(work):
            raise left.pop()
        return done

    monkeypatch.setattr(Store, "run", failing)


# -- after the commit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_what_fails_after_the_commit_neither_denies_nor_repeats_it(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await engine.consume(INBOX, ignore)
        commit = Inbox.commit
        left = [1]

        def failing(inbox: Inbox) -> None:
            if left:
                left.pop()
                raise RuntimeError("after the commit")
            commit(inbox)

        monkeypatch.setattr(Inbox, "commit", failing)
        ids = [f"m{index}" for index in range(number)]
        outcomes = await asyncio.gather(*(publish(engine, outgoing(id)) for id in ids))
        assert outcomes == [[Stored.YES]] * number
        assert [one.id for one in (await engine.admin.browse("q", None, 100)).messages] == ids

    use("memory://", test)


def test_decisions_are_carried_out_once_though_something_fails_after_their_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await publish(engine, outgoing("a"))
        consumer = await engine.consume(SUBSCRIPTION, ignore)
        (fetched,) = await consumer.fetch(1, 2)
        commit = Store.commit

        def failing(store: Store, work: Work) -> None:
            commit(store, work)
            if work.settles:
                raise RuntimeError("after the commit")

        monkeypatch.setattr(Store, "commit", failing)
        accept = Settlement(fetched.lease, Decision.ACCEPT, emit=[outgoing("e")])
        assert await consumer.settle([accept]) == [Settled.DONE]
        assert [one.id for one in (await engine.admin.browse("q", None, 100)).messages] == ["a", "e"]

    use("memory://", test)


def test_an_inbox_that_comes_during_a_commit_does_not_disturb_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await engine.consume(INBOX, ignore)
        entered, leave = threading.Event(), threading.Event()
        commit = Inbox.commit

        def slow(inbox: Inbox) -> None:
            entered.set()
            leave.wait(2)
            commit(inbox)

        monkeypatch.setattr(Inbox, "commit", slow)
        task = asyncio.ensure_future(publish(engine, outgoing("a")))
        await asyncio.to_thread(entered.wait, 2)
        await engine.consume(INBOX, ignore)
        leave.set()
        assert await task == [Stored.YES]
        assert engine.problems() == []

    use("memory://", test)


# -- tried again --------------------------------------------------------------------------------------------------


async def bury(engine: EmbeddedEngine, number: int) -> None:
    """Makes dead letters."""
    await publish(engine, *(outgoing(f"d{index}") for index in range(number)))
    consumer = await engine.consume(SUBSCRIPTION, ignore)
    fetched = await consumer.fetch(number, 2)
    await consumer.settle(
        [Settlement(one.lease, Decision.DEAD, reason="rejected", text="no", cause="E|p") for one in fetched]
    )
    await consumer.close()


def letters_of(engine: EmbeddedEngine) -> DeadLetters:
    async def open() -> Any:
        return engine.admin, [SUBSCRIPTION.source], store_of(engine).clock.now()

    return DeadLetters(open)


def test_dead_letters_are_counted_once_though_the_transaction_was_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await bury(engine, 5)
        fail_once(monkeypatch, lambda work: bool(work.calls), apsw.FullError("no room"))
        assert await letters_of(engine).count() == 5
        assert await letters_of(engine).count() == 5

    use("memory://", test)


def test_a_discard_with_a_limit_discards_though_the_transaction_was_tried_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await bury(engine, 5)
        fail_once(monkeypatch, lambda work: bool(work.calls), apsw.FullError("no room"))
        assert await letters_of(engine).discard(limit=3) == 3
        assert await count(engine, "dead") == 2

    use("memory://", test)


def test_an_error_of_the_first_try_is_not_that_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        errors = [ValueError("only the first time")]

        def work(db: apsw.Connection) -> str:
            if errors:
                raise errors.pop()
            return "done"

        fail_once(monkeypatch, lambda work: bool(work.calls), apsw.FullError("no room"))
        assert await within(engine, work) == "done"

    use("memory://", test)


@pytest.mark.parametrize("subscription", [SUBSCRIPTION, BROADCAST], ids=["queue", "broadcast"])
def test_a_consumer_begins_once_though_the_transaction_was_tried_twice(
    monkeypatch: pytest.MonkeyPatch, subscription: Subscription
) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        fail_once(monkeypatch, lambda work: bool(work.calls), apsw.FullError("no room"))
        consumer = await engine.consume(subscription, ignore)
        store = store_of(engine)
        assert len(store.holders) + len(store.listeners) == 1
        await publish(engine, outgoing("a", TOPIC if subscription is BROADCAST else QUEUE, key="k"))
        assert [one.message.id for one in await consumer.fetch(10, 2)] == ["a"]
        assert await consumer.fetch(10, 0.1) == []

    use("memory://", test)


# -- cancelled ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subscription", [LANE, BROADCAST], ids=["group", "broadcast"])
@pytest.mark.parametrize("began", [False, True])
def test_a_consume_that_is_cancelled_leaves_nothing_behind(subscription: Subscription, began: bool) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        entered, leave = threading.Event(), threading.Event()

        def busy(db: apsw.Connection) -> None:
            entered.set()
            leave.wait(2)

        before = asyncio.ensure_future(within(engine, busy))
        await asyncio.to_thread(entered.wait, 2)
        consuming = asyncio.ensure_future(engine.consume(subscription, ignore))
        await asyncio.sleep(0)
        if began:
            leave.set()
            time.sleep(0.1)  # noqa: ASYNC251 - the transaction is over then, and its answer has not come yet.
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        leave.set()
        await before
        await within(engine, lambda db: None)
        store = store_of(engine)
        await until(lambda: not store.holders and not store.listeners)
        assert not writer_of(engine).sinks
        assert await count(engine, "consumer") == 0

    use("memory://", test)


async def until(true: Callable[[], bool]) -> None:
    """Waits, for two seconds at most."""
    for _ in range(200):
        if true():
            return
        await asyncio.sleep(0.01)
    assert true()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("no")])
def test_a_close_that_is_cancelled_or_fails_still_ends_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def failing(consumer: EmbeddedConsumer) -> None:
        raise error

    async def test(engine: EmbeddedEngine) -> None:
        await engine.consume(SUBSCRIPTION, ignore)
        writer = writer_of(engine)
        monkeypatch.setattr(EmbeddedConsumer, "close", failing)
        with pytest.raises(type(error)):
            await engine.close(time.monotonic() + 5)
        await asyncio.to_thread(writer._thread.join, 5)
        assert not writer._thread.is_alive()

    use(str(tmp_path / "telex.db"), test)


def test_a_close_looks_at_what_the_thread_takes_meanwhile() -> None:
    class Taken:
        """A job that the thread takes in the moment in which it is looked at."""

        @property
        def work(self) -> None:
            queue.popleft()

    async def test(engine: EmbeddedEngine) -> None:
        nonlocal queue
        entered, leave = threading.Event(), threading.Event()

        def busy(db: apsw.Connection) -> None:
            entered.set()
            leave.wait(2)

        writer = writer_of(engine)
        waiting = asyncio.ensure_future(within(engine, busy))
        await asyncio.to_thread(entered.wait, 2)
        queue = cast(deque[Any], writer._queue)
        queue.extend([Taken(), Taken()])
        asyncio.get_running_loop().call_later(0.05, leave.set)
        await writer.close(5)
        await waiting

    queue: deque[Any] = deque()
    use("memory://", test)


# -- the thread ---------------------------------------------------------------------------------------------------


class Broken(logging.Handler):
    """A handler of the application that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the log's server is away")


def test_a_handler_of_the_log_that_raises_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        fail_once(monkeypatch, lambda work: bool(work.publishes), apsw.IOError("disk I/O error"))
        assert await publish(engine, outgoing("a")) == [Stored.NO]
        assert any("disk I/O error" in problem for problem in engine.problems())
        assert await publish(engine, outgoing("b")) == [Stored.YES]  # Recovering is a line as well.
        assert engine.problems() == []

    handler = Broken()
    logging.getLogger("telex.embedded").addHandler(handler)
    try:
        use("memory://", test)
    finally:
        logging.getLogger("telex.embedded").removeHandler(handler)


def test_a_cycle_that_fails_where_none_should_answers_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await publish(engine, outgoing("a"))
        consumer = await engine.consume(SUBSCRIPTION, ignore)
        (fetched,) = await consumer.fetch(1, 2)
        transact = Committer.transact

        def failing(committer: Committer, work: Work) -> Done:
            if work.publishes or work.settles or work.calls:
                raise RuntimeError("nobody thought of this")
            return transact(committer, work)

        monkeypatch.setattr(Committer, "transact", failing)
        async with asyncio.timeout(3):
            stored, answers, error = await asyncio.gather(
                publish(engine, outgoing("b")),
                consumer.settle([Settlement(fetched.lease, Decision.ACCEPT)]),
                within(engine, lambda db: None),
                return_exceptions=True,
            )
        assert (stored, answers) == ([Stored.UNCERTAIN], [Settled.FAILED])
        assert isinstance(error, Disconnected)
        monkeypatch.setattr(Committer, "transact", transact)
        assert await publish(engine, outgoing("c")) == [Stored.YES]

    use("memory://", test)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class End(BaseException):
        """What ends a thread whatever it does about exceptions."""

    async def test(engine: EmbeddedEngine) -> None:
        writer = writer_of(engine)

        def ending(committer: Committer, work: Work) -> Done:
            queued.set()
            proceed.wait(2)
            raise End

        queued, proceed = threading.Event(), threading.Event()
        monkeypatch.setattr(Committer, "transact", ending)
        taken = asyncio.ensure_future(within(engine, lambda db: None))
        await asyncio.to_thread(queued.wait, 2)
        waiting = asyncio.ensure_future(within(engine, lambda db: None))
        await asyncio.sleep(0)
        proceed.set()
        async with asyncio.timeout(3):
            for job in (taken, waiting):
                with pytest.raises((Closed, Disconnected)):
                    await job
        await asyncio.to_thread(writer._thread.join, 5)
        assert engine.problems()
        with pytest.raises(Closed):
            await within(engine, lambda db: None)

    use("memory://", test)


def test_what_is_asked_in_the_very_moment_of_the_end_is_answered() -> None:
    async def test(engine: EmbeddedEngine) -> None:
        writer = writer_of(engine)
        await writer.close(5)
        writer._closing = False  # As who asks saw it, just before.
        with pytest.raises(Closed):
            async with asyncio.timeout(2):
                await within(engine, lambda db: None)

    use("memory://", test)


def test_who_lost_something_on_a_closed_loop_does_not_disturb_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async def test(engine: EmbeddedEngine) -> None:
        await publish(engine, outgoing("a"))
        consumer = await engine.consume(SUBSCRIPTION, _raise)
        assert len(await consumer.fetch(1, 2)) == 1
        await within(engine, lambda db: db.execute("DELETE FROM member"))  # Taken for dead.
        assert await publish(engine, outgoing("b")) == [Stored.YES]
        await within(engine, lambda db: None)
        assert "the store failed" not in caplog.text

    use("memory://", test)


def _raise(leases: object) -> None:
    raise RuntimeError("Event loop is closed")
