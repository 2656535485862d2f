"""FILTER: which dead letters a command is about."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..app import Telex
from ..deadletters import DeadLetters
from ..deadreason import DeadReason
from ..errors import ConfigError
from . import values
from .output import Output

FIELDS = ("id", "reason", "error", "key", "since", "until")


def add(one: ArgumentParser) -> None:
    """Adds the source and the filter's options."""
    one.add_argument(
        "source", nargs="?", type=values.source, metavar="SOURCE", help="for example emails or orders.placed/billing"
    )
    one.add_argument("--id", action="append", default=[], metavar="ID", help="this message; may be repeated")
    reasons = [reason.value for reason in DeadReason]
    one.add_argument("--reason", choices=reasons, metavar="REASON", help=f"why it died: {', '.join(reasons)}")
    one.add_argument("--error", metavar="CLASS", help="class of the last error, bare or qualified")
    one.add_argument("--key", metavar="KEY", help="messages with this key")
    one.add_argument("--since", type=values.instant, metavar="-2h|ISO", help="died at or after")
    one.add_argument("--until", type=values.instant, metavar="-1h|ISO", help="died before")
    one.add_argument("--limit", type=values.count, metavar="N", help="at most N")


def given(arguments: Namespace) -> bool:
    """Whether there is any filter."""
    return any(getattr(arguments, field) for field in FIELDS)


def letters(app: Telex, arguments: Namespace) -> DeadLetters:
    """The dead letters that are asked for.

    Raises:
        ConfigError: The filter can never be true.
    """
    if arguments.since is not None and arguments.until is not None and arguments.since >= arguments.until:
        raise ConfigError("--since is not before --until: no dead letter can lie between them")
    return app.dead_letters(arguments.source).where(
        ids=arguments.id,
        reason=None if arguments.reason is None else DeadReason(arguments.reason),
        error=arguments.error,
        key=arguments.key,
        since=arguments.since,
        until=arguments.until,
    )


def partly(letters: DeadLetters, output: Output) -> None:
    """Says so, where the broker has shown a part only."""
    if not letters.complete:
        output.note(
            "the engine shows a part of its dead letters only: there may be more; ask again when these are gone"
        )


def words(arguments: Namespace) -> list[str]:
    """The source and the filter as they would be typed again."""
    found = [arguments.source] if arguments.source else []
    for id in arguments.id:
        found += ["--id", id]
    for field in ("reason", "error", "key"):
        if (value := getattr(arguments, field)) is not None:
            found += [f"--{field}", value]
    for field in ("since", "until"):
        if (instant := getattr(arguments, field)) is not None:
            found += [f"--{field}", instant.isoformat(timespec="seconds")]
    return found
