"""What is sent: a JSON object of about 200 bytes, as the figures say."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def body(number: int) -> dict[str, Any]:
    """A body; 200 bytes as JSON, give or take the digits of its number."""
    return {
        "order": number,
        "customer": "c-4711-0815",
        "sku": "BK-2013-JFK-0042",
        "quantity": 3,
        "price": 1299.5,
        "currency": "EUR",
        "address": "17 Rue de la Paix, 75002 Paris, France",
        "note": "please ring twice, thanks",
        "paid": True,
    }


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a program on uvloop where it is installed, else on asyncio's own loop."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
