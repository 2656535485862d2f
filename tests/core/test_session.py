"""What an open application remembers of channels, and that closing it closes the engine whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from telex import Delivery, Discard, Queue, Telex, Topic, UnknownChannel

from .kit import make, run, until
from .loopback import Loopback

jobs = Queue("jobs", str)
news = Topic("news", str)


def emitting() -> tuple[Telex, Loopback]:
    """An application whose handler emits to a topic nobody has declared, and fails if it is told to."""
    app, engine = make()
    handling(app)
    return app, engine


def handling(app: Telex) -> None:
    @app.receive(jobs)
    async def work(job: str, delivery: Delivery) -> None:
        delivery.publish(news, job)
        if job == "fail":
            raise Discard("it was told to")


def test_a_handler_that_failed_to_emit_does_not_make_a_channel_declared() -> None:
    app, engine = emitting()

    async def main() -> None:
        async with app.running():
            await app.send(jobs, "fail")
            await until(lambda: engine.settlements)
            assert "news" not in engine.channels
            await app.publish(news, "direct")
            assert "news" in engine.channels

    run(main())


def test_verify_refuses_a_publish_also_after_a_handler_named_the_channel() -> None:
    declaring, engine = emitting()
    app = Telex("loopback://", name="test", engines=[engine], topology="verify", grace=0.5)
    handling(app)

    async def main() -> None:
        async with declaring:
            pass
        async with app.running():
            await app.send(jobs, "fail")
            await until(lambda: engine.settlements)
            with pytest.raises(UnknownChannel):
                await app.publish(news, "direct")

    run(main())


@pytest.mark.parametrize("first", ["handler", "publisher"])
def test_a_channel_is_declared_once_whoever_uses_it_first(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = emitting()
    planned: list[str] = []

    async def main() -> None:
        async with app.running():
            real = engine.plan

            async def plan(channels: Any, subscriptions: Any) -> Any:
                planned.extend(channel.name for channel in channels)
                return await real(channels, subscriptions)

            monkeypatch.setattr(engine, "plan", plan)
            if first == "publisher":
                await app.send(jobs, "fail")
                await until(lambda: engine.settlements)
                await app.publish(news, "direct")
            for number in (1, 2):
                engine.settlements.clear()
                await app.send(jobs, str(number))
                await until(lambda: engine.settlements)
            await app.publish(news, "direct")
            assert planned == ["news"]

    run(main())


@pytest.mark.parametrize("part", ["requests", "publisher"])
def test_closing_closes_the_engine_whatever_fails_before(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()
    closed: list[str] = []

    async def main() -> None:
        await app.__aenter__()
        session = app._open()

        async def broken() -> None:
            raise OSError("it broke")

        async def close(deadline: float) -> None:
            closed.append("engine")

        monkeypatch.setattr(getattr(session, part), "close", broken)
        monkeypatch.setattr(engine, "close", close)
        with pytest.raises(OSError, match="it broke"):
            await app.__aexit__()
        assert closed == ["engine"]

    run(main())


def test_closing_that_is_cancelled_closes_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make(publish_timeout=30)
    left: list[float] = []

    async def main() -> None:
        await app.__aenter__()
        store = asyncio.Event()
        real_publish = engine.publish

        async def publish(*arguments: Any) -> Any:
            await store.wait()
            return await real_publish(*arguments)

        async def close(deadline: float) -> None:
            assert engine.clock is not None
            left.append(deadline - engine.clock.monotonic())

        monkeypatch.setattr(engine, "close", close)
        await app.send(jobs, "first")
        monkeypatch.setattr(engine, "publish", publish)
        sending = asyncio.ensure_future(app.send(jobs, "second"))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await app.__aexit__()
        assert len(left) == 1
        assert left[0] <= 5
        store.set()
        await sending

    run(main())
