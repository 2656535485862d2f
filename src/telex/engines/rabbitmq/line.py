"""A connection that comes back: opened again with backoff and jitter, its roles set up again, its state reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Protocol

from ...errors import AccessDenied, Disconnected
from ...events import BROKER_TROUBLE, CONNECTED
from .address import Address
from .link import Link, connect, ending_quietly, is_cancelled

log = logging.getLogger("telex.rabbitmq")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
TIMEOUT = 10.0
"""Seconds for one attempt to connect."""
LOOK = 0.25
"""Seconds between looks at a connection: is it blocked, is it silent?"""
SET_UP = 30.0
"""Seconds for all that a new connection begins with."""
STEADY = 5.0
"""Seconds a connection must have lasted for the pauses to begin small again."""


class Role(Protocol):
    """Something that lives on a connection."""

    async def up(self, link: Link) -> None:
        """Sets itself up on a new connection. What it raises of `DROPPED` or `Disconnected` ends that connection."""
        ...

    def down(self) -> None:
        """The connection is gone."""
        ...


class Line:
    """One connection of a process, for good.

    Args:
        name: For people: what it is for.
        address: The broker.
        random: For jitter.
    """

    def __init__(self, name: str, address: Address, random: Random) -> None:
        self._name = name
        self._address = address
        self._random = random
        self._roles: list[Role] = []
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._hurry = asyncio.Event()
        self.others: Sequence[Line] = ()
        """Other connections to the same broker: when one is back, they are tried at once."""
        self.problem: str | None = None
        """What is wrong with it, for people; read from any thread."""

    @property
    def link(self) -> Link | None:
        """The connection; None while there is none."""
        link = self._link
        return link if link is not None and link.is_open else None

    async def open(self, deadline: float) -> Link:
        """Opens it for the first time: tries again until the deadline (of the loop's clock), but not when refused.

        Raises:
            AccessDenied: The broker refuses the user or the virtual host.
            Disconnected: Not by the deadline.
            ConfigError: The broker's version is not supported.
        """
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            try:
                link = await connect(self._address, min(TIMEOUT, deadline - loop.time()))
                break
            except AccessDenied:
                raise
            except Disconnected:
                pause = self._longer(pause)
                if loop.time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
        self._link = link
        self._ready.set()
        self._task = loop.create_task(self._live(link), name=f"telex rabbitmq {self._name}")
        return link

    async def up(self, deadline: float | None = None) -> Link:
        """The connection, as soon as there is one.

        Raises:
            Disconnected: Not by the deadline (of the loop's clock).
        """
        while (link := self.link) is None:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._ready.wait()
                    await asyncio.sleep(0)
            except TimeoutError:
                raise Disconnected(self.problem or f"there is no connection to {self._address.place}") from None
        return link

    async def add(self, role: Role) -> None:
        """Sets a role up now, if there is a connection, and on each new one."""
        self._roles.append(role)
        link = self.link
        if link is not None:
            await self._raise_role(role, link)

    def remove(self, role: Role) -> None:
        """Forgets a role."""
        if role in self._roles:
            self._roles.remove(role)

    async def close(self) -> None:
        """Closes it for good."""
        task = self._task
        while task is not None and not task.done():  # `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
            task.cancel()
            await asyncio.wait([task], timeout=LOOK)
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # -- life -------------------------------------------------------------------------------------------------------

    async def _live(self, link: Link) -> None:
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            reason = await self._watch(link)
            self._ready.clear()
            self.problem = f"no connection to the broker at {self._address.place} for {self._name}: {reason}"
            BROKER_TROUBLE.log(log, "%s; connecting again", self.problem)
            for role in self._roles:
                role.down()
            closing = loop.create_task(link.close())
            if loop.time() - began > STEADY:
                pause = FIRST_PAUSE
            link = await self._again(pause)
            pause = self._longer(pause)
            await asyncio.wait([closing])

    async def _watch(self, link: Link) -> str:
        """Until it is lost; why."""
        while True:
            done, _ = await asyncio.wait([link.lost], timeout=LOOK)
            if done:
                return link.lost.result()
            link.check()
            blocked = link.is_blocked
            if blocked != (self.problem is not None):
                self.problem = (
                    f"the broker at {self._address.place} takes no messages now: it is short of memory or disk"
                    if blocked
                    else None
                )
                BROKER_TROUBLE.log(
                    log, "%s", self.problem or f"the broker at {self._address.place} takes messages again"
                )

    def _hurry_others(self) -> None:
        for other in self.others:
            other.hurry()

    async def _again(self, pause: float) -> Link:
        hurried = False
        while True:
            await self._rest(pause * self._random.uniform(0.5, 1.0))
            try:
                link = await connect(self._address, TIMEOUT)
            except (asyncio.CancelledError, Exception) as error:  # Who does not try again is lost.
                if isinstance(error, asyncio.CancelledError) and is_cancelled():
                    raise
                self.problem = str(error) or f"the broker at {self._address.place} cannot be reached: {error!r}"
                pause = self._longer(pause)
                continue
            self._link = link
            if not hurried:  # What begins on this connection may need those; once, or both would never rest.
                hurried = True
                self._hurry_others()
            try:
                async with asyncio.timeout(SET_UP):  # Nobody looks meanwhile whether it still answers.
                    await self._set_up(self._roles, link)
            except (asyncio.CancelledError, Exception) as error:  # Whatever it is: who does not try again is lost.
                if isinstance(error, asyncio.CancelledError) and is_cancelled():
                    raise
                self.problem = f"the broker at {self._address.place} was lost again at once: {error}"
                self._link = None
                for role in self._roles:
                    role.down()
                await link.close()
                pause = self._longer(pause)
                continue
            self.problem = None
            self._ready.set()
            CONNECTED.log(log, "connected to the broker at %s again for %s", self._address.place, self._name)
            self._hurry_others()
            return link

    async def _rest(self, pause: float) -> None:
        self._hurry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._hurry.wait()

    def hurry(self) -> None:
        """The broker is there: no reason to wait longer."""
        self._hurry.set()

    async def _set_up(self, roles: Sequence[Role], link: Link) -> None:
        for role in list(roles):
            await role.up(link)

    async def _raise_role(self, role: Role, link: Link) -> None:
        """A connection that is lost meanwhile, or on which it fails, sets the role up when it is back."""
        with ending_quietly():
            await role.up(link)
            return
        if link.is_open:
            link.drop("not all could be set up on it")

    def _longer(self, pause: float) -> float:
        return min(pause * 2, LONGEST_PAUSE)
