"""A process forks while it has a store open: the child is refused, the parent goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telex import ConfigError, Queue, Telex
from telex.errors import Closed, TelexError

JOBS = Queue("jobs", dict[str, Any])


def _child(app: Telex, report: int) -> None:
    """Tries to publish with what the parent opened; writes how it went, and ends without cleaning up."""

    async def use() -> None:
        await asyncio.wait_for(app.send(JOBS, {"no": 99}), 5)

    try:
        asyncio.run(use())
        text = "published"
    except TelexError as error:
        text = f"{type(error).__name__}: {error}"
    except BaseException as error:
        text = f"other {type(error).__name__}: {error}"
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
            while len(handled) < 20:  # as short as that
                await asyncio.sleep(0.01)

    async def bounded() -> None:
        await asyncio.wait_for(main(), 30)

    asyncio.run(bounded())
    assert handled == list(range(20))
    assert texts[0].startswith(("Closed", "ConfigError")), texts
    assert "fork" in texts[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_store_that_was_open_at_the_fork_is_refused_and_one_that_was_closed_is_not(tmp_path: Path) -> None:
    """SQLite would work without locks there, and lose what it commits."""
    path = str(tmp_path / "telex.db")
    app = Telex(path, name="fork")
    asyncio.run(_send(app, 1))

    def opened_anew() -> str:
        try:
            asyncio.run(_send(Telex(path, name="child"), 2))
        except ConfigError as error:
            return f"refused: {error}"
        return "sent"

    async def while_open() -> str:
        async with app:
            return _in_child(opened_anew)

    text = asyncio.run(while_open())
    assert text.startswith("refused: ")
    assert f"was open in process {os.getpid()}" in text
    assert "spawn" in text
    assert _in_child(opened_anew) == "sent", "it is closed again"
    asyncio.run(_count(path, 2))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_memory_of_a_name_is_the_parents_alone() -> None:
    name = "memory://forked"

    def counted() -> str:
        asyncio.run(asyncio.wait_for(_count(name, 0), 10))
        return "empty"

    async def main() -> None:
        async with Telex(name, name="parent") as app:
            await app.send(JOBS, {"no": 1})
            assert _in_child(counted) == "empty"
            await _count(name, 1)

    asyncio.run(main())


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


async def _send(app: Telex, number: int) -> None:
    async with app:
        await app.send(JOBS, {"no": number})


async def _count(url: str, expected: int) -> None:
    async with Telex(url, name="count") as app:
        ready = sum(stats.ready or 0 for stats in (await app.stats()).sources)
        assert ready == expected


def _in_child(main: Callable[[], str]) -> str:
    """What it returns in a fork, or the error there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        asyncio.events._set_running_loop(None)
        try:
            text = main()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


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
            time.sleep(60)  # a child that only lives
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

    async with app.running():
        async with asyncio.timeout(5):  # Half a lease: it is seen dead, and not only late.
            os.kill(parent, signal.SIGKILL)
            os.waitpid(parent, 0)  # killed: it ends at once
            while not handled:  # as short as that
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
