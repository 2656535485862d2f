"""Whether an exchange is there, asked before anything is published to it: the broker would close the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from ...errors import Disconnected, UnknownChannel
from .control import Control


class Asking:
    """Who publishes to an exchange that is being asked for, in their order."""

    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Exchanges:
    """Asks for exchanges, and keeps the order of those who publish to one meanwhile.

    Args:
        control: Knows those that are there, until the connection is lost.
        why: Why nothing was answered in time.
    """

    def __init__(self, control: Control, why: Callable[[], str]) -> None:
        self._control = control
        self._why = why
        self._asking: dict[str, Asking] = {}

    async def missing(self, names: set[str], deadline: float) -> Mapping[str, Exception]:
        """Those that are not there, or cannot be asked for by the deadline (of the loop's clock), and why.

        Who asks for one that is being asked for has the answer after those who asked before: whoever publishes in the
        order in which this returns keeps the order in which it was called.
        """
        unknown = sorted((names - self._control.exchanges) | (names & self._asking.keys()))
        if not unknown:
            return {}
        asking = [self._asking.setdefault(name, Asking()) for name in unknown]
        for one in asking:
            one.waiting += 1
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(deadline):
                    for one in asking:
                        await stack.enter_async_context(one.lock)
                return await self._ask(unknown, deadline)
        except TimeoutError:
            return dict.fromkeys(unknown, Disconnected(self._why()))
        finally:
            for name, one in zip(unknown, asking, strict=True):
                one.waiting -= 1
                if not one.waiting:
                    del self._asking[name]

    async def _ask(self, names: Sequence[str], deadline: float) -> Mapping[str, Exception]:
        missing: dict[str, Exception] = {}
        for name in names:
            try:
                async with asyncio.timeout_at(deadline):
                    if not await self._control.has_exchange(name):
                        text = f"there is no exchange {name!r} on the broker: declare its channel first"
                        missing[name] = UnknownChannel(text)
            except TimeoutError:
                missing[name] = Disconnected(self._why())
            except Disconnected as error:
                missing[name] = error
        return missing
