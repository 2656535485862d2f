"""What the log says of a delivery that did not end well: one line each, with what happens next and when."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from .. import events
from ..engine import Fetched
from .decide import Verdict

log = logging.getLogger("telex.delivery")


def retried(source: str, fetched: Fetched, verdict: Verdict, error: BaseException, now: datetime) -> None:
    """An attempt failed and another follows."""
    assert verdict.at is not None
    delay = max(0.0, (verdict.at - now).total_seconds())
    events.RETRIED.log(
        log,
        "%s: message %s failed at attempt %d (%s); next attempt in %s, at %s",
        source,
        fetched.message.id,
        _attempt(fetched),
        verdict.text,
        events.wait(delay),
        f"{verdict.at:%Y-%m-%d %H:%M:%S} UTC",
        **_fields(source, fetched),
        error=events.qualified(error),
        delay=round(delay, 3),
        next_attempt=verdict.at.isoformat(),
    )


def dropped(source: str, fetched: Fetched, error: BaseException) -> None:
    """An attempt failed and no other follows, nor a dead letter: this is a broadcast."""
    events.DROPPED.log(
        log,
        "%s: message %s failed (%s); a broadcast is not tried again and has no dead letters",
        source,
        fetched.message.id,
        events.words(error),
        **_fields(source, fetched),
        error=events.qualified(error),
    )


def dead(source: str, fetched: Fetched, verdict: Verdict, error: BaseException) -> None:
    """A message goes to dead letters."""
    events.DEAD.log(
        log,
        "%s: message %s goes to dead letters as %s at attempt %d (%s); redrive it with: telex dead redrive %s --id %s",
        source,
        fetched.message.id,
        verdict.reason,
        _attempt(fetched),
        events.line(verdict.text),
        source,
        fetched.message.id,
        **_fields(source, fetched),
        error=events.qualified(error),
        reason=verdict.reason,
    )


def discarded(source: str, fetched: Fetched, reason: str) -> None:
    """A message is dropped, as its handler or its expiry wants it."""
    events.DISCARDED.log(
        log,
        "%s: message %s is discarded at attempt %d (%s) and kept nowhere",
        source,
        fetched.message.id,
        _attempt(fetched),
        events.line(reason),
        **_fields(source, fetched),
        reason=events.line(reason),
    )


def isolated(source: str, fetched: Fetched) -> None:
    """A message was lost too often to be handled beside others."""
    events.ISOLATED.log(
        log,
        "%s: message %s came back %d times without an outcome; from now on it is handled alone",
        source,
        fetched.message.id,
        fetched.losses,
        **_fields(source, fetched),
    )


def request_failed(source: str, fetched: Fetched, kind: str, text: str) -> None:
    """A request's handler raised."""
    events.REQUEST_FAILED.log(
        log,
        "%s: request %s failed (%s: %s); the error is its answer",
        source,
        fetched.message.id,
        kind,
        events.line(text),
        **_fields(source, fetched),
        error=kind,
    )


def _attempt(fetched: Fetched) -> int:
    return fetched.failures + fetched.losses + 1


def _fields(source: str, fetched: Fetched) -> dict[str, Any]:
    return {
        "source": source,
        "message_id": fetched.message.id,
        "attempt": _attempt(fetched),
        "trace_id": events.trace_id(fetched.message.headers),
    }
