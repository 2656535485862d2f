"""What Telex writes to the log: every event with its level and fields, so that names stay stable.

A record carries its event's name and fields as attributes (``extra`` of `logging`), beside the line for people. Names
and fields do not change within a major version; the words of a line may. No field and no line shows a body, a
password or a header other than the trace's id; what an application's own exception says is shown as it says it, in
one line of at most 500 characters.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec

TEXT = 500
"""Characters of an error's text in a line."""
TRACEPARENT = "traceparent"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Event(msgspec.Struct, frozen=True):
    """Something that is worth a line.

    Attributes:
        name: Stable, for filters and alerts.
        level: Of the record.
        fields: Attributes of the record besides ``event``.
        means: What happened and what follows, for the documents.
    """

    name: str
    level: int
    fields: tuple[str, ...]
    means: str

    def log(
        self,
        logger: logging.Logger,
        text: str,
        *arguments: object,
        exc_info: BaseException | None = None,
        **fields: object,
    ) -> None:
        """Writes the line with its fields, in the caller's name; with a traceback only for what is our own mistake."""
        if logger.isEnabledFor(self.level):
            extra = {"event": self.name, **fields}
            logger.log(self.level, text, *arguments, exc_info=exc_info, extra=extra, stacklevel=2)


def line(text: object) -> str:
    """A text that others wrote, fit for a line of the log: one line, no control characters, not endless."""
    return _UNPRINTABLE.sub(" ", str(text)[: TEXT * 2]).strip()[:TEXT]


def said(error: BaseException) -> str:
    """What an error says. One that fails even at that must not stop what follows."""
    try:
        return str(error)
    except Exception as broken:
        return f"(its text cannot be had: {type(broken).__name__})"


def words(error: BaseException) -> str:
    """An error in one line: its class and what it says."""
    text = said(error)
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(words(one) for one in error.exceptions[:5])
    text = line(text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def qualified(error: BaseException) -> str:
    """The class of an error, with its module."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def trace_id(headers: Mapping[str, str]) -> str:
    """The id of the trace a message belongs to (W3C Trace Context, ``traceparent``); empty if it belongs to none."""
    found = _TRACE.fullmatch(headers.get(TRACEPARENT, ""))
    return found[1] if found else ""


def wait(seconds: float) -> str:
    """How long, for people."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


_MESSAGE = ("source", "message_id", "attempt", "trace_id")

STARTED = Event("telex.started", logging.INFO, ("app", "sources"), "The handlers run.")
STOPPING = Event(
    "telex.stopping", logging.INFO, ("signal", "grace"), "Told to stop: takes nothing new and finishes what runs."
)
STOPPED = Event("telex.stopped", logging.INFO, ("app",), "The handlers have ended.")
CUT_SHORT = Event(
    "telex.cut_short",
    logging.WARNING,
    ("reason", "grace"),
    "Handlers still ran when the grace was over (``reason=grace``) or a second signal came (``reason=signal``). "
    "Their messages come back.",
)
INTERRUPTED = Event(
    "telex.interrupted", logging.WARNING, ("source", "message_id"), "One of those handlers; its message comes back."
)
RETRIED = Event(
    "telex.retried",
    logging.WARNING,
    (*_MESSAGE, "error", "delay", "next_attempt"),
    "An attempt failed; the next is made after ``delay`` seconds, at ``next_attempt``.",
)
DEAD = Event(
    "telex.dead",
    logging.ERROR,
    (*_MESSAGE, "error", "reason"),
    "A message went to dead letters and waits for somebody to redrive or discard it.",
)
DROPPED = Event(
    "telex.dropped",
    logging.ERROR,
    (*_MESSAGE, "error"),
    "A handler of a broadcast failed; a broadcast is not tried again and has no dead letters.",
)
SLOT_BROKEN = Event(
    "telex.slot_broken",
    logging.ERROR,
    ("source", "error"),
    "Handling a message failed outside its handler; that counts as a failure of the message, and the source goes on.",
)
DISCARDED = Event(
    "telex.discarded",
    logging.INFO,
    (*_MESSAGE, "reason"),
    "A handler raised Discard, or a request expired before it was handled; the message is gone.",
)
ISOLATED = Event(
    "telex.isolated",
    logging.WARNING,
    _MESSAGE,
    "A message came back twice without an outcome; it is handled alone from now on, to see whether it kills its "
    "process.",
)
REQUEST_FAILED = Event(
    "telex.request_failed",
    logging.WARNING,
    (*_MESSAGE, "error"),
    "A procedure's handler raised; the requester gets a RemoteError.",
)
LEASE_LOST = Event(
    "telex.lease_lost",
    logging.WARNING,
    ("source", "message_id"),
    "Another worker took a message over before its outcome was stored; its handler may run twice.",
)
SETTLE_UNCERTAIN = Event(
    "telex.settle_uncertain",
    logging.WARNING,
    ("source", "message_id"),
    "The engine does not know whether an outcome was stored; the handler may run twice.",
)
SETTLE_FAILING = Event(
    "telex.settle_failing",
    logging.ERROR,
    ("source", "messages", "delay"),
    "Outcomes cannot be stored; they are tried again after ``delay`` seconds and the source takes nothing new "
    "meanwhile.",
)
SETTLE_RECOVERED = Event(
    "telex.settle_recovered", logging.INFO, ("source",), "Outcomes are stored again; the source goes on."
)
SETTLE_BROKEN = Event(
    "telex.settle_broken",
    logging.ERROR,
    ("source", "error"),
    "The engine broke its contract while settling; the messages come back.",
)
FETCH_FAILING = Event(
    "telex.fetch_failing",
    logging.ERROR,
    ("source", "error", "delay"),
    "Nothing can be fetched; tried again after ``delay`` seconds.",
)
FETCH_RECOVERED = Event("telex.fetch_recovered", logging.INFO, ("source",), "Messages are fetched again.")
INBOX_FAILING = Event(
    "telex.inbox_failing",
    logging.ERROR,
    ("error", "delay"),
    "Answers cannot be read; requests time out until they can. Tried again after ``delay`` seconds.",
)
MOVE_UNCERTAIN = Event(
    "telex.move_uncertain",
    logging.WARNING,
    ("source", "messages", "verb"),
    "The broker did not say whether dead letters were redriven or discarded (``verb``); they may still be there, with "
    "the same ids.",
)
TRACES_LIMITED = Event(
    "telex.traces_limited",
    logging.WARNING,
    ("limit", "unrecorded"),
    "More traces began here than are recorded a second; ``unrecorded`` since the last such line, which comes at most "
    "once a minute.",
)
TRACING_FAILED = Event(
    "telex.tracing_failed",
    logging.ERROR,
    ("error",),
    "OpenTelemetry, a processor or a sampler of yours raised; messages go on untraced. At most once a minute.",
)
HEALTH = Event("telex.health", logging.INFO, ("host", "port"), "`telex run` answers probes and metrics here.")
RELOADED = Event("telex.reloaded", logging.INFO, ("file",), "A file changed; `telex run --reload` starts again.")
WORKER_ENDED = Event(
    "telex.worker_ended",
    logging.ERROR,
    ("worker", "how", "delay"),
    "A process of `telex run` ended by itself; another is started after ``delay`` seconds, with `--reload` when a "
    "file changes.",
)
VITALS_FAILING = Event(
    "telex.vitals_failing",
    logging.ERROR,
    ("error",),
    "A process of `telex run` cannot say how it or its sources are; it handles messages all the same and tries again.",
)
STORE_FAILING = Event(
    "telex.store_failing",
    logging.ERROR,
    ("error",),
    "The embedded store cannot work; publishers get errors and outcomes wait until it can.",
)
STORE_RECOVERED = Event("telex.store_recovered", logging.INFO, (), "The embedded store works again.")
NOT_EMITTED = Event(
    "telex.not_emitted",
    logging.WARNING,
    ("message_id", "error"),
    "What a handler sent could not be stored, although the handler's message is settled.",
)
EMISSION_REFUSED = Event(
    "telex.emission_refused",
    logging.ERROR,
    ("message_id", "error"),
    "A handler emits to a channel that is another one by now; the handler's message becomes a dead letter.",
)
SOURCE_REMOVED = Event(
    "telex.source_removed",
    logging.WARNING,
    ("source",),
    "A source was removed while this process consumes it; nothing comes until it is made again.",
)
DAMAGED = Event(
    "telex.damaged",
    logging.ERROR,
    ("source", "message_id"),
    "A message's bytes in the store are not what was written; its place is kept as a dead letter.",
)
DAMAGED_KEPT = Event(
    "telex.damaged_kept",
    logging.WARNING,
    ("source", "message_id"),
    "A redrive left a damaged message in dead letters: what was published is lost.",
)
BROKER_TROUBLE = Event(
    "telex.broker_trouble",
    logging.WARNING,
    (),
    "An engine has trouble with its broker, and goes on trying; the line says what, and what follows.",
)
CONNECTED = Event("telex.connected", logging.INFO, (), "The broker can be reached again.")
LATE = Event(
    "telex.late",
    logging.WARNING,
    ("lease",),
    "This process stood still for longer than its lease: others took its messages, which may run twice.",
)
MEMBER_LOST = Event(
    "telex.member_lost",
    logging.WARNING,
    ("member", "messages"),
    "Another process of the embedded store ended or stands still; its messages come back.",
)

EVENTS: tuple[Event, ...] = (
    STARTED,
    STOPPING,
    STOPPED,
    CUT_SHORT,
    INTERRUPTED,
    RETRIED,
    DEAD,
    DROPPED,
    SLOT_BROKEN,
    DISCARDED,
    ISOLATED,
    REQUEST_FAILED,
    LEASE_LOST,
    SETTLE_UNCERTAIN,
    SETTLE_FAILING,
    SETTLE_RECOVERED,
    SETTLE_BROKEN,
    FETCH_FAILING,
    FETCH_RECOVERED,
    INBOX_FAILING,
    MOVE_UNCERTAIN,
    TRACES_LIMITED,
    TRACING_FAILED,
    HEALTH,
    RELOADED,
    WORKER_ENDED,
    STORE_FAILING,
    STORE_RECOVERED,
    NOT_EMITTED,
    EMISSION_REFUSED,
    SOURCE_REMOVED,
    DAMAGED,
    DAMAGED_KEPT,
    BROKER_TROUBLE,
    CONNECTED,
    LATE,
    MEMBER_LOST,
)
"""All of them."""
_BY_NAME = {event.name: event for event in EVENTS}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The event's name and fields of a record of Telex's; empty for any other record."""
    event = _BY_NAME.get(getattr(record, "event", ""))
    if event is None:
        return {}
    return {"event": event.name, **{field: getattr(record, field) for field in event.fields}}
