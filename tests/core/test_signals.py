"""Signals: every application of a loop is told, and what the host had set before comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from telex import Queue, Telex
from telex.signals import _LISTENERS

from .kit import make, run, turns, until

jobs = Queue("jobs", int)


def app() -> Telex:
    made, _ = make()

    @made.receive(jobs)
    async def work(job: int) -> None: ...

    return made


def hosts(number: int, frame: FrameType | None) -> None:
    """A handler of the program in which the applications run."""


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    """A signal that no application listens to any more does not end the tests."""
    before = {number: signal.signal(number, hosts) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def started(number: int) -> None:
    """Returns once so many listen."""
    loop = asyncio.get_running_loop()
    await until(lambda: loop in _LISTENERS and len(_LISTENERS[loop].told) == number, 10)


def test_one_signal_stops_every_application_of_a_loop() -> None:
    async def main() -> None:
        both = [asyncio.ensure_future(app().run()) for _ in range(2)]
        await started(2)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.gather(*both)

    run(main())


def test_an_application_that_ends_leaves_the_signals_to_the_others() -> None:
    async def main() -> None:
        stays = asyncio.ensure_future(app().run())
        await started(1)
        await app().run(until_idle=True)
        await turns()
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, hosts)
        os.kill(os.getpid(), signal.SIGTERM)
        await stays

    run(main())


def test_nothing_of_a_loop_is_kept_when_nobody_listens_any_more() -> None:
    """What the host had set may hold the loop itself, as the handler of `asyncio.run` does."""

    async def main() -> None:
        await app().run(until_idle=True)
        assert not _LISTENERS[asyncio.get_running_loop()].before

    run(main())


def test_who_cannot_listen_is_not_taken_for_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def refuse(number: int, callback: object, *args: object) -> None:
            raise RuntimeError("no signals here")

        with monkeypatch.context() as patched:
            patched.setattr(loop, "add_signal_handler", refuse)
            with pytest.raises(RuntimeError):
                await app().run(until_idle=True)
        stays = asyncio.ensure_future(app().run())
        await started(1)
        os.kill(os.getpid(), signal.SIGTERM)
        await stays

    run(main())


def test_the_hosts_handlers_come_back() -> None:
    async def main() -> None:
        signal.signal(signal.SIGINT, hosts)  # In place of the one that `asyncio.run` sets.
        await app().run(until_idle=True)
        assert signal.getsignal(signal.SIGTERM) is hosts
        assert signal.getsignal(signal.SIGINT) is hosts

    run(main())


def test_a_handler_that_the_host_set_on_the_loop_does_not_leave_a_deaf_one_behind() -> None:
    """It is lost, and the signal does again what it does by default."""

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.Event().set)
        await app().run(until_idle=True)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    run(main())
