"""The inbox of a process: replies from this process come directly, those of others through the store."""

from __future__ import annotations

import apsw

from ...errors import StoreDamaged
from ...message import Message
from . import frame
from .rows import rows as fetch

MOST = 4096
"""Replies taken from the store in one transaction."""


class Inbox:
    """One inbox. A reply is of no use once its requester is gone, so that handing it out settles it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._claimed: list[Message] = []
        self._ready: list[Message] = []

    def put(self, message: Message) -> None:
        """Takes a reply of this process."""
        self._ready.append(message)

    def claim(self, db: apsw.Connection) -> None:
        """Takes replies of other processes out of the store."""
        rows = fetch(
            db.execute(
                "DELETE FROM inbox WHERE no IN (SELECT no FROM inbox WHERE address = ? ORDER BY no LIMIT ?)"
                " RETURNING frame",
                (self.address, MOST),
            )
        )
        for (data,) in rows:
            try:
                self._claimed += frame.decode(data)
            except StoreDamaged:
                continue  # The request times out, and says so.

    def commit(self) -> None:
        """The transaction was committed."""
        self._ready += self._claimed
        self._claimed = []

    def roll_back(self) -> None:
        """The transaction was rolled back."""
        self._claimed = []

    def take(self) -> list[Message]:
        """What is there to be handed out."""
        ready, self._ready = self._ready, []
        return ready
