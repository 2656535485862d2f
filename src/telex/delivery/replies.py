"""Answering a request: the reply leaves with the request's settlement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ..engine import Fetched, Outgoing
from ..errors import MessageTooLarge
from ..ids import emission_id
from ..message import JSON, Message

ERROR_HEADER = "telex-error"
TEXT = 2_000
"""Characters of an error's text that travel."""


def answer(fetched: Fetched, source: str, now: datetime, body: bytes, content_type: str) -> Sequence[Outgoing]:
    """The reply with the handler's answer; nothing if nobody asked for one."""
    return _reply(fetched.message, source, now, body, content_type, {})


def failure(fetched: Fetched, source: str, now: datetime, kind: str, text: str) -> Sequence[Outgoing]:
    """The reply that says how the handler failed; becomes a `RemoteError` at the requester."""
    body = msgspec.json.encode(text.encode("utf-8", "backslashreplace").decode()[:TEXT])
    return _reply(fetched.message, source, now, body, JSON, {ERROR_HEADER: kind})


def checked(body: bytes, limit: int) -> bytes:
    """The body of an answer, if the engine takes it.

    Raises:
        MessageTooLarge: It does not.
    """
    if len(body) > limit:
        raise MessageTooLarge(len(body), limit)
    return body


def _reply(
    request: Message, source: str, now: datetime, body: bytes, content_type: str, headers: dict[str, str]
) -> Sequence[Outgoing]:
    if request.reply_to is None:
        return ()
    reply = Message(
        id=emission_id(request.id, source, 0),
        channel=request.channel,
        body=body,
        time=now,
        headers=headers,
        content_type=content_type,
        correlation_id=request.correlation_id or request.id,
        expires=request.expires,
    )
    return (Outgoing(request.reply_to, reply),)
