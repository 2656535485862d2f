"""What a handler may decide, and what happens when it fails: verdicts, retry and batch policies."""

from __future__ import annotations

import math
from datetime import timedelta
from random import Random

import msgspec

from .clock import Seconds, seconds
from .errors import ConfigError

YEAR = 366 * 86400.0
"""The longest delay, in seconds."""


class Verdict(Exception):
    """A handler's decision about its delivery, raised. Not a `TelexError`: no ``except TelexError`` swallows it."""


class Reject(Verdict):
    """Dead-letter this message now, without further attempts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryAfter(Verdict):
    """Try again after ``delay``; uses an attempt like any failure."""

    def __init__(self, delay: Seconds, reason: str = "") -> None:
        super().__init__(reason)
        self.delay = duration("RetryAfter(delay=…)", delay)
        self.reason = reason


class Discard(Verdict):
    """Drop this message: it is settled and kept nowhere."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def duration(what: str, value: Seconds, *, least: float = 0.0, most: float = YEAR) -> float:
    """A duration in seconds, checked.

    Raises:
        ConfigError: It is not a finite number or `timedelta` between ``least`` and ``most`` seconds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise ConfigError(f"{what} is {value!r}: write seconds as a number, or a timedelta")
    number = math.inf if isinstance(value, int) and abs(value) > YEAR * 10 else seconds(value)
    if not math.isfinite(number) or not least <= number <= most:
        raise ConfigError(f"{what} is {value!r}: it must lie between {least:g} and {most:g} seconds")
    return number


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed message is tried again, and when it is given up.

    The wait after the n-th failure is ``delay * factor ** (n - 1)``, at most ``max_delay``, then lengthened by up
    to ``jitter`` of itself. Waits are lower bounds.

    Attributes:
        attempts: Failures after which the message is dead-lettered; None never gives up.
        crashes: Losses on trial (process killed while it alone was in hand) after which it is dead-lettered.
        delay: First wait.
        factor: What each further wait is multiplied by, at least 1.
        max_delay: Longest wait before jitter.
        jitter: From 0 to 1: the share by which a wait may be lengthened, drawn at random.
        unless: Exceptions that dead-letter the message at once, the error kept.

    Raises:
        ConfigError: A value is out of its range.
    """

    attempts: int | None = 5
    crashes: int = 3
    delay: Seconds = 1
    factor: float = 2
    max_delay: Seconds = 300
    jitter: float = 0.1
    unless: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts is not None:
            _count("Retry(attempts=…)", self.attempts, "or None to try for ever")
        _count("Retry(crashes=…)", self.crashes)
        duration("Retry(delay=…)", self.delay)
        duration("Retry(max_delay=…)", self.max_delay)
        _number("Retry(factor=…)", self.factor, 1, 1000)
        _number("Retry(jitter=…)", self.jitter, 0, 1)
        if not isinstance(self.unless, tuple) or not all(
            isinstance(e, type) and issubclass(e, Exception) for e in self.unless
        ):
            raise ConfigError(f"Retry(unless=…) is {self.unless!r}: write a tuple of exception classes")

    def wait(self, failures: int, random: Random) -> float:
        """Seconds to wait after the ``failures``-th failure (from 1)."""
        first, most = seconds(self.delay), seconds(self.max_delay)
        try:
            wait = first * self.factor ** (failures - 1)
        except OverflowError:
            wait = most
        return min(wait, most) * (1 + self.jitter * random.random())


class Batch(msgspec.Struct, frozen=True):
    """Hand a handler several messages at once, as ``list[T]``.

    Attributes:
        size: Most messages in a batch.
        wait: How long to wait for a full batch after its first message.

    Raises:
        ConfigError: A value is out of its range.
    """

    size: int = 100
    wait: Seconds = 1

    def __post_init__(self) -> None:
        _count("Batch(size=…)", self.size)
        if self.size > 10_000:
            raise ConfigError(f"Batch(size=…) is {self.size!r}: at most 10000 messages make a batch")
        duration("Batch(wait=…)", self.wait, most=3600)


def _count(what: str, value: object, also: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what} is {value!r}: write a whole number from 1{' ' + also if also else ''}")


def _number(what: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigError(f"{what} is {value!r}: write a number between {least:g} and {most:g}")
