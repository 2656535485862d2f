"""A second process for the figures that need one: ``python -m bench.worker KIND DATABASE GROUP COUNT``.

Prints ``ready`` when its handlers run, and a line of JSON when it has handled ``COUNT`` messages; ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from telex import Telex

from .channels import echo, messages, sleepy, ticks
from .workload import run


def make(kind: str, database: str, group: str, count: int) -> Telex:
    """The application of this worker.

    Raises:
        KeyError: There is no such kind.
    """
    app = Telex(database, name="bench")
    {"count": _count, "reply": _reply, "wake": _wake}[kind](app, group, count)
    return app


def _count(app: Telex, group: str, count: int) -> None:
    handled = 0

    @app.subscribe(messages, group=group)
    async def handle(message: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            _say({"at": time.monotonic()})


def _reply(app: Telex, group: str, count: int) -> None:
    @app.reply(echo, concurrency=200)
    async def answer(message: dict[str, Any]) -> dict[str, Any]:
        return message

    @app.reply(sleepy)
    async def answer_late(message: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        return message


def _wake(app: Telex, group: str, count: int) -> None:
    late: list[float] = []

    @app.subscribe(ticks, group=group)
    async def tick(sent: float) -> None:
        late.append(time.monotonic() - sent)
        if len(late) == count:
            late.sort()
            _say({"p50": late[count // 2], "p99": late[-1 - count // 100]})


def _say(message: dict[str, float] | str) -> None:
    print(json.dumps(message), flush=True)


async def main(kind: str, database: str, group: str, count: int) -> None:
    """Runs the handlers until SIGTERM."""
    app = make(kind, database, group, count)
    async with app:
        working = asyncio.create_task(app.run())
        await asyncio.sleep(0.3)
        _say("ready")
        await working


if __name__ == "__main__":
    run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
