"""Signals: every application of a loop is told, and what the host had set before comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from telex import Queue, Telex

from .kit import make, run, turns

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


async def started(*tasks: asyncio.Future[None]) -> None:
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)


def test_one_signal_stops_every_application_of_a_loop() -> None:
    async def main() -> None:
        both = [asyncio.ensure_future(app().run()) for _ in range(2)]
        await started(*both)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.gather(*both)

    run(main(), 2)


def test_an_application_that_ends_leaves_the_signals_to_the_others() -> None:
    async def main() -> None:
        stays = asyncio.ensure_future(app().run())
        await started(stays)
        await app().run(until_idle=True)
        await turns()
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, hosts)
        os.kill(os.getpid(), signal.SIGTERM)
        await stays

    run(main(), 2)


def test_the_hosts_handlers_come_back() -> None:
    async def main() -> None:
        signal.signal(signal.SIGINT, hosts)  # In place of the one that `asyncio.run` sets.
        await app().run(until_idle=True)
        assert signal.getsignal(signal.SIGTERM) is hosts
        assert signal.getsignal(signal.SIGINT) is hosts

    run(main(), 2)


def test_a_handler_that_the_host_set_on_the_loop_does_not_leave_a_deaf_one_behind() -> None:
    """It is lost, and the signal does again what it does by default."""

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.Event().set)
        await app().run(until_idle=True)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    run(main(), 2)
