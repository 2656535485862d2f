"""The blocking face: threads, forks, errors, dead letters."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from telex import Closed, ConfigError, Disconnected, InvalidMessage, Procedure, Queue, Retry, Telex
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


FORKING = "ignore:.*multi-threaded.*fork:DeprecationWarning"


def forked(main: Callable[[], None]) -> int:
    """Runs it in a fork; the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pids: list[int], seconds: float = 30) -> list[int]:
    """Exit codes; what hangs is killed and fails."""
    codes, until = [], time.monotonic() + seconds
    for pid in pids:
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes.append(os.waitstatus_to_exitcode(status))
                break
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    return codes


@pytest.mark.filterwarnings(FORKING)
def test_a_prefork_server(tmp_path: Path) -> None:
    """As gunicorn with threads: made before the fork, used by many threads in every child, which also ask."""

    def work() -> None:
        asyncio.run(application(tmp_path).run())

    client = Client(application(tmp_path))
    worker = forked(work)

    def serve() -> None:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda n: client.request(double, n, timeout=20), range(20)))
            assert answers == [2 * n for n in range(20)]
            list(pool.map(lambda n: client.send(emails, f"{os.getpid()} {n}", delay=3600), range(50)))
        client.close()

    try:
        assert ended([forked(serve) for _ in range(4)]) == [0] * 4
    finally:
        os.kill(worker, signal.SIGTERM)
    assert ended([worker]) == [0]
    (mails,) = [s for s in client.stats().sources if s.source == "emails"]
    assert mails.delayed == 200
    client.close()


@pytest.mark.filterwarnings(FORKING)
def test_forks_while_the_parents_threads_are_in_the_middle_of_a_call(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    stop, sent = threading.Event(), []

    def busy() -> None:
        while not stop.is_set():
            sent.append(client.send(emails, "parent", delay=3600))

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for n in range(8):
        time.sleep(0.02)
        children.append(forked(lambda n=n: [client.send(emails, f"child {n}", delay=3600) for _ in range(5)]))  # type: ignore[misc]
    codes = ended(children)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert codes == [0] * 8
    (mails,) = [s for s in client.stats().sources if s.source == "emails"]
    assert mails.delayed == len(sent) + 8 * 5
    client.close()


@pytest.mark.filterwarnings(FORKING)
def test_a_fork_while_another_thread_opens(tmp_path: Path) -> None:
    """The child's copy of the lock is held by a thread that it does not have."""
    client = Client(application(tmp_path))
    client._changed.acquire()
    child = forked(lambda: print(client.send(emails, "child")))
    client._changed.release()
    assert ended([child]) == [0]
    client.close()


@pytest.mark.filterwarnings(FORKING)
def test_dead_letters_that_were_asked_for_before_the_fork(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    client.send_many(emails, ["a", "b"])
    asyncio.run(application(tmp_path).run(until_idle=True))
    letters = client.dead_letters(emails).where(error="TimeoutError")
    assert letters.count() == 2

    def child() -> None:
        assert sorted(letter.message.body for letter in letters) == [b'"a"', b'"b"']
        assert letters.redrive() == 2

    assert ended([forked(child)]) == [0]
    assert letters.count() == 0
    client.close()


def loops() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("telex-sync")}


def test_threads_that_come_first_together_open_once(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    barrier, before = threading.Barrier(8), loops()

    def first(n: int) -> str:
        barrier.wait(10)
        return client.send(emails, str(n))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(first, range(8)))) == 8
    assert len(loops() - before) == 1
    client.close()
    assert loops() <= before


def test_closing_while_others_wait(tmp_path: Path) -> None:
    """Nobody is left waiting: what was sent was sent, everything else is told that the client is closed."""
    client = Client(application(tmp_path))
    client.stats()
    sent: list[str] = []
    refused: list[BaseException] = []

    def ask(n: int) -> None:
        try:
            if n % 2:
                client.request(double, n, timeout=60)
            while True:
                sent.append(client.send(emails, "x", delay=3600))
        except BaseException as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    client.close()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert [type(error) for error in refused] == [Closed] * 8
    with Client(application(tmp_path)) as other:
        (mails,) = [s for s in other.stats().sources if s.source == "emails"]
        assert mails.delayed is not None
        assert len(sent) <= mails.delayed <= len(sent) + 8


def test_a_function_of_a_call_may_not_call_again(tmp_path: Path) -> None:
    with Client(application(tmp_path)) as client:
        with pytest.raises(ConfigError, match="would wait for itself"):
            client.send_many(emails, ["a"], progress=lambda n: client.send(emails, "b"))
        with pytest.raises(ConfigError, match="would wait for itself"):
            client.send_many(emails, (client.send(emails, str(n)) for n in range(3)))
        assert client.send(emails, "c")


def test_an_interrupted_call_is_given_up_on_both_sides(tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with Client(application(tmp_path)) as client:
        client.stats()
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                client.request(double, 1, timeout=60)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert client.send(emails, "x")
        assert client._session is not None
        assert client._session.app._session is not None
        assert client._session.app._session.requests._waiting == {}


def test_what_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    folder, before = tmp_path / "later", loops()
    client = Client(application(folder))
    for _ in range(2):
        with pytest.raises((Disconnected, ConfigError)):
            client.send(emails, "x")
    assert loops() <= before
    folder.mkdir()
    assert client.send(emails, "x")
    client.close()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the application"):
        Client("shop")  # type: ignore[arg-type]  # the mistake under test
    client = Client(application(tmp_path))
    with pytest.raises(ConfigError, match="list of ids"):
        client.dead_letters(emails).where(ids="one")
    with pytest.raises(ConfigError, match="has no groups"):
        client.dead_letters(emails, group="x")
    assert client._session is None, "nothing was opened for it"
    client.close()


def test_letters_that_are_left_in_the_middle(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    client.send_many(emails, ["a", "b", "c"])
    asyncio.run(application(tmp_path).run(until_idle=True))
    letters = iter(client.dead_letters(emails))
    next(letters)
    client.close()
    with pytest.raises(Closed):
        next(letters)
