"""Every decision about a delivery, on one page, as pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import msgspec

from ..deadreason import DeadReason
from ..engine import Decision, Fetched
from ..errors import Undecodable
from ..events import words
from ..policy import Discard, Reject, Retry, RetryAfter
from .attempt import printable

SUSPECT = 2
"""Losses after which an unordered message is handled alone: one may be bad luck, two deserve a trial."""


class Verdict(msgspec.Struct, frozen=True):
    """What to do with one delivery.

    Attributes:
        decision: For the engine.
        at: RETRY: the earliest instant of the next attempt.
        reason: DEAD: a `DeadReason` value; DISCARD: the handler's words.
        text: For people.
    """

    decision: Decision
    at: datetime | None = None
    reason: str = ""
    text: str = ""


ACCEPTED = Verdict(Decision.ACCEPT)
ISOLATED = Verdict(Decision.TRIAL)


def admit(fetched: Fetched, retry: Retry, *, ordered: bool) -> Verdict | None:
    """Before the handler runs: the verdict on a message that was lost too often, or None to run it."""
    if fetched.trial is not None:
        if fetched.trial < retry.crashes:
            return None
        text = f"on trial, it came back unsettled {fetched.trial} times: its process died or ended in its handler"
        return Verdict(Decision.DEAD, reason=DeadReason.CRASHED.value, text=text)
    if fetched.losses >= SUSPECT and not ordered:
        return ISOLATED
    return None


def decide(failures: int, retry: Retry, error: BaseException | None, now: datetime, random: Random) -> Verdict:
    """After the handler ran.

    Args:
        failures: Failures before this attempt.
        retry: The source's policy.
        error: What it raised; None if it returned.
        now: The wall clock.
        random: For jitter.
    """
    match error:
        case None:
            return ACCEPTED
        case Discard():
            return Verdict(Decision.DISCARD, reason=printable(error.reason) or "discarded by the handler")
        case Reject():
            return Verdict(Decision.DEAD, reason=DeadReason.REJECTED.value, text=printable(error.reason))
        case Undecodable():
            return Verdict(Decision.DEAD, reason=DeadReason.UNDECODABLE.value, text=printable(str(error)))
    text = words(error)
    if isinstance(error, retry.unless):
        return Verdict(Decision.DEAD, reason=DeadReason.REJECTED.value, text=text)
    if retry.attempts is not None and failures + 1 >= retry.attempts:
        return Verdict(Decision.DEAD, reason=DeadReason.EXHAUSTED.value, text=text)
    wait = error.delay if isinstance(error, RetryAfter) else retry.wait(failures + 1, random)
    return Verdict(Decision.RETRY, at=now + timedelta(seconds=wait), text=text)
