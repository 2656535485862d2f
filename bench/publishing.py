"""Publishing alone."""

from __future__ import annotations

from typing import Any

from telex import Telex

from .channels import messages
from .flow import publish
from .measure import Measured, Meter, Setting
from .workload import body, run


def many(setting: Setting) -> Measured:
    """``publish_many`` to a topic with one group."""
    return run(_many(setting.store, setting.count(200_000)))


def ten(setting: Setting) -> Measured:
    """Ten publishers, each awaiting its message."""
    return run(_ten(setting.store, setting.count(20_000)))


async def _many(store: str, count: int) -> Measured:
    bodies = [body(number) for number in range(count)]
    async with _with_group(store) as app:
        meter = Meter()
        await app.publish_many(messages, bodies)
        return meter.rate(count)


async def _ten(store: str, count: int) -> Measured:
    async with _with_group(store) as app:
        meter = Meter()
        await publish(app, count, 10)
        return meter.rate(count)


def _with_group(store: str) -> Telex:
    app = Telex(store, name="bench")

    @app.subscribe(messages, group="one")
    async def handle(message: dict[str, Any]) -> None: ...

    return app
