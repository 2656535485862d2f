"""What is known about a lane besides its messages, kept in a queue of one message: the newest one wins.

The broker keeps messages in order only while they stay where they are, so that a message that waits for its retry
cannot carry its failures itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec
from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity

from ...engine import Stored
from ...events import BROKER_TROUBLE
from . import table
from .codec import Incoming
from .control import TIMEOUT as QUESTION
from .control import Control
from .link import DROPPED
from .outbound import Outbound
from .publisher import Publisher

log = logging.getLogger("telex.rabbitmq")

TIMEOUT = 10.0
ERROR = 2000
"""Characters of the last attempt that are kept; a process that goes on has them all."""


class Waits(msgspec.Struct, array_like=True):
    """A message that waits for its next attempt.

    Attributes:
        failures: So far.
        due: When it may be tried again, in microseconds since 1970.
        error: The last attempt.
    """

    failures: int
    due: int
    error: str = ""


class Alone(msgspec.Struct, array_like=True):
    """The message that was in hand alone, after the lane's owner was lost.

    Attributes:
        mark: Which.
        losses: It had then.
        trial: Losses while alone, until then.
        returns: How often the broker had taken it back then.
    """

    mark: str
    losses: int
    trial: int
    returns: int = 0


class LaneState(msgspec.Struct):
    """What is known about a lane.

    Attributes:
        waiting: By mark.
        releases: How often a message was given back without having been started, by mark: the broker counted those.
        alone: In hand alone.
    """

    waiting: dict[str, Waits] = {}
    releases: dict[str, int] = {}
    alone: Alone | None = None

    def forget(self, mark: str) -> bool:
        """A message has left the lane; whether anything was known of it."""
        known = self.waiting.pop(mark, None) is not None
        return self.releases.pop(mark, None) is not None or known


class StateStore:
    """Reads and writes the state of one lane.

    Args:
        queue: Where it is kept.
        state: Its present state.
    """

    def __init__(
        self,
        queue: str,
        control: Control,
        outbound: Outbound,
        publisher: Publisher,
        state: Callable[[], LaneState],
    ) -> None:
        self._queue = queue
        self._control = control
        self._outbound = outbound
        self._publisher = publisher
        self._state = state
        self._wanted = 0
        self._saved = 0
        self._saving = asyncio.Lock()

    async def load(self) -> LaneState:
        """The newest state; an empty one if there is none.

        Raises:
            Disconnected: The broker is gone.
            AccessDenied: The queue may not be read.
        """
        body = None
        with suppress(ChannelNotFoundEntity):
            # Whole, whoever gives up meanwhile: what was fetched and not put back would be hidden from the next owner.
            body = await self._control.ask(lambda channel: asyncio.shield(self._read(channel)))
        if body is None:
            return LaneState()
        try:
            return msgspec.json.decode(body, type=LaneState)
        except msgspec.DecodeError:
            BROKER_TROUBLE.log(
                log, "%s holds nothing that can be read: failures and waits of this lane are forgotten", self._queue
            )
            return LaneState()

    async def _read(self, channel: AbstractChannel) -> bytes | None:
        got = await channel.basic_get(self._queue, timeout=QUESTION)
        if got.delivery_tag is None:
            return None
        await channel.basic_nack(got.delivery_tag, requeue=True)
        return bytes(got.body)

    async def save(self) -> bool:
        """Writes the present state, together with what others want to write; whether it is stored.

        Not where the lane was lost while this waits, or might be lost until it is written: it may be another's by then.
        """
        self._wanted += 1
        mine, state = self._wanted, self._state()
        async with self._saving:
            if self._saved >= mine:
                return True
            if self._state() is not state or not self._publisher.is_up:
                return False
            version = self._wanted
            body = msgspec.json.encode(state)
            fields = {table.CONTENT_TYPE: table.short(b"application/json"), table.DELIVERY_MODE: b"\x02"}
            posting = self._outbound.state(self._queue, "", table.header(len(body), fields), body)
            with suppress(*DROPPED, AMQPError):
                loop = asyncio.get_running_loop()
                ((stored, _),) = await self._publisher.store([posting], loop.time() + TIMEOUT)
                if stored is Stored.YES:
                    self._saved = version
                    return True
            return False


def mark_of(incoming: Incoming) -> str:
    """What a message is known by from one delivery to the next: its id, or a digest of one that has none.

    A dead letter that is sent again begins anew, with the id it had.
    """
    message = incoming.message
    if incoming.known:
        return f"{message.id} {incoming.counts.redrives}" if incoming.counts.redrives else message.id
    digest = hashlib.blake2s(message.body, digest_size=16)
    digest.update((message.key or "").encode())
    return f"#{digest.hexdigest()}"
