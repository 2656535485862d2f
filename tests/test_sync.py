"""The blocking face: threads, forks, errors, dead letters."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from telex import Closed, InvalidMessage, Procedure, Queue, Retry, Telex
from telex.sync import Client

emails = Queue("emails", str)
double = Procedure("double", int, int)


def application(path: Path) -> Telex:
    app = Telex(str(path / "telex.db"), name="shop")

    @app.receive(emails, retry=Retry(attempts=1))
    async def mail(to: str) -> None:
        raise TimeoutError(to)

    @app.reply(double)
    async def twice(n: int) -> int:
        return 2 * n

    return app


def worker(app: Telex) -> Callable[[], None]:
    """Runs the handlers in another thread; what it returns stops them."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def main() -> None:
        async with app.running():
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(20)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()

    return end


def test_sends_from_many_threads_and_asks(tmp_path: Path) -> None:
    app = application(tmp_path)
    with Client(app) as client:
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda n: client.send(emails, f"to {n}"), range(100)))
        assert len(set(ids)) == 100
        assert client.send_many(emails, ["a", "b"]) == 2
        (mails,) = [s for s in client.stats().sources if s.source == "emails"]
        assert mails.ready == 102
        end = worker(application(tmp_path))
        try:
            assert client.request(double, 21, timeout=10) == 42
        finally:
            end()


def test_dead_letters(tmp_path: Path) -> None:
    app = application(tmp_path)
    with Client(app) as client:
        client.send_many(emails, ["a", "b", "c"])
        asyncio.run(application(tmp_path).run(until_idle=True))
        letters = client.dead_letters(emails)
        assert letters.count() == 3
        assert sorted(letter.message.body for letter in letters) == [b'"a"', b'"b"', b'"c"']
        assert [cause.error for cause in letters.causes()] == ["TimeoutError"]
        assert next(iter(letters)).source == "emails"
        assert letters.where(error="KeyError").redrive() == 0
        assert letters.redrive(limit=1) == 1
        assert letters.discard() == 2


def test_errors_come_through(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    with pytest.raises(InvalidMessage, match="takes str"):
        client.send(emails, 1)  # type: ignore[arg-type]  # the mistake under test
    client.close()
    client.close()
    with pytest.raises(Closed, match="make a new one"):
        client.send(emails, "x")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_client_made_before_a_fork_works_in_every_child(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    client.send(emails, "parent before")
    children = []
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                client.send(emails, f"child {n}")
                client.close()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    client.send(emails, "parent after")
    (mails,) = [s for s in client.stats().sources if s.source == "emails"]
    assert mails.ready == 5
    client.close()
