"""On a real broker: strangers on both ends, and errors that hurt one publish or one source alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import pytest

from telex import (
    AccessDenied,
    ConfigError,
    Delivery,
    InvalidMessage,
    PublishFailed,
    Queue,
    Reject,
    Telex,
    Topic,
    UnknownChannel,
)
from telex.engines import RabbitMQ

from ...brokers.rabbitmq import shared

WORK = Queue("work", Any)
MADE = Topic("events.made", Any)


def run(test: Callable[[str], Awaitable[None]]) -> None:
    async def limited(url: str) -> None:
        async with asyncio.timeout(40):
            await test(url)

    with shared().place() as url:
        asyncio.run(limited(url))


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 (what is waited for has no event)
        await asyncio.sleep(0.01)


def test_any_client_writes_to_us_and_reads_us() -> None:
    async def test(url: str) -> None:
        app, seen = Telex(url, name="shop"), list[tuple[str, Any, dict[str, str]]]()

        @app.receive(WORK)
        async def work(body: Any, delivery: Delivery) -> None:
            seen.append((delivery.source, body, dict(delivery.message.headers)))
            if delivery.attempt == 1:
                raise OSError("once")

        @app.subscribe(MADE)
        async def made(body: Any, delivery: Delivery) -> None:
            seen.append((delivery.source, body, dict(delivery.message.headers)))

        async with app.running(), await aio_pika.connect(url) as stranger:
            channel = await stranger.channel()
            foreign = aio_pika.Message(b'{"n":1}', headers={"x-request-id": "r1", "count": 7})
            await channel.default_exchange.publish(foreign, "work")
            exchange = await channel.get_exchange("telex")
            await exchange.publish(aio_pika.Message(b"2"), "events.made")
            await until(lambda: len(seen) == 3)
            listening = await channel.declare_queue(exclusive=True)
            await listening.bind(exchange, "events.#")
            await app.publish(MADE, {"n": 3}, key="k", headers={"trace": "t1"}, id="m-3")
            read = await listening.get(timeout=5)
            assert read is not None
            assert (read.body, read.message_id, read.content_type) == (b'{"n":3}', "m-3", "application/json")
            assert {name: read.headers[name] for name in ("trace", "telex-key")} == {"trace": "t1", "telex-key": "k"}
            await until(lambda: len(seen) == 4)
        headers = {"x-request-id": "r1", "count": "7"}
        assert seen[:3].count(("work", {"n": 1}, headers)) == 2, "a retry's copy keeps foreign headers"
        assert ("events.made/shop", 2, {}) in seen

    run(test)


def test_a_queue_that_is_gone_fails_its_own_sends_alone() -> None:
    async def test(url: str) -> None:
        app = Telex(url, name="shop")
        async with app, await aio_pika.connect(url) as stranger:
            other = Queue("other", int)
            await app.send(WORK, 1)
            await app.send(other, 1)
            channel = await stranger.channel()
            await channel.queue_delete("work")
            answers = await asyncio.gather(
                *(app.send(WORK if n % 2 else other, n) for n in range(20)), return_exceptions=True
            )
        assert [type(answer) for answer in answers[1::2]] == [UnknownChannel] * 10
        assert all(isinstance(answer, str) for answer in answers[::2])

    run(test)


def test_an_exchange_that_is_gone_closes_the_channel_and_hurts_no_other_publish() -> None:
    async def test(url: str) -> None:
        app = Telex(url, name="shop", publish_timeout=10)
        async with app, await aio_pika.connect(url) as stranger:
            await app.publish(MADE, 0)
            await app.send(WORK, 0)
            channel = await stranger.channel()
            await channel.exchange_delete("telex")
            answers = await asyncio.gather(
                *(app.publish(MADE, n) if n % 10 == 5 else app.send(WORK, n) for n in range(60)),
                return_exceptions=True,
            )
            (stats,) = (await app.stats()).sources
        failed = [n for n, answer in enumerate(answers) if isinstance(answer, PublishFailed)]
        assert failed == [5, 15, 25, 35, 45, 55], answers
        assert (stats.ready or 0) >= 1 + 54

    run(test)


def test_headers_that_do_not_fit_are_refused_and_disturb_nobody() -> None:
    async def test(url: str) -> None:
        async with Telex(url, name="shop") as app:
            large = {f"h{number}": "x" * 4096 for number in range(32)}
            sends = [app.send(WORK, 1), app.send(WORK, 2, headers=large), app.send(WORK, 3)]
            answers = await asyncio.gather(*sends, return_exceptions=True)
            assert [type(answer) for answer in answers] == [str, InvalidMessage, str]

    run(test)


def test_a_user_who_may_not_write_is_told_so() -> None:
    with shared().vhost() as vhost:
        url = shared().url(vhost)
        reader = shared().user("reader", "pw", vhost, read=".*")

        async def test() -> None:
            async with Telex(url, name="shop") as owner:
                await owner.send(WORK, 1)
            async with Telex(reader, name="shop", topology="verify", publish_timeout=5) as app:
                with pytest.raises(PublishFailed) as caught:
                    await app.send(WORK, 2)
                assert isinstance(caught.value.__cause__, AccessDenied), caught.value

        asyncio.run(test())


def test_a_queue_made_by_others_is_refused_and_left_alone() -> None:
    async def test(url: str) -> None:
        async with await aio_pika.connect(url) as stranger:
            channel = await stranger.channel()
            await channel.declare_queue("work", durable=True)  # Classic, and not ours.
            async with Telex(url, name="shop") as app:
                with pytest.raises(ExceptionGroup) as caught:
                    await app.send(WORK, 1)
            (error,) = caught.value.exceptions
            assert isinstance(error, ConfigError)
            assert "differs" in str(error)
            assert "prefix" in str(error)
            async with Telex(url, name="shop", engines=[RabbitMQ(prefix="mine.")]) as app:
                await app.send(WORK, 1)
            queue = await channel.declare_queue("mine.work", passive=True)
            assert queue.declaration_result.message_count == 1

    run(test)


def test_dead_letters_that_the_broker_wrote_are_shown() -> None:
    """For example of a message that was rejected by another program's consumer."""

    async def test(url: str) -> None:
        app = Telex(url, name="shop")

        @app.receive(WORK)
        async def work(body: Any) -> None:
            raise Reject("no")

        async with app, await aio_pika.connect(url) as stranger:
            await app.send(WORK, {"n": 1}, id="m-1")
            channel = await stranger.channel()
            queue = await channel.get_queue("work")
            message = await queue.get(timeout=5)
            assert message is not None
            await message.reject(requeue=False)
            letters = app.dead_letters(WORK)
            while not await letters.count():  # noqa: ASYNC110 (the broker moves it by itself)
                await asyncio.sleep(0.05)
            (letter,) = [letter async for letter in letters]
            assert (letter.message.id, letter.message.body) == ("m-1", b'{"n":1}')
            assert "broker" in letter.text

    run(test)
