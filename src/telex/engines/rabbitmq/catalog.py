"""What exists: channels and sources, as records of a stream that every process reads. AMQP itself can list nothing.

The stream only grows, by a record for each thing that is declared or removed. Later records win.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from ...engine import Channel, ChannelKind, Source, SourceKind, Stored
from ...errors import Disconnected
from ...events import BROKER_TROUBLE
from . import table
from .control import Control
from .line import Line
from .link import DROPPED, Link, is_cancelled
from .names import Names
from .publisher import CHANNEL, Posting, Publisher
from .stream import Tail, last_offset
from .wire import content_frames

log = logging.getLogger("telex.rabbitmq")

PATIENCE = 10.0


class ChannelRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A channel, as it stands in the stream."""

    name: str
    kind: ChannelKind
    ordered: bool = False
    lanes: int = 1
    history: float | None = None


class SourceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A source, as it stands in the stream.

    Attributes:
        filling: Where it begins, while what was published before its declaration is still being copied into it.
    """

    channel: str
    kind: SourceKind
    group: str | None = None
    ordered: bool = False
    lanes: int = 1
    filling: str | None = None

    @property
    def source(self) -> Source:
        """As the contract has it."""
        return Source(self.channel, self.kind, self.group, self.ordered)


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record: something is there, or is gone."""

    by: str = ""
    channel: ChannelRecord | None = None
    source: SourceRecord | None = None
    gone_channel: str | None = None
    gone_source: str | None = None


class Catalog:
    """Reads the stream, and keeps reading.

    Attributes:
        channels: By name.
        sources: By their text form.
    """

    def __init__(self, names: Names, line: Line, control: Control, publisher: Publisher, token: str) -> None:
        self._names = names
        self._line = line
        self._control = control
        self._publisher = publisher
        self._token = token
        self._count = 0
        self._tail: Tail | None = None
        self._offset = -1
        self._seen: set[str] = set()
        self._changed = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._exists = False
        self.channels: dict[str, ChannelRecord] = {}
        self.sources: dict[str, SourceRecord] = {}
        self._reading = self.channels, self.sources
        """What records go into: while the stream is read from its start, not what others see."""

    def channel(self, name: str) -> Channel | None:
        """A channel, as the contract has it."""
        found = self.channels.get(name)
        if found is None:
            return None
        history = None if found.history is None else timedelta(seconds=found.history)
        return Channel(found.name, found.kind, found.ordered, found.lanes, history)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def up(self, link: Link) -> None:
        """Reads on where it was, when somebody wants to know: after a restart streams come up late."""
        self._tail = None

    def down(self) -> None:
        """Knows what it knew."""
        self._tail = None
        self._changed.set()

    async def sync(self) -> None:
        """Returns once everything that was recorded before is known here.

        Raises:
            Disconnected: There was no connection in time.
        """
        async with self._syncing:
            if not self._exists:
                self._exists = await self._control.depth(self._names.catalog) is not None
                if not self._exists:
                    return
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while True:
                link = await self._line.up(deadline)
                try:
                    await self._catch_up(link, deadline)
                    return
                except TimeoutError:
                    await self._stop()  # Whatever it is that gives nothing: the next one reads on a new channel.
                    raise Disconnected("the catalog of channels could not be read in time") from None
                except (asyncio.CancelledError, *DROPPED) as error:
                    if isinstance(error, asyncio.CancelledError) and is_cancelled():
                        raise
                    if asyncio.get_running_loop().time() > deadline:
                        raise Disconnected(f"the catalog of channels could not be read: {error}") from error
                    self._exists = await self._control.depth(self._names.catalog) is not None
                    if not self._exists:
                        await self._start_over()
                        self.channels, self.sources = self._reading
                        return
                    await asyncio.sleep(0.02)

    async def _catch_up(self, link: Link, deadline: float) -> None:
        """Reads what is there now."""
        if self._tail is not None and self._tail.is_cancelled:  # Perhaps the stream was deleted, and made again.
            await self._start_over()
        if self._tail is None or not self._tail.is_open:
            await self._read(link)
        last = await last_offset(link, self._names.catalog, filled=self._offset >= 0)
        if last < self._offset:
            BROKER_TROUBLE.log(log, "the catalog %s was made anew; reading it from its start", self._names.catalog)
            await self._start_over()
            await self._read(link)
        await self._reach(last, deadline)
        self.channels, self.sources = self._reading

    async def _start_over(self) -> None:
        """Forgets where it was; others see what was known until all is read again."""
        await self._stop()
        self._reading = {}, {}
        self._offset = -1

    async def _stop(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.stop()

    async def _read(self, link: Link) -> None:
        tail = Tail(link, self._arrived, self._changed.set)
        await tail.start(self._names.catalog, "first" if self._offset < 0 else self._offset + 1)
        self._tail = tail

    async def _reach(self, offset: int, deadline: float) -> None:
        async with asyncio.timeout_at(deadline):
            while self._offset < offset:
                if self._tail is None or not self._tail.is_open:
                    raise ConnectionError("it broke while the catalog was read")
                self._changed.clear()
                await self._changed.wait()

    def _arrived(self, offset: int, key: bytes, header: bytes, body: bytes) -> None:
        if offset <= self._offset:
            return
        self._offset = offset
        try:
            record = msgspec.json.decode(body, type=Record)
        except msgspec.DecodeError:
            BROKER_TROUBLE.log(
                log, "the catalog %s holds a record that cannot be read; it is left out", self._names.catalog
            )
        else:
            self._apply(record)
        self._changed.set()

    def _apply(self, record: Record) -> None:
        channels, sources = self._reading
        if record.channel is not None:
            channels[record.channel.name] = record.channel
        if record.source is not None:
            sources[str(record.source.source)] = record.source
        if record.gone_channel is not None:
            channels.pop(record.gone_channel, None)
        if record.gone_source is not None:
            sources.pop(record.gone_source, None)
        if record.by.startswith(self._token):
            self._seen.add(record.by)

    # -- writing ----------------------------------------------------------------------------------------------------

    async def ensure(self) -> None:
        """Makes the stream.

        Raises:
            Differs: There is another queue of its name.
        """
        if self._exists:
            return
        await self._control.queue(self._names.catalog, {"x-queue-type": "stream"})
        self._exists = True

    async def write(self, records: Sequence[Record]) -> None:
        """Writes records, and returns when they have been read back.

        Raises:
            Disconnected: They could not be written.
        """
        if not records:
            return
        await self.ensure()
        signed: list[str] = []
        postings: list[Posting] = []
        for record in records:
            self._count += 1
            by = f"{self._token}.{self._count}"
            signed.append(by)
            postings.append(self._posting(by, msgspec.structs.replace(record, by=by)))
        deadline = asyncio.get_running_loop().time() + PATIENCE
        for stored, error in await self._publisher.store(postings, deadline):
            if stored is not Stored.YES:
                raise Disconnected(f"the catalog {self._names.catalog} could not be written: {error}")
        while not self._seen.issuperset(signed):
            await self.sync()
            if asyncio.get_running_loop().time() > deadline:
                raise Disconnected(f"the catalog {self._names.catalog} could not be read back")
        self._seen.difference_update(signed)

    def _posting(self, by: str, record: Record) -> Posting:
        body = msgspec.json.encode(record)
        fields = {
            table.CONTENT_TYPE: table.short(b"application/json"),
            table.DELIVERY_MODE: b"\x02",
            table.MESSAGE_ID: table.short(by.encode()),
        }
        content = content_frames(CHANNEL, table.header(len(body), fields), body, 4096 + len(body))
        return Posting("", self._names.catalog, by, content)
