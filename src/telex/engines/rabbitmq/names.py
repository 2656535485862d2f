"""Names on the broker. They read like the source they belong to; what follows a colon is ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from zlib import crc32

from ...engine import Source, SourceKind

LANE_HEADER = "telex-lane"
_TOKEN = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Names:
    """Makes names.

    Args:
        prefix: Before every name.
        own: Names of channels that the application chose itself, by channel.
    """

    def __init__(self, prefix: str, own: Mapping[str, str]) -> None:
        self.prefix = prefix
        self._own = dict(own)
        self._channels = {name: channel for channel, name in own.items()}
        self.topics = f"{prefix}telex"
        """The exchange of all topics; the routing key is the topic's name."""
        self.due = f"{prefix}telex.due"
        """Where what has waited goes on to its queue, by the queue's name."""
        self.stray = f"{prefix}telex.stray"
        """The exchange and the queue of what has waited for a queue that is gone."""
        self.catalog = f"{prefix}telex.catalog"
        """The stream of definitions."""
        self.members = f"{prefix}telex.members"
        """The exchange over which the processes that consume talk."""
        self._inbox = f"{prefix}telex.inbox."

    def routing_key(self, channel: str) -> str:
        """Of a topic or a pattern on the exchange of topics."""
        return self._own.get(channel, channel)

    def channel(self, routing_key: str) -> str:
        """The topic of a routing key."""
        return self._channels.get(routing_key, routing_key)

    def queue(self, source: Source) -> str:
        """The queue of a source; on ordered sources the exchange before its lanes."""
        name = self._own.get(source.channel, source.channel).replace("*", "+")  # The client library allows no ``*``.
        if source.kind is SourceKind.GROUP:
            name = f"{name}/{source.group}"
        return self.prefix + name

    def trial(self, queue: str) -> str:
        """The queue of messages that are handled alone."""
        return f"{queue}:trial"

    def dead(self, queue: str) -> str:
        """The queue of dead letters."""
        return f"{queue}:dead"

    def lane(self, queue: str, lane: int) -> str:
        """The queue of a lane."""
        return f"{queue}:{lane}"

    def state(self, queue: str, lane: int) -> str:
        """The queue that holds what is known about a lane, one message."""
        return f"{queue}:{lane}.state"

    def rest(self, queue: str) -> str:
        """The exchange that takes what names no lane."""
        return f"{queue}:rest"

    def history(self, channel: str) -> str:
        """The stream that keeps a topic."""
        return f"{self.prefix}{self._own.get(channel, channel)}:history"

    def step(self, ladder: str, level: int) -> str:
        """The exchange and the queue of one step of a ladder."""
        return f"{self.prefix}telex.{ladder}.{level}"

    def inbox(self, random: Random) -> str:
        """A new inbox."""
        return f"{self._inbox}{random.getrandbits(128):032x}"

    def is_inbox(self, address: str) -> bool:
        """Whether a text is the name of a Telex inbox of this broker: nothing is ever sent anywhere else."""
        head, token = address[: len(self._inbox)], address[len(self._inbox) :]
        return head == self._inbox and _TOKEN.fullmatch(token) is not None

    def instance(self, random: Random) -> str:
        """A new queue of one running instance, for broadcasts."""
        return f"{self.prefix}telex.instance.{random.getrandbits(128):032x}"


def lane_of(key: str | None, id: str, lanes: int) -> int:
    """The lane of a message: ``crc32(key or id) % lanes``, the same for every publisher."""
    return crc32((key or id).encode()) % lanes
