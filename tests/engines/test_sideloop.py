"""An engine's own loop: one that cannot be made is an error, not a program that stands still."""

from __future__ import annotations

import asyncio
import threading

import pytest

from telex.engines.sideloop import SideLoop


def test_it_runs_what_it_is_given_and_ends() -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def main() -> None:
        side = SideLoop("aside")
        side.start()
        assert await side.run(where()) == "aside"
        await side.stop()
        with pytest.raises(RuntimeError, match="does not run"):
            _ = side.running

    asyncio.run(main())


def test_a_loop_that_cannot_be_made_is_heard_where_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started on a thread, as it blocked the one that started it."""
    heard: list[BaseException] = []

    def no_loop() -> asyncio.AbstractEventLoop:
        raise OSError(24, "Too many open files")

    def start() -> None:
        try:
            SideLoop("aside").start()
        except OSError as error:
            heard.append(error)

    monkeypatch.setattr(asyncio, "new_event_loop", no_loop)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    starter = threading.Thread(target=start, daemon=True)
    starter.start()
    starter.join(1)
    assert not starter.is_alive()
    assert [str(error) for error in heard] == ["[Errno 24] Too many open files"]


def test_a_thread_that_cannot_be_started_leaves_no_loop_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    side = SideLoop("aside")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            side.start()
    asyncio.run(side.stop())
    with pytest.raises(RuntimeError, match="does not run"):
        _ = side.running
