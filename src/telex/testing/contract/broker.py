"""A broker that the tests may hurt, and what they do to it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ...app import Telex
from ...engine import Source
from ..proxy import Proxy
from .kit import Target

LIMIT = 240.0
"""Seconds after which a test is taken to hang: brokers take their time to start."""
PATIENCE = 60.0
"""Seconds for which something is waited for."""

S = TypeVar("S", bound="FaultSuite")
T = TypeVar("T")


class Broker(Protocol):
    """A real broker of the test's own, with an empty place in it. Methods block; the suite calls them on threads.

    Attributes:
        url: Of the empty place.
        host: Where it listens, for a proxy.
        port: Its port.
        remembers: Seconds after which what was declared outlives a kill.
        notices: Seconds within which a connection that has silently died is noticed, with the URLs given here.
        cannot: Names of methods that make no sense with this broker, for example ``block``; those tests assert
            nothing then.
    """

    url: str
    host: str
    port: int
    remembers: float
    notices: float
    cannot: frozenset[str]

    def through(self, port: int) -> str:
        """The URL of the same place by way of a port of 127.0.0.1."""
        ...

    def stranger(self) -> tuple[str, str]:
        """A URL of the same place with a wrong password, and that password."""
        ...

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        ...

    def stop(self) -> None:
        """Shuts it down in good order; returns when it is down."""
        ...

    def start(self) -> None:
        """Starts it on the data it has; returns when it takes connections."""
        ...

    def block(self) -> None:
        """Makes it take no more publishes, as when its memory or disk is short."""
        ...

    def unblock(self) -> None:
        """Ends `block`."""
        ...

    def delete(self, source: Source) -> None:
        """Deletes what holds a source, with all that is in it, behind the engine's back."""
        ...

    def refuse_letters(self, source: Source) -> None:
        """Makes it refuse to store dead letters of a source."""
        ...

    def take_letters(self, source: Source) -> None:
        """Ends `refuse_letters`."""
        ...


class FaultTarget(Target, Protocol):
    """An engine under test whose broker may be hurt."""

    def broker(self) -> AbstractContextManager[Broker]:
        """A broker that runs and is in good order, with an empty place in it."""
        ...


class FaultSuite:
    """Base of the classes of tests that hurt a broker. A subclass sets ``target``."""

    target: FaultTarget


@dataclass
class FaultKit:
    """One test's tools.

    Attributes:
        target: The engine under test.
        broker: What is hurt.
        folder: An empty one, for histories.
        stack: Closed at the end.
    """

    target: FaultTarget
    broker: Broker
    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def proxy(self) -> Proxy:
        """A proxy in front of the broker, until the end of the test."""
        return self.stack.enter_context(Proxy(self.broker.host, self.broker.port))

    def app(
        self, name: str = "faults", *, proxy: Proxy | None = None, url: str | None = None, **settings: Any
    ) -> Telex:
        """An application on the broker, straight or through a proxy; not open."""
        if url is None:
            url = self.broker.url if proxy is None else self.broker.through(proxy.port)
        return Telex(url, name=name, engines=[self.target.settings], **settings)

    async def declared(self) -> None:
        """Waits until what was declared outlives a kill."""
        await asyncio.sleep(self.broker.remembers)

    async def do(self, action: Callable[..., T], *arguments: object) -> T:
        """Does something that blocks, while everything else goes on."""
        return await asyncio.to_thread(action, *arguments)

    async def until(self, what: str, true: Callable[[], Awaitable[bool] | bool], patience: float | None = None) -> None:
        """Waits until something holds.

        Raises:
            AssertionError: It did not in time.
        """
        patience = PATIENCE if patience is None else patience
        end = asyncio.get_running_loop().time() + patience
        while True:
            answer = true()
            if answer if isinstance(answer, bool) else await answer:
                return
            assert asyncio.get_running_loop().time() < end, f"not within {patience:g} s: {what}"
            await asyncio.sleep(0.02)


def hurts(*needs: str) -> Callable[[Callable[[S, FaultKit], Awaitable[None]]], Callable[[S], None]]:
    """Makes a test method of a coroutine that hurts a broker.

    Args:
        needs: What is done to the broker; nothing is asserted where `Broker.cannot` names one of them.
    """

    def make(test: Callable[[S, FaultKit], Awaitable[None]]) -> Callable[[S], None]:
        def method(self: S) -> None:
            with ExitStack() as stack:
                broker = stack.enter_context(self.target.broker())
                if broker.cannot & set(needs):
                    return
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="telex-"))
                kit = FaultKit(self.target, broker, Path(folder), stack)
                asyncio.run(_run(self, test, kit))

        method.__name__ = test.__name__
        method.__qualname__ = test.__qualname__
        method.__doc__ = test.__doc__
        method.__module__ = test.__module__
        return method

    return make


async def _run(suite: S, test: Callable[[S, FaultKit], Awaitable[None]], kit: FaultKit) -> None:
    async with asyncio.timeout(LIMIT):
        await test(suite, kit)
