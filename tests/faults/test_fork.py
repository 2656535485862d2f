"""A process forks while it has a store open: the child is refused, the parent goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from telex import Queue, Telex
from telex.errors import Closed, TelexError

JOBS = Queue("jobs", dict[str, Any])


def _child(app: Telex, report: int) -> None:
    """Uses what the parent opened, then opens it anew; writes how it went, and ends without cleaning up."""

    async def use() -> None:
        async with app:
            await asyncio.wait_for(app.send(JOBS, {"no": 20}), 5)

    async def misuse() -> None:
        await asyncio.wait_for(app.send(JOBS, {"no": 99}), 5)

    try:
        asyncio.run(misuse())
        text = "published"
    except TelexError as error:
        text = f"{type(error).__name__}: {error}"
    except BaseException as error:
        text = f"other {type(error).__name__}: {error}"
    try:
        asyncio.run(use())
    except BaseException as error:
        text = f"cannot open it anew: {error!r}"
    os.write(report, text.encode())
    os._exit(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_is_refused_and_disturbs_nobody(tmp_path: Path) -> None:
    handled: list[int] = []
    texts: list[str] = []
    app = Telex(str(tmp_path / "telex.db"), name="fork")

    @app.receive(JOBS)
    async def handle(body: dict[str, Any]) -> None:
        handled.append(body["no"])

    async def main() -> None:
        async with app.running():
            for no in range(20):
                await app.send(JOBS, {"no": no})
                if no == 10:
                    texts.append(_fork(app))
            while len(handled) < 21:
                await asyncio.sleep(0.01)

    async def bounded() -> None:
        await asyncio.wait_for(main(), 30)

    asyncio.run(bounded())
    assert sorted(handled) == list(range(21))
    assert texts[0].startswith("Closed: "), texts
    assert "fork" in texts[0]


def test_another_loop_is_refused(tmp_path: Path) -> None:
    """A thread of its own, with a loop of its own: what it asks for would be answered where it does not wait."""
    app = Telex(str(tmp_path / "telex.db"), name="fork")

    async def misuse() -> None:
        await app.send(JOBS, {"no": 1})

    async def main() -> None:
        async with app:
            with pytest.raises(Closed, match="another event loop"):
                await asyncio.to_thread(asyncio.run, misuse())

    asyncio.run(main())


def test_a_process_killed_after_forking_is_seen_dead_although_its_child_lives(tmp_path: Path) -> None:
    """Locks belong to the open file, which a child shares: it must not keep its parent alive in others' eyes."""
    store = str(tmp_path / "telex.db")
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        _hold_and_fork(store, write)
    try:
        grandchild = int(os.read(read, 20))
        handled: list[int] = []
        try:
            asyncio.run(_take_over(store, parent, handled))
        finally:
            os.kill(grandchild, signal.SIGKILL)
        assert handled == [1]
    finally:
        os.close(read)
        os.close(write)


def _hold_and_fork(store: str, write: int) -> None:
    app = Telex(store, name="fork")

    @app.receive(JOBS)
    async def handle(body: dict[str, Any]) -> None:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.write(write, str(child).encode())
        await asyncio.sleep(60)

    async def main() -> None:
        async with app.running():
            await app.send(JOBS, {"no": 1})
            await asyncio.sleep(60)

    asyncio.run(main())
    os._exit(0)


async def _take_over(store: str, parent: int, handled: list[int]) -> None:
    app = Telex(store, name="fork")

    @app.receive(JOBS)
    async def handle(body: dict[str, Any]) -> None:
        handled.append(body["no"])

    async with asyncio.timeout(5):  # Half a lease: it is seen dead, and not only late.
        async with app.running():
            os.kill(parent, signal.SIGKILL)
            os.waitpid(parent, 0)
            while not handled:
                await asyncio.sleep(0.02)


def _fork(app: Telex) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        asyncio.events._set_running_loop(None)  # A new process, with a loop of its own.
        _child(app, write)
    os.close(write)
    text = os.read(read, 1000).decode()
    os.close(read)
    os.waitpid(child, 0)
    return text
