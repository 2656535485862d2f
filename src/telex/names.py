"""Names and the other texts of a message: what is allowed, and an error that says so."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from .clock import Seconds
from .errors import ConfigError, InvalidMessage
from .policy import YEAR

NAME_BYTES = 60
GROUP_BYTES = 40
ID_LENGTH = 100
KEY_BYTES = 128
HEADERS = 32
HEADER_BYTES = 4096
RESERVED = "telex-"

_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*", re.ASCII)
_PATTERN = re.compile(r"([a-z0-9_]+|\*|#)(\.([a-z0-9_]+|\*|#))*", re.ASCII)
_GROUP = re.compile(r"[a-z0-9_.-]+", re.ASCII)
_ID = re.compile(r"[!-~]([ -~]*[!-~])?", re.ASCII)
_HEADER = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)


def check_channel_name(name: object) -> str:
    """The name of a channel.

    Raises:
        ConfigError: It is not words of ``[a-z0-9_]`` joined by dots, 60 bytes at most.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_BYTES:
        raise ConfigError(
            f"channel name {name!r}: write words of a-z, 0-9 and _ joined by dots, at most {NAME_BYTES} characters, "
            "for example 'orders.placed'"
        )
    return name


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern over topics."""
    return "*" in name or "#" in name


def check_pattern(name: object) -> str:
    """The name of a topic, or a pattern: ``*`` is one word, ``#`` zero or more.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(name, str) and is_pattern(name):
        if not _PATTERN.fullmatch(name) or len(name) > NAME_BYTES:
            raise ConfigError(
                f"pattern {name!r}: write words joined by dots, where * stands for one word and # for any number, "
                "for example 'orders.*'"
            )
        return name
    return check_channel_name(name)


def matches(pattern: str, name: str) -> bool:
    """Whether a topic's name fits a pattern."""
    return _match(pattern.split("."), name.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    """One row of a table per word of the pattern: a greedy walk would take exponential time on ``#.#.#``."""
    fits = [True] + [False] * len(words)
    for part in pattern:
        if part == "#":
            for i in range(1, len(fits)):
                fits[i] = fits[i] or fits[i - 1]
            continue
        fits = [False] + [fits[i] and part in ("*", word) for i, word in enumerate(words)]
    return fits[-1]


def check_group(name: object) -> str:
    """The name of a group.

    Raises:
        ConfigError: It is not 1 to 40 characters of ``[a-z0-9_.-]``.
    """
    if not isinstance(name, str) or not _GROUP.fullmatch(name) or len(name) > GROUP_BYTES:
        raise ConfigError(
            f"group {name!r}: write 1 to {GROUP_BYTES} characters of a-z, 0-9, _, . and -, for example 'billing'"
        )
    return name


def check_app_name(name: object) -> str:
    """The name of an application, which is its default group.

    Raises:
        ConfigError: It is not fit for a group's name.
    """
    try:
        return check_group(name)
    except ConfigError as error:
        raise ConfigError(f"Telex(name={name!r}): it is the default group; {error}") from None


def parse_source(text: str) -> tuple[str, str | None]:
    """``orders.placed/billing`` as name and group; a queue has no group.

    Raises:
        ConfigError: It is no source's text form.
    """
    name, slash, group = text.partition("/")
    return check_pattern(name), check_group(group) if slash else None


def check_id(id: object) -> str:
    """A message id of the application's own.

    Raises:
        InvalidMessage: It is not 1 to 100 printable ASCII characters.
    """
    if not isinstance(id, str) or not 1 <= len(id) <= ID_LENGTH or not _ID.fullmatch(id):
        raise InvalidMessage(f"message id {id!r}: write 1 to {ID_LENGTH} printable ASCII characters")
    return _plain(id)


def check_key(key: object) -> str:
    """A message's key.

    Raises:
        InvalidMessage: It is not 1 to 128 bytes of UTF-8.
    """
    if isinstance(key, str):
        key, size = _plain(key), 0
        if key.isascii():
            size = len(key)
        else:
            with contextlib.suppress(UnicodeEncodeError):
                size = len(key.encode())
        if 1 <= size <= KEY_BYTES:
            return key
    raise InvalidMessage(f"key {key!r}: write a text of 1 to {KEY_BYTES} bytes in UTF-8, or None for no key")


def check_headers(headers: object) -> Mapping[str, str]:
    """A message's headers, copied.

    Raises:
        InvalidMessage: Too many, or a name or value breaks a rule.
    """
    if not isinstance(headers, Mapping):
        raise InvalidMessage(f"headers {headers!r}: write a mapping of names to texts")
    if len(headers) > HEADERS:
        raise InvalidMessage(f"{len(headers)} headers: at most {HEADERS} fit")
    for name, value in headers.items():
        _check_header(name, value)
    return {_plain(name): _plain(value) for name, value in headers.items()}


def _check_header(name: object, value: object) -> None:
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise InvalidMessage(f"header name {name!r}: write 1 to 64 characters of a-z, 0-9 and -")
    if name.startswith(RESERVED):
        raise InvalidMessage(f"header name {name!r}: names that begin with {RESERVED} are reserved; choose another")
    if not isinstance(value, str):
        raise InvalidMessage(f"header {name}={value!r}: write a text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidMessage(f"header {name}: its value is not valid Unicode") from None
    if size > HEADER_BYTES:
        raise InvalidMessage(f"header {name}: its value has {size} bytes, at most {HEADER_BYTES} fit")


def check_delay(delay: Seconds | datetime, now: datetime) -> datetime | None:
    """When a delayed send is due; None for at once.

    Raises:
        InvalidMessage: It is no duration or aware datetime, negative, or more than a year away.
    """
    if isinstance(delay, datetime):
        if delay.tzinfo is None:
            raise InvalidMessage(f"delay {delay!r}: the datetime has no time zone; add tzinfo=UTC or your own")
        wait = (delay - now).total_seconds()
        if wait <= 0:
            return None
    elif isinstance(delay, timedelta):
        wait = delay.total_seconds()
    elif isinstance(delay, (int, float)) and not isinstance(delay, bool):
        wait = float(delay) if abs(delay) <= YEAR else math.inf
    else:
        raise InvalidMessage(f"delay {delay!r}: write seconds, a timedelta or an aware datetime")
    if not math.isfinite(wait) or not 0 <= wait <= YEAR:
        raise InvalidMessage(f"delay {delay!r}: it must lie between now and a year from now")
    return now + timedelta(seconds=wait) if wait else None


def _plain(text: str) -> str:
    """The same text without its class: markup of web frameworks derives from str, and engines write only str itself."""
    return text if type(text) is str else str.__str__(text)
