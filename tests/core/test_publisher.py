"""Publishing: each message has an outcome of its own, and what middleware makes of it is checked like any other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from telex import InvalidMessage, Message, MessageTooLarge, PublishFailed, PublishUncertain, Queue
from telex.engine import Outgoing, Stored
from telex.publisher import APART

from .kit import make, run, until

jobs: Queue[Any] = Queue("jobs")
raw = Queue("raw", bytes)
Next = Callable[[Message], Awaitable[None]]


@pytest.mark.parametrize(
    ("stored", "cause"),
    [(Stored.NO, PublishFailed("the disk is full")), (Stored.UNCERTAIN, PublishUncertain("the disk is slow"))],
    ids=["failed", "uncertain"],
)
def test_each_message_of_a_batch_gets_an_error_with_its_own_id(
    stored: Stored, cause: PublishFailed | PublishUncertain
) -> None:
    """Engines answer a whole batch with one exception; callers publish again by the id that theirs carries."""
    app, engine = make()

    async def main() -> list[Any]:
        async with app:
            await app.send(jobs, 0)
            engine.outcome = lambda outgoing: (stored, cause)
            ids = [f"m{number}" for number in range(5)]
            errors = await asyncio.gather(*(app.send(jobs, 0, id=id) for id in ids), return_exceptions=True)
            assert engine.batches[-1] == 5
            return list(zip(ids, errors, strict=True))

    for id, error in run(main()):
        assert type(error) is type(cause)
        assert error.id == id
        assert str(cause) in str(error)


def test_what_may_be_stored_is_looked_for_when_it_is_published_again() -> None:
    app, engine = make()
    seen: list[Outgoing] = []
    answer = Stored.UNCERTAIN

    def outcome(outgoing: Outgoing) -> tuple[Stored, Exception | None]:
        seen.append(outgoing)
        return (answer, None) if outgoing.message.id.startswith("doubtful") else (Stored.YES, None)

    async def main() -> None:
        nonlocal answer
        async with app:
            await app.send(jobs, 0)
            engine.outcome = outcome
            await app.send(jobs, 0, id="sure")
            with pytest.raises(PublishUncertain):
                await app.send(jobs, 0, id="doubtful-1")
            with pytest.raises(PublishUncertain):
                await app.send_many(jobs, ["doubtful-2"], id=str)
            answer = Stored.YES
            await app.send(jobs, 0, id="sure")
            await app.send(jobs, 0, id="doubtful-1")
            await app.send_many(jobs, ["doubtful-2", "other"], id=str)

    run(main())
    told = [(outgoing.message.id, outgoing.maybe_stored) for outgoing in seen]
    assert told[:3] == [("sure", False), ("doubtful-1", False), ("doubtful-2", False)]
    assert told[3:] == [("sure", False), ("doubtful-1", True), ("doubtful-2", True), ("other", False)]
    # Engines look from the first time on, and must find what that wrote.
    assert seen[4].message.time == seen[1].message.time
    assert seen[5].message.time == seen[2].message.time


def test_publishing_that_breaks_leaves_a_doubt_as_well() -> None:
    app, engine = make()
    seen: list[Outgoing] = []

    def breaks(outgoing: Outgoing) -> tuple[Stored, Exception | None]:
        raise OSError("the connection was reset")

    def keeps(outgoing: Outgoing) -> tuple[Stored, Exception | None]:
        seen.append(outgoing)
        return Stored.YES, None

    async def main() -> None:
        async with app:
            await app.send(jobs, 0)
            engine.outcome = breaks
            with pytest.raises(PublishUncertain, match="reset"):
                await app.send(jobs, 0, id="mine")
            engine.outcome = keeps
            await app.send(jobs, 0, id="mine")

    run(main())
    assert [outgoing.maybe_stored for outgoing in seen] == [True]


CHANGES: list[tuple[Callable[[Message], Any], type[Exception], str]] = [
    (lambda m: m.replace(headers={"file": os.fsdecode(b"\xff")}), InvalidMessage, "header"),
    (lambda m: m.replace(headers={"n": 5}), InvalidMessage, "header n=5"),  # type: ignore[dict-item]
    (lambda m: m.replace(headers={"telex-lane": "1"}), InvalidMessage, "reserved"),
    (lambda m: replace(m, key=""), InvalidMessage, "key ''"),
    (lambda m: replace(m, key="\ud800"), InvalidMessage, "key"),
    (lambda m: replace(m, body="text"), InvalidMessage, "must be bytes"),
    (lambda m: m.replace(body=b"x" * 20_000), MessageTooLarge, "10000"),
    (lambda m: None, InvalidMessage, "handed on NoneType"),
]
"""What is wrong, and what its error says; the loopback engine takes bodies of 10,000 bytes."""


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize(("change", "kind", "says"), CHANGES, ids=[says for _, _, says in CHANGES])
def test_what_publish_middleware_makes_is_checked(
    change: Callable[[Message], Any], kind: type[Exception], says: str, many: bool
) -> None:
    async def middleware(message: Message, call_next: Next) -> None:
        await call_next(change(message) if message.body == b"bad" else message)

    app, engine = make(publish_middleware=[middleware])

    async def main() -> None:
        async with app:
            others = [asyncio.ensure_future(app.send(raw, b"good")) for _ in range(5)]
            bad = app.send_many(raw, [b"bad"]) if many else app.send(raw, b"bad")
            with pytest.raises(kind) as caught:
                await bad
            assert type(caught.value) is kind
            assert says in str(caught.value)
            await asyncio.gather(*others)

    run(main())
    assert [lease.message.body for lease in engine.queues["raw"]] == [b"good"] * 5


def test_of_many_only_what_middleware_let_through_is_stored() -> None:
    async def middleware(message: Message, call_next: Next) -> None:
        await call_next(message.replace(body=message.body.upper(), headers={"n": 5} if message.body == b"c" else {}))  # type: ignore[dict-item]  # the mistake under test

    app, engine = make(publish_middleware=[middleware])

    async def main() -> None:
        async with app:
            with pytest.raises(InvalidMessage) as caught:
                await app.send_many(raw, [b"a", b"b", b"c", b"d"])
            assert caught.value.stored == 2

    run(main())
    assert [lease.message.body for lease in engine.queues["raw"]] == [b"A", b"B"]


def test_what_publish_middleware_may_change_is_published() -> None:
    async def middleware(message: Message, call_next: Next) -> None:
        await call_next(replace(message, headers={"tenant": "a"}, key="k", body=b"changed"))

    app, engine = make(publish_middleware=[middleware])

    async def main() -> None:
        async with app:
            await app.send(raw, b"1")
            await app.send_many(raw, [b"2"])

    run(main())
    for lease in engine.queues["raw"]:
        assert (lease.message.headers, lease.message.key, lease.message.body) == ({"tenant": "a"}, "k", b"changed")


def test_what_publish_middleware_keeps_back_is_not_stored() -> None:
    async def middleware(message: Message, call_next: Next) -> None:
        if message.body != b"b":
            await call_next(message)

    app, engine = make(publish_middleware=[middleware])

    async def main() -> None:
        async with app:
            await app.send(raw, b"b")
            assert await app.send_many(raw, [b"a", b"b", b"c"]) == 2

    run(main())
    assert [lease.message.body for lease in engine.queues["raw"]] == [b"a", b"c"]


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_batch_that_is_alone_under_way_is_halved_where_that_is_quicker(pipelined: bool) -> None:
    """Halves take turns then: who awaits each message would otherwise publish all at once, and all would wait again."""
    app, engine = make(pipelined=pipelined)
    stored: list[str] = []

    def outcome(outgoing: Outgoing) -> tuple[Stored, Exception | None]:
        stored.append(outgoing.message.id)
        return Stored.YES, None

    async def main() -> None:
        async with app:
            await app.send(jobs, 0)
            engine.outcome = outcome
            engine.batches.clear()
            few = [f"few{number}" for number in range(APART - 1)]
            many = [f"many{number}" for number in range(100)]
            await asyncio.gather(*(app.send(jobs, 0, id=id) for id in few))
            first = [asyncio.ensure_future(app.send(jobs, 0, id=id)) for id in many]
            await asyncio.gather(*first)
            assert engine.batches == ([APART - 1, 50, 50] if pipelined else [APART - 1, 100])
            assert stored == few + many, "in the order of publishing"

    run(main())


def test_a_batch_beside_another_is_not_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make(pipelined=True)
    go_on = asyncio.Event()
    real = engine.publish

    async def slow(*arguments: Any) -> Any:
        engine.batches.append(len(arguments[0]))
        await go_on.wait()
        return [(Stored.YES, None) for _ in arguments[0]]

    async def main() -> None:
        async with app:
            await app.send(jobs, 0)
            engine.batches.clear()
            monkeypatch.setattr(engine, "publish", slow)
            under_way = [asyncio.ensure_future(app.send(jobs, 0))]
            await until(lambda: engine.batches == [1])
            under_way += [asyncio.ensure_future(app.send(jobs, 0)) for _ in range(100)]
            await until(lambda: engine.batches == [1, 100])
            go_on.set()
            await asyncio.gather(*under_way)
            monkeypatch.setattr(engine, "publish", real)

    run(main())
