"""The message: what is stored, delivered, copied to dead letters and sent again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

JSON = "application/json"
BYTES = "application/octet-stream"


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """One message. The id is made once and survives retries, redelivery, dead-lettering and redrive.

    A Struct and not a dataclass: it crosses the engine seam once a message, where a dataclass
    costs several microseconds and this a tenth of one. Array-like, so that an engine which owns its
    storage may write it with one msgpack call (0.15 us); the order of the fields is therefore fixed,
    new ones go to the end with a default.

    Attributes:
        id: 1 to 100 printable ASCII characters. Not a deduplication key: publishing twice stores twice.
        channel: Name of the topic, queue or procedure it was published to.
        body: The encoded body, as it is on the wire.
        key: What order is kept by on ordered channels; 1 to 128 bytes of UTF-8, or None.
        headers: The application's headers; names in lower case. Not to be changed.
        time: When it was published (aware, UTC).
        content_type: ``application/json``, or ``application/octet-stream`` for raw bytes.
        reply_to: Requests only: the inbox of the requester, validated by the engine.
        correlation_id: Requests and replies only: which request this belongs to.
        expires: Requests only: past this instant it is discarded and counted.
        native: What a copy must carry over unchanged (foreign header types, properties); the engine's own.
    """

    id: str
    channel: str
    body: bytes
    time: datetime
    key: str | None = None
    headers: Mapping[str, str] = {}
    content_type: str = JSON
    reply_to: str | None = None
    correlation_id: str | None = None
    expires: datetime | None = None
    native: object = None

    def replace(self, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Message:
        """A copy with another body or other headers, same id. For publish middleware."""
        return msgspec.structs.replace(
            self,
            body=self.body if body is None else body,
            headers=self.headers if headers is None else headers,
        )
