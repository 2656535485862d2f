"""What the log says of a delivery that did not end well: one line each, with what happens next."""

from __future__ import annotations

import logging
from datetime import datetime

from ..engine import Fetched
from .attempt import describe
from .decide import Verdict

log = logging.getLogger("telex.delivery")


def retried(source: str, fetched: Fetched, verdict: Verdict, now: datetime) -> None:
    """An attempt failed and another follows."""
    assert verdict.at is not None
    log.warning(
        "%s: message %s failed at attempt %d (%s); next attempt in %.3g s",
        source,
        fetched.message.id,
        fetched.failures + fetched.losses + 1,
        verdict.text,
        max(0.0, (verdict.at - now).total_seconds()),
    )


def dropped(source: str, fetched: Fetched, error: BaseException) -> None:
    """An attempt failed and no other follows, nor a dead letter: this is a broadcast."""
    log.error(
        "%s: message %s failed (%s); a broadcast is not tried again and has no dead letters",
        source,
        fetched.message.id,
        describe(error),
    )


def dead(source: str, fetched: Fetched, verdict: Verdict) -> None:
    """A message goes to dead letters."""
    log.error(
        "%s: message %s goes to dead letters as %s (%s); redrive it with: telex dead redrive %s --id %s",
        source,
        fetched.message.id,
        verdict.reason,
        verdict.text,
        source,
        fetched.message.id,
    )
