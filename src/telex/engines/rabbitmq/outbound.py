"""From what the core publishes to what goes on the wire: where to, with which headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from ...engine import Channel, ChannelKind, Outgoing, Source, SourceKind, Stored
from ...errors import InvalidMessage, MessageTooLarge, UnknownChannel
from ...message import Message
from .catalog import Catalog
from .codec import HEADER_SPARE, NONE, Counts, Death, encode
from .ladder import Ladder, wait_until
from .names import Names, lane_of
from .publisher import CHANNEL, Outcome, Posting
from .wire import content_frames

COPY_ROOM = 16 * 1024 * 1024
"""The broker's own limit from 4.0 (``max_message_size``): copies have the same body and fit."""


class Outbound:
    """Makes postings.

    Args:
        names: On the broker.
        catalog: Knows lanes.
        retries: The ladder of retries.
        delays: The ladder of delayed sends, and of retries that wait longer.
        now: The time.
        max_body: Largest body of what the application publishes.

    Attributes:
        frame_max: Bytes of a frame, of the last connection.
    """

    def __init__(
        self,
        names: Names,
        catalog: Catalog,
        retries: Ladder,
        delays: Ladder,
        now: Callable[[], datetime],
        max_body: int,
    ) -> None:
        self._names = names
        self._catalog = catalog
        self._retries = retries
        self._delays = delays
        self._now = now
        self._max_body = max_body
        self.frame_max = 131072

    # -- what the application publishes -----------------------------------------------------------------------------

    async def posting(self, outgoing: Outgoing) -> Posting | Outcome:
        """A posting, or the outcome of what cannot be posted."""
        try:
            if outgoing.not_before is not None:
                return await self._delayed(outgoing, outgoing.not_before)
            return self.direct(outgoing)
        except (InvalidMessage, UnknownChannel) as error:
            return Stored.NO, error

    def direct(self, outgoing: Outgoing) -> Posting:
        """A posting that does not wait.

        Raises:
            InvalidMessage: It is too large.
            UnknownChannel: There is no such inbox or source.
        """
        message, to = outgoing.message, outgoing.to
        if len(message.body) > self._max_body:
            raise MessageTooLarge(len(message.body), self._max_body, id=message.id)
        if isinstance(to, Channel):
            return self._to_channel(to, message)
        if isinstance(to, Source):
            return self.to_source(to, message, NONE)
        if not self._names.is_inbox(to):
            raise UnknownChannel(f"{to!r} is no inbox of Telex on this broker: nothing is sent there")
        header = encode(message, channel=True, persistent=False, frame_max=self.frame_max, spare=HEADER_SPARE)
        return self._post("", to, message, header, Stored.UNROUTED)

    def _to_channel(self, to: Channel, message: Message) -> Posting:
        lane = lane_of(message.key, message.id, to.lanes) if to.ordered else None
        header = encode(message, channel=False, lane=lane, frame_max=self.frame_max, spare=HEADER_SPARE)
        if to.kind is ChannelKind.TOPIC:
            key = self._names.routing_key(to.name)
            return self._post(self._names.topics, key, message, header, Stored.UNROUTED)
        queue = self._names.queue(Source(to.name, SourceKind.QUEUE))
        if lane is not None:
            return self._post(queue, self._names.lane(queue, lane), message, header)
        return self._post("", queue, message, header)

    async def _delayed(self, outgoing: Outgoing, at: datetime) -> Posting:
        wait = wait_until(at, self._now())
        if not wait:
            return self.direct(outgoing)
        message, to = outgoing.message, outgoing.to
        if len(message.body) > self._max_body:
            raise MessageTooLarge(len(message.body), self._max_body, id=message.id)
        if not isinstance(to, Channel) or to.kind is ChannelKind.TOPIC:
            raise InvalidMessage(f"{to} is no queue: only queues take delayed messages")
        lane = lane_of(message.key, message.id, to.lanes) if to.ordered else None
        queue = self._names.queue(Source(to.name, SourceKind.QUEUE))
        target = queue if lane is None else self._names.lane(queue, lane)
        exchange, waits, _ = await self._delays.entry(wait)
        header = encode(message, channel=False, lane=lane, waits=waits, frame_max=self.frame_max, spare=HEADER_SPARE)
        return self._post(exchange, target, message, header)

    # -- copies -----------------------------------------------------------------------------------------------------

    def to_source(self, source: Source, message: Message, counts: Counts) -> Posting:
        """A copy to one source alone, among what is published."""
        queue = self._names.queue(source)
        record = self._catalog.sources.get(str(source))
        ordered, lanes = (source.ordered, 1) if record is None else (record.ordered, record.lanes)
        lane = lane_of(message.key, message.id, lanes) if ordered else None
        header = encode(message, channel=True, lane=lane, counts=counts, frame_max=self.frame_max)
        if lane is not None:
            return self._post(queue, self._names.lane(queue, lane), message, header)
        return self._post("", queue, message, header)

    def to_queue(self, queue: str, message: Message, counts: Counts) -> Posting:
        """A copy into a queue, at once."""
        header = encode(message, channel=True, counts=counts, frame_max=self.frame_max)
        return self._post("", queue, message, header)

    async def later(self, queue: str, message: Message, counts: Counts, at: datetime) -> Posting:
        """A copy into a queue, no earlier than then."""
        wait = wait_until(at, self._now())
        if not wait:
            return self.to_queue(queue, message, counts)
        ladder = self._retries if wait < self._retries.longest.total_seconds() / 2 else self._delays
        exchange, waits, _ = await ladder.entry(wait)
        header = encode(message, channel=True, counts=counts, waits=waits, frame_max=self.frame_max)
        return self._post(exchange, queue, message, header)

    def letter(self, queue: str, message: Message, counts: Counts, death: Death) -> Posting:
        """A dead letter."""
        header = encode(message, channel=True, counts=counts, death=death, frame_max=self.frame_max)
        return self._post("", self._names.dead(queue), message, header)

    def state(self, queue: str, id: str, header: bytes, body: bytes) -> Posting:
        """What is known about a lane."""
        content = content_frames(CHANNEL, header, body, self.frame_max)
        return Posting("", queue, id, content, once=True)

    def _post(self, exchange: str, key: str, message: Message, header: bytes, missing: Stored = Stored.NO) -> Posting:
        content = content_frames(CHANNEL, header, message.body, self.frame_max)
        return Posting(exchange, key, message.id, content, missing)


def all_stored(outcomes: Sequence[Outcome]) -> bool:
    """Whether everything is kept, or had nobody to be kept for."""
    return all(stored is Stored.YES or stored is Stored.UNROUTED for stored, _ in outcomes)
