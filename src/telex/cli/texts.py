"""Values as texts, for people and for programs."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import msgspec

from ..message import JSON, Message


def plain(value: Any) -> Any:
    """A value as JSON has it: instants in ISO 8601 and UTC, durations in seconds."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def words(value: Any) -> str:
    """A value for people, in one line; a control character in it could rewrite the screen."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return span(value.total_seconds())
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Enum):
        return str(value.value)
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def text_of(message: Message) -> str:
    """The body for people."""
    return message.body.decode("utf-8", "backslashreplace")


def content(message: Message) -> dict[str, Any]:
    """The body for programs: JSON as JSON, a text as a text, anything else in base64."""
    found: dict[str, Any] = {"content_type": message.content_type}
    if message.content_type == JSON:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found["body"] = msgspec.json.decode(message.body)
            return found
    try:
        found["body"] = message.body.decode()
    except UnicodeDecodeError:
        found["body_base64"] = base64.b64encode(message.body).decode()
    return found


def moment(at: datetime) -> str:
    """An instant in local time: without its date if it is of today, without its seconds if not."""
    local = at.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{left:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"


def size(count: float) -> str:
    """Bytes in their largest unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def shorten(text: str, width: int) -> str:
    """The text in at most ``width`` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def squeeze(text: str, width: int) -> str:
    """The text in at most ``width`` characters, without its middle: names differ at their ends."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def plural(count: int, one: str, many: str = "") -> str:
    """``1 dead letter``, ``2 dead letters``, ``12,000 dead letters``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
