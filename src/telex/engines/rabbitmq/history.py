"""What topics keep: streams beside the queues, and handing what is in them to a source again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from aiormq.exceptions import ChannelNotFoundEntity

from ...engine import ChannelKind, Source, Stored
from ...errors import Disconnected, Unsupported
from ...names import is_pattern, matches
from .catalog import Catalog
from .codec import EPOCH, NONE, Incoming
from .codec import Reader as Decoder
from .declare import ENGINE
from .line import Line
from .link import DROPPED, is_cancelled
from .names import Names
from .outbound import Outbound
from .publisher import Publisher
from .stream import Tail, last_offset

PASS = 1000
"""Messages of one step."""
MARGIN = timedelta(seconds=2)
"""Before the wanted instant: the broker dates chunks, publishers date messages."""
TIMEOUT = 60.0
QUIET = 5.0
"""Seconds in which a stream must give something that it has."""

Record = tuple[int, Incoming]


class History:
    """Replays.

    Args:
        decoder: Takes messages of topics apart.
        now: The time.
    """

    def __init__(
        self,
        names: Names,
        line: Line,
        catalog: Catalog,
        outbound: Outbound,
        publisher: Publisher,
        decoder: Decoder,
        now: Callable[[], datetime],
    ) -> None:
        self._names = names
        self._line = line
        self._catalog = catalog
        self._outbound = outbound
        self._publisher = publisher
        self._decoder = decoder
        self._now = now

    async def fill(self, source: Source, start: str) -> None:
        """Copies what is kept into a new source."""
        since = EPOCH if start == "all" else datetime.fromisoformat(start)
        until, token = self._now(), None
        while True:
            _, token = await self.replay(source, since, until, token, dry_run=False)
            if token is None:
                return

    async def replay(
        self, source: Source, since: datetime, until: datetime, token: str | None, dry_run: bool
    ) -> tuple[int, str | None]:
        """One step: (messages, where to go on).

        Raises:
            Unsupported: No topic of this source keeps a history.
            Disconnected: The broker is gone; what was copied stays.
        """
        await self._catalog.sync()
        topics = self._topics(source)
        if not topics:
            because = f"{source.channel} keeps nothing that is settled"
            raise Unsupported("replay", ENGINE, because, "declare the topic with history=…")
        name, _, offset = (token or "").rpartition(":")
        topic = name if name in topics else topics[0]
        count, after = await self._step(source, topic, since, until, int(offset) if name in topics else None, dry_run)
        if after is not None:
            return count, f"{topic}:{after}"
        following = topics[topics.index(topic) + 1 :]
        return count, f"{following[0]}:-1" if following else None

    def _topics(self, source: Source) -> list[str]:
        pattern = source.channel
        return sorted(
            record.name
            for record in self._catalog.channels.values()
            if record.kind is ChannelKind.TOPIC
            and record.history is not None
            and (matches(pattern, record.name) if is_pattern(pattern) else record.name == pattern)
        )

    async def _step(
        self, source: Source, topic: str, since: datetime, until: datetime, offset: int | None, dry_run: bool
    ) -> tuple[int, int | None]:
        begin: int | str | datetime = "first"
        if offset is not None and offset >= 0:
            begin = offset
        elif since > EPOCH + MARGIN:
            begin = since - MARGIN
        most = None if dry_run else PASS
        try:
            records, after = await self._read(self._names.history(topic), begin, since, until, most)
        except ChannelNotFoundEntity:
            return 0, None
        except TimeoutError:
            raise Disconnected(f"the history of {topic} could not be read in time") from None
        except (asyncio.CancelledError, *DROPPED) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            why = str(error) or "the connection broke"
            raise Disconnected(f"the history of {topic} could not be read: {why}") from error
        if records and not dry_run:
            postings = [self._outbound.to_source(source, incoming.message, NONE) for _, incoming in records]
            outcomes = await self._publisher.store(postings, asyncio.get_running_loop().time() + TIMEOUT)
            for stored, cause in outcomes:
                if stored is not Stored.YES:
                    raise Disconnected(f"a message of {topic} could not be handed to {source}: {cause}")
        return len(records), after

    async def _read(
        self, stream: str, begin: int | str | datetime, since: datetime, until: datetime, most: int | None
    ) -> tuple[list[Record], int | None]:
        """Records of a span of time from an offset on, and the offset to go on at; None at the end."""
        loop = asyncio.get_running_loop()
        link = await self._line.up(loop.time() + TIMEOUT)
        last = await last_offset(link, stream, filled=False)
        if last < 0 or (isinstance(begin, int) and begin > last):
            return [], None
        found: list[Record] = []
        reached = -1
        came = asyncio.Event()

        def arrived(offset: int, key: bytes, header: bytes, body: bytes) -> None:
            nonlocal reached
            if offset > last or (most is not None and len(found) >= most):
                came.set()
                return
            reached = offset
            incoming = self._decoder.read(key, header, body)
            if since <= incoming.message.time < until:
                found.append((offset, incoming))
            came.set()

        tail = Tail(link, arrived)
        try:
            await tail.start(stream, begin)
            while reached < last and (most is None or len(found) < most):
                came.clear()
                await asyncio.wait_for(came.wait(), QUIET)
        finally:
            await tail.stop()
        return found, reached + 1 if reached < last else None
