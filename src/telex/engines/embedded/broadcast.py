"""Broadcast: a consumer without a source in the store, which reads along from the moment it began."""

from __future__ import annotations

import apsw

from ...errors import StoreDamaged
from ...message import Message
from ...names import matches
from .append import Tail, read
from .rows import rows as fetch
from .topology import Topology, streams_of

MOST = 1000
"""Messages read from one stream in one transaction."""


class Listener:
    """One broadcast consumer: its place in every stream is kept in memory alone.

    Attributes:
        room: Most messages that wait to be fetched; it stops reading above.
        left: It reads nothing any more; the store sets it.
    """

    def __init__(self, pattern: str, room: int) -> None:
        self.pattern = pattern
        self.room = room
        self._version = -1
        self._places: dict[int, int] = {}
        self._staged: dict[int, int] = {}
        self._read: list[Message] = []
        self._ready: list[Message] = []
        self.waiting = 0
        self.left = False

    def begin(self, db: apsw.Connection) -> None:
        """Begins at the end of every stream there is."""
        self._places = dict(streams_of(db, self.pattern))

    def read(self, db: apsw.Connection, topology: Topology, tail: Tail) -> None:
        """Reads what came since."""
        if self._version != topology.version:
            self._version = topology.version
            for row in topology.channels.values():
                if row.channel.kind.value == "topic" and matches(self.pattern, row.channel.name):
                    for stream in row.streams:
                        self._places.setdefault(stream, 0)
        for stream, place in self._places.items():
            room = min(MOST, self.room - self.waiting - len(self._read))
            if room <= 0:
                return
            rows = fetch(db.execute("SELECT next FROM stream WHERE no = ?", (stream,)))
            end = rows[0][0] if rows else place
            number = min(end - place, room)
            if number > 0:
                self._staged[stream] = place + number
                self._read += [m for m in read(db, tail, stream, place, number) if not isinstance(m, StoreDamaged)]

    def commit(self) -> None:
        """The transaction was committed."""
        self._places.update(self._staged)
        self._staged = {}
        self._ready += self._read
        self.waiting += len(self._read)
        self._read = []

    def roll_back(self) -> None:
        """The transaction was rolled back."""
        self._staged = {}
        self._read = []
        self._version = -1

    def take(self) -> list[Message]:
        """What is there to be handed out."""
        ready, self._ready = self._ready, []
        return ready
