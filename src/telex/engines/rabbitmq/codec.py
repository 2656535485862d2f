"""Messages as AMQP carries them: native properties, and headers that begin with ``telex-``; the body is the body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from struct import Struct
from typing import Any

import msgspec

from ...errors import ConfigError, InvalidMessage
from ...message import JSON, Message
from ...names import check_channel_name
from . import table
from .names import LANE_HEADER, Names

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
OURS = b"telex-"
DROPPED = frozenset((b"x-death", b"x-delivery-count", b"x-acquired-count", b"x-stream-offset", b"CC", b"BCC"))
"""Headers that belong to one delivery or would route a copy: copies go without. A kept ``CC`` sends the copy to a
second queue, a kept ``x-death`` makes the broker drop it as a cycle (both measured on 3.10.8)."""
DROPPED_PREFIXES = (b"x-first-death-", b"x-last-death-")
KEPT = (
    table.CONTENT_ENCODING, table.PRIORITY, table.TYPE, table.APP_ID, table.CLUSTER_ID,
)  # fmt: skip
"""Foreign properties that copies carry. ``user_id`` would close the channel of another user, and ``expiration`` would
throw the copy away."""
HISTORY_BYTES = 16 * 1024
"""Of a message's history of attempts; the oldest go first."""
HEADER_ROOM = 1024
"""Of a frame, for what stands before the headers."""
HEADER_SPARE = 5 * 1024
"""For what copies add: a message that is published, and then neither tried again nor buried, would stop its source."""
PERSISTENT, TRANSIENT = b"\x02", b"\x01"
_u32, _u64 = Struct(">I"), Struct(">Q")
_texts = msgspec.json.Decoder(list[str])
OWN = frozenset(
    b"telex-" + name
    for name in (
        b"time", b"channel", b"key", b"expires", b"lane", b"failures", b"losses", b"redrives", b"trial", b"reason",
        b"text", b"cause", b"died", b"errors", b"copy",
    )
)  # fmt: skip
"""Headers that are fields of a message or of what is known about it."""
WAIT = b"telex-wait-"
"""Begins the headers that lead a message through a ladder."""


class Native(msgspec.Struct, frozen=True):
    """What only AMQP knows about a message, for its copies.

    Attributes:
        headers: Those that are no texts, or have names that are ours to change, in their wire form.
        properties: Foreign properties in their wire form, by flag.
    """

    headers: tuple[table.Item, ...] = ()
    properties: tuple[tuple[int, bytes], ...] = ()


class Counts(msgspec.Struct, frozen=True):
    """What is known about a message in one source besides itself.

    Attributes:
        failures: Attempts settled as RETRY.
        losses: Deliveries that came back unsettled.
        trial: Losses on trial; None: not on trial.
        redrives: How often it was redriven.
        errors: Its attempts, oldest first, as `Settlement.error`.
        copy: On trial: the name of this copy, since it is blamed for what became of it, and not of those before it.
    """

    failures: int = 0
    losses: int = 0
    trial: int | None = None
    redrives: int = 0
    errors: tuple[str, ...] = ()
    copy: str = ""


NONE = Counts()


class Death(msgspec.Struct, frozen=True):
    """Why and when a message died."""

    reason: str
    text: str
    cause: str
    at: datetime | None


class Incoming(msgspec.Struct):
    """A message that came, taken apart.

    Attributes:
        message: As it was published.
        counts: As they were when it was put there.
        returns: How often the broker took it back since.
        death: Dead letters only.
        offset: Streams only.
        lane: As it says itself.
        known: Whether it had an id of its own.
    """

    message: Message
    counts: Counts
    returns: int
    death: Death | None
    offset: int | None
    lane: int | None
    known: bool


# -- out ---------------------------------------------------------------------------------------------------------------


def micros(instant: datetime) -> int:
    """Microseconds since 1970."""
    return (instant - EPOCH) // MICROSECOND


def moment(micro: int) -> datetime:
    """The instant of so many microseconds since 1970."""
    return EPOCH + timedelta(microseconds=micro)


def _moment(micro: int | None) -> datetime | None:
    """The same of what others wrote, who may count in anything; None where there is no such instant."""
    try:
        return None if micro is None else moment(micro)
    except OverflowError:
        return None


def encode(
    message: Message,
    *,
    channel: bool,
    lane: int | None = None,
    counts: Counts = NONE,
    death: Death | None = None,
    waits: Sequence[bytes] = (),
    persistent: bool = True,
    frame_max: int,
    spare: int = 0,
) -> bytes:
    """The payload of the content header of a message.

    Args:
        message: What.
        channel: Whether it must name its channel: the routing key does not.
        lane: Of an ordered channel.
        counts: Of a copy.
        death: Of a dead letter.
        waits: Headers of a ladder.
        persistent: Whether it outlives the broker.
        frame_max: Bytes of a frame; headers do not span frames.
        spare: Bytes of it to be left for what copies add.

    Raises:
        InvalidMessage: Its headers do not fit into a frame.
    """
    at = micros(message.time)
    parts = [table.integer_item(b"telex-time", at)]
    if channel:
        parts.append(table.text_item(b"telex-channel", message.channel.encode()))
    if message.key is not None:
        parts.append(table.text_item(b"telex-key", message.key.encode()))
    if message.expires is not None:
        parts.append(table.integer_item(b"telex-expires", micros(message.expires)))
    if lane is not None:
        parts.append(table.text_item(LANE_HEADER.encode(), b"%d" % lane))
    for name, text in message.headers.items():
        parts.append(table.text_item(name.encode(), text.encode()))
    if waits:
        parts += waits
    native = message.native if isinstance(message.native, Native) else None
    if native is not None:
        # A header that is carried in its own form stands only once.
        replaced = {name.decode("utf-8", "replace").lower() for name, _ in native.headers}
        if replaced:
            parts = [part for part in parts if part[1 : 1 + part[0]].decode("utf-8", "replace") not in replaced]
        parts += [table.raw_item(name, value) for name, value in native.headers]
    if counts is not NONE or death is not None:
        room = frame_max - HEADER_ROOM - sum(map(len, parts))
        parts += _kept(counts, death, room)
    headers = b"".join(parts)
    most = frame_max - HEADER_ROOM - spare
    if len(headers) > most:
        raise InvalidMessage(
            f"the headers have {len(headers)} bytes and this broker takes {most} in a message: "
            "put what is large into the body"
        )
    fields = {
        table.HEADERS: _u32.pack(len(headers)) + headers,
        table.CONTENT_TYPE: table.short(message.content_type.encode()[:255]),
        table.DELIVERY_MODE: PERSISTENT if persistent else TRANSIENT,
        table.MESSAGE_ID: table.short(message.id.encode()),
        table.TIMESTAMP: _u64.pack(max(0, at // 1_000_000)),
    }
    if message.correlation_id is not None:
        fields[table.CORRELATION_ID] = table.short(message.correlation_id.encode()[:255])
    if message.reply_to is not None:
        fields[table.REPLY_TO] = table.short(message.reply_to.encode())
    if native is not None:
        fields.update(native.properties)
    return table.header(len(message.body), fields)


def _kept(counts: Counts, death: Death | None, room: int) -> list[bytes]:
    """Counts and history, cut to fit: the newest attempts stay."""
    parts: list[bytes] = []
    for name, number in ((b"failures", counts.failures), (b"losses", counts.losses), (b"redrives", counts.redrives)):
        if number:
            parts.append(table.integer_item(OURS + name, number))
    if counts.trial is not None:
        parts.append(table.integer_item(b"telex-trial", counts.trial))
        parts.append(table.text_item(b"telex-copy", counts.copy.encode()))
    if death is not None:
        parts.append(table.text_item(b"telex-reason", death.reason.encode()))
        left = max(0, room - sum(map(len, parts)) - 100)
        parts.append(table.text_item(b"telex-text", _cut(death.text, min(2000, left * 2 // 3))))
        parts.append(table.text_item(b"telex-cause", _cut(death.cause, min(1000, left // 3))))
        if death.at is not None:
            parts.append(table.integer_item(b"telex-died", micros(death.at)))
    errors = history(counts.errors, min(HISTORY_BYTES, room - sum(map(len, parts)) - 64))
    if errors:
        parts.append(table.text_item(b"telex-errors", msgspec.json.encode(errors)))
    return parts


def history(errors: Sequence[str], room: int) -> Sequence[str]:
    """The newest attempts that fit into so many bytes of JSON."""
    kept: list[str] = []
    used = 2
    for error in reversed(errors):
        used += len(msgspec.json.encode(error)) + 1
        if used > room:
            break
        kept.append(error)
    return kept[::-1]


def _cut(text: str, most: int) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:most].decode("utf-8", "ignore").encode()


# -- in ----------------------------------------------------------------------------------------------------------------


class Reader:
    """Takes messages apart.

    Args:
        names: For inboxes and topics.
        channel: Of messages that do not say it: the source's, or None where the routing key says it.
        random: Makes ids for messages that have none.
        now: The time of messages that have none.
    """

    def __init__(self, names: Names, channel: str | None, random: Random, now: Any) -> None:
        self._names = names
        self._channel = channel
        self._random = random
        self._now = now

    def read(self, key: bytes, payload: bytes, body: bytes) -> Incoming:
        """One message. Whatever it holds, it becomes one: what cannot be read is left out."""
        try:
            fields = table.properties(payload)
            found = table.items(fields[table.HEADERS][4:]) if table.HEADERS in fields else []
        except table.Damaged:
            fields, found = {}, []
        ours: dict[bytes, bytes] = {}
        headers: dict[str, str] = {}
        foreign: list[table.Item] = []
        for name, value in found:
            if name in OWN or name in DROPPED:
                ours[name] = value
            elif name.startswith(WAIT):
                continue
            elif not name.startswith(DROPPED_PREFIXES):
                text = name.decode("utf-8", "replace")
                headers[text.lower()] = table.shown(value)
                if value[0] != table.TEXT or text.lower() != text or not _is_utf8(value):
                    foreign.append((name, value))
        return self._incoming(key, body, fields, ours, headers, foreign)

    def _incoming(
        self,
        key: bytes,
        body: bytes,
        fields: Mapping[int, bytes],
        ours: Mapping[bytes, bytes],
        headers: dict[str, str],
        foreign: list[table.Item],
    ) -> Incoming:
        properties = [(flag, fields[flag]) for flag in KEPT if flag in fields]
        reply_to = _text(fields.get(table.REPLY_TO))
        if reply_to is not None and not self._names.is_inbox(reply_to):
            properties.append((table.REPLY_TO, fields[table.REPLY_TO]))
            reply_to = None
        id = _text(fields.get(table.MESSAGE_ID))
        known = bool(id) and id is not None and len(id) <= 100 and id.isascii() and id.isprintable()
        if not known or id is None:
            id = f"amqp-{self._random.getrandbits(96):024x}"
        native = Native(tuple(foreign), tuple(properties)) if foreign or properties else None
        message = Message(
            id=id,
            channel=self._channel_of(ours, key),
            body=body,
            time=self._time(ours, fields),
            key=_header_text(ours.get(b"telex-key")),
            headers=headers,
            content_type=_text(fields.get(table.CONTENT_TYPE)) or JSON,
            reply_to=reply_to,
            correlation_id=_text(fields.get(table.CORRELATION_ID)),
            expires=_moment(table.integer(ours.get(b"telex-expires"))),
            native=native,
        )
        return Incoming(
            message=message,
            counts=_counts(ours) if len(ours) > 1 else NONE,
            returns=table.integer(ours.get(b"x-delivery-count")) or 0,
            death=_death(ours),
            offset=table.integer(ours.get(b"x-stream-offset")),
            lane=table.integer(ours.get(b"telex-lane")),
            known=known,
        )

    def _channel_of(self, ours: Mapping[bytes, bytes], key: bytes) -> str:
        named = _header_text(ours.get(b"telex-channel"))
        if named is None:
            if self._channel is not None:
                return self._channel
            named = self._names.channel(key.decode("utf-8", "replace"))
        try:
            return check_channel_name(named)
        except ConfigError:
            return self._channel or "unknown"

    def _time(self, ours: Mapping[bytes, bytes], fields: Mapping[int, bytes]) -> datetime:
        micro = table.integer(ours.get(b"telex-time"))
        if micro is None and table.TIMESTAMP in fields:
            micro = _u64.unpack(fields[table.TIMESTAMP])[0] * 1_000_000
        now: datetime = _moment(micro) or self._now()
        return now


def _counts(ours: Mapping[bytes, bytes]) -> Counts:
    failures = table.integer(ours.get(b"telex-failures")) or 0
    losses = table.integer(ours.get(b"telex-losses")) or 0
    trial = table.integer(ours.get(b"telex-trial"))
    redrives = table.integer(ours.get(b"telex-redrives")) or 0
    errors = _header_text(ours.get(b"telex-errors"))
    if not (failures or losses or redrives or errors) and trial is None:
        return NONE
    kept: tuple[str, ...] = ()
    if errors:
        try:
            kept = tuple(_texts.decode(errors))
        except msgspec.DecodeError:
            kept = ()
    copy = _header_text(ours.get(b"telex-copy")) or ""
    return Counts(max(0, failures), max(0, losses), trial, max(0, redrives), kept, copy)


def _death(ours: Mapping[bytes, bytes]) -> Death | None:
    reason = _header_text(ours.get(b"telex-reason"))
    if reason is None:
        return None
    return Death(
        reason,
        _header_text(ours.get(b"telex-text")) or "",
        _header_text(ours.get(b"telex-cause")) or "",
        _moment(table.integer(ours.get(b"telex-died"))),
    )


def _text(value: bytes | None) -> str | None:
    """A property's text, which has its length in one byte."""
    return None if value is None else value[1:].decode("utf-8", "replace")


def _header_text(value: bytes | None) -> str | None:
    if not value or value[0] not in b"Sx":
        return None
    return value[5:].decode("utf-8", "replace")


def _is_utf8(value: bytes) -> bool:
    try:
        value[5:].decode()
    except UnicodeDecodeError:
        return False
    return True
