"""A tracing system that fails must not fail a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ..events import TRACING_FAILED, qualified, words

log = logging.getLogger("telex.otel")

QUIET = 60.0
"""Seconds between two lines about it."""


class Guard:
    """Says that tracing fails, once a minute."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told = float("-inf")

    def failed(self, error: Exception) -> None:
        """An exporter, a processor or a sampler raised."""
        now = self._monotonic()
        if now - self._told >= QUIET:
            self._told = now
            text = "tracing failed (%s); messages go on without, and this is said once a minute"
            TRACING_FAILED.log(log, text, words(error), error=qualified(error))


class Guarded(Protocol):
    """What has a guard."""

    guard: Guard


P = ParamSpec("P")
G = TypeVar("G", bound=Guarded)


def harmless(method: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], None]:
    """A method that raises nothing."""

    def call(self: G, /, *arguments: P.args, **named: P.kwargs) -> None:
        try:
            method(self, *arguments, **named)
        except Exception as error:
            self.guard.failed(error)

    return call
