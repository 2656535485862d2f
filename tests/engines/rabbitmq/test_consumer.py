"""What the application's loop sees of an ordered source, whichever loop is quicker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from telex.engine import Decision, Fetched, Settled, Settlement
from telex.engines.buffer import Buffer
from telex.engines.rabbitmq.codec import NONE
from telex.engines.rabbitmq.consumer import Delivering, LaneConsumer
from telex.engines.rabbitmq.intake import Intake
from telex.engines.rabbitmq.leases import Lease
from telex.engines.sideloop import SideLoop
from telex.message import Message

T = TypeVar("T")
Written = Callable[[Sequence[str]], None]


class Here:
    """The engine's loop is the application's."""

    async def run(self, work: Awaitable[T]) -> T:
        return await work

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        asyncio.get_running_loop().call_soon(function, *arguments)


class Lanes:
    """An ordered source that gives what comes next before it answers."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, Decision]] = []
        self.asked: list[int] = []
        self.give: Callable[[], None] = lambda: None
        self.stored = True

    def ask(self, most: int) -> None:
        self.asked.append(most)

    async def carry_out(self, batch: Sequence[Settlement], written: Written = lambda keys: None) -> Sequence[Settled]:
        self.settled += [(cast(Lease, one.lease).message.id, one.decision) for one in batch]
        if any(one.decision is Decision.RETRY for one in batch):
            if self.stored:
                written(["k"])
            self.give()
            await asyncio.sleep(0.05)
        return [Settled.DONE] * len(batch)

    async def stop(self) -> None: ...

    async def close(self) -> None: ...


def delivery(id: str, key: str = "k") -> Fetched:
    message = Message(id=id, channel="orders", body=b"", time=datetime.now(UTC), key=key)
    return Fetched(message, Lease(cast(Intake, None), 1, message, NONE, 0, 0.0))


def consuming() -> tuple[LaneConsumer, Lanes]:
    lanes = Lanes()
    buffer = Buffer()
    consumer = LaneConsumer(cast(SideLoop, Here()), buffer, lanes, lanes.carry_out, lambda consumer: None)
    consumer.begin(lanes, Delivering(buffer, lambda leases: None))
    return consumer, lanes


def retry(fetched: Fetched) -> Settlement:
    return Settlement(fetched.lease, Decision.RETRY, at=datetime.now(UTC))


def ids(fetched: Sequence[Fetched]) -> list[str]:
    return [one.message.id for one in fetched]


def run(test: Callable[[LaneConsumer, Lanes], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await test(*consuming())

    asyncio.run(main())


def test_what_comes_after_a_stored_retry_is_fetched_though_the_answer_is_still_on_its_way() -> None:
    async def test(consumer: LaneConsumer, lanes: Lanes) -> None:
        loop = asyncio.get_running_loop()
        lanes.give = lambda: cast(Any, loop.call_soon_threadsafe(consumer.arrived, [delivery("m1"), delivery("m2")]))
        settling = asyncio.ensure_future(consumer.settle([retry(delivery("m1"))]))
        assert ids(await consumer.fetch(10, 2)) == ["m1", "m2"]
        assert not settling.done()
        assert await settling == [Settled.DONE]
        assert lanes.settled == [("m1", Decision.RETRY)]

    run(test)


def test_what_came_before_the_retry_is_stored_goes_back_and_who_waits_asks_again() -> None:
    async def test(consumer: LaneConsumer, lanes: Lanes) -> None:
        lanes.stored = False
        loop = asyncio.get_running_loop()
        lanes.give = lambda: cast(Any, loop.call_soon_threadsafe(consumer.arrived, [delivery("m2")]))
        fetching = asyncio.ensure_future(consumer.fetch(10, 2))
        settling = asyncio.ensure_future(consumer.settle([retry(delivery("m1"))]))
        await settling
        await asyncio.sleep(0.01)
        assert lanes.settled == [("m1", Decision.RETRY), ("m2", Decision.RELEASE)]
        assert lanes.asked == [10, 10]
        consumer.arrived([delivery("m3")])
        assert ids(await fetching) == ["m3"]

    run(test)
