"""A stream on the scripted broker: each consumer reads from the offset it asks for."""

from __future__ import annotations

from typing import NamedTuple

from pamqp import commands as amqp
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from .scripted import Frame, Peer

NOT_FOUND = amqp.Channel.Close(404, "NOT_FOUND - no queue", 50, 10)


class Reading(NamedTuple):
    """Who reads a stream."""

    peer: Peer
    channel: int
    tag: str


class Stream:
    """To be made its script.

    Attributes:
        records: What it holds; what is added is given to who reads from then on.
        is_there: Whether it exists.
        readings: Who began to read more than its end.
    """

    def __init__(self, name: str, *records: bytes) -> None:
        self._name = name
        self.records = list(records)
        self.is_there = True
        self.readings: list[Reading] = []

    async def __call__(self, peer: Peer, channel: int, frame: Frame) -> bool:
        if not isinstance(frame, amqp.Basic.Consume | amqp.Queue.Declare) or frame.queue != self._name:
            return False
        if not self.is_there:
            peer.send(channel, NOT_FOUND)
            return True
        if isinstance(frame, amqp.Queue.Declare):
            peer.send(channel, amqp.Queue.DeclareOk(self._name, 0, 0))
        else:
            self._consumed(Reading(peer, channel, frame.consumer_tag), frame.arguments["x-stream-offset"])
        return True

    def _consumed(self, reading: Reading, start: object) -> None:
        reading.peer.send(reading.channel, amqp.Basic.ConsumeOk(reading.tag))
        first = start if isinstance(start, int) else len(self.records) - 1 if start == "last" else 0
        for offset in range(max(0, first), len(self.records)):
            self._give(reading, offset)
        if start != "last":
            self.readings.append(reading)

    def _give(self, reading: Reading, offset: int) -> None:
        body = self.records[offset]
        header = ContentHeader(
            body_size=len(body), properties=amqp.Basic.Properties(headers={"x-stream-offset": offset})
        )
        method = amqp.Basic.Deliver(reading.tag, offset + 1, False, "", self._name)
        reading.peer.send(reading.channel, method, header, ContentBody(body))

    def end_consumers(self) -> None:
        """The broker ends who reads, and leaves its channel open."""
        for peer, channel, tag in self.readings:
            peer.send(channel, amqp.Basic.Cancel(tag, True))
