"""`telex.tracing.Tracing` for OpenTelemetry: which span begins when, and whose child it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import msgspec
from opentelemetry.context import Context, get_current
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    get_current_span,
)

from ..engine import Letter, Outgoing, Source
from ..features import Features
from ..message import Message
from ..tracing import Consuming, Sending
from . import attributes as names
from .attributes import SCHEMA
from .carrier import PARENT, carried, joined, parent_of, remote
from .consuming import Batches, Messages
from .guard import Guard, harmless
from .limit import Limit
from .spans import SendingSpan

__all__ = ["SCHEMA", "OpenTelemetry"]


class OpenTelemetry:
    """Makes the spans of one application.

    A publish is a child of the current span, or of the ``traceparent`` that the caller gave, and its own context goes
    with the message. Every run of a handler is a child of that context, however late it comes: the header is kept with
    the message, so retries, dead letters and redrives stay in its trace. Batches have many parents, so they are linked.

    Args:
        tracer: Makes spans.
        limit: How many traces may begin here.
        randbytes: For the ids of traces that are not recorded.
    """

    def __init__(self, tracer: Tracer, limit: Limit, randbytes: Callable[[int], bytes] = random.randbytes) -> None:
        self.tracer = tracer
        self._limit = limit
        self._randbytes = randbytes
        self.guard = Guard()
        self.system = "telex"

    def opened(self, features: Features) -> None:
        self.system = features.system or features.engine

    # -- publishing -------------------------------------------------------------------------------------------------

    def sending(self, verb: str, outgoing: Outgoing) -> tuple[Outgoing, Sending | None]:
        message = outgoing.message
        headers = message.headers
        granted = False
        if not headers and not get_current():  # The way that most go where much goes, made short.
            granted = self._limit.take()
            if not granted:
                return outgoing, None
        try:
            span, trace = self._begin(verb, "send", message.channel, headers, message, granted=granted)
        except Exception as error:
            self.guard.failed(error)
            return outgoing, None
        return _stamped(outgoing, trace), None if span is None else SendingSpan(span, self.guard)

    def sending_many(
        self, verb: str, channel: str, headers: Mapping[str, str] | None
    ) -> tuple[Mapping[str, str] | None, Sending | None]:
        try:
            span, trace = self._begin(verb, "send", channel, headers or {}, None)
            together = joined(headers, trace) if trace else headers
        except Exception as error:  # Headers that break a rule raise theirs a moment later.
            self.guard.failed(error)
            return headers, None
        return together, None if span is None else SendingSpan(span, self.guard)

    def emitting(self, verb: str, outgoing: Outgoing) -> Outgoing:
        message = outgoing.message
        try:
            span, trace = self._begin(verb, "create", message.channel, message.headers, message)
            if span is not None:
                span.end()
        except Exception as error:
            self.guard.failed(error)
            return outgoing
        return _stamped(outgoing, trace)

    def replying(self, outgoing: Outgoing, context: Context) -> Outgoing:
        """The reply of a handler whose span is in this context."""
        span = self.start("reply", "send", outgoing.message, SpanKind.PRODUCER, context)
        span.end()
        return _stamped(outgoing, carried(span.get_span_context()))

    def _begin(
        self,
        verb: str,
        type: str,
        channel: str,
        headers: Mapping[str, str],
        message: Message | None,
        *,
        granted: bool = False,
    ) -> tuple[Span | None, dict[str, str] | None]:
        """A span for what is about to be published, and the headers to go with it; None where there is none.

        ``granted``: the limit was asked already.
        """
        above = get_current_span().get_span_context()
        context: Context | None = None
        if not above.is_valid and headers and PARENT in headers:
            above = parent_of(headers)
            context = remote(above)
        if above.is_valid:
            if not above.trace_flags & 1:
                return None, carried(above)
        elif not (granted or self._limit.take()):
            return None, None
        about = names.operation(self.system, verb, type, channel)
        if message is not None:
            about.update(names.of_message(message))
        span = self.tracer.start_span(f"{verb} {channel}", context, SpanKind.PRODUCER, about)
        own = span.get_span_context()
        if span.is_recording() if above.is_valid else self.begun(span):
            return span, carried(own)
        return None, carried(own) if own.is_valid else None

    # -- handling ---------------------------------------------------------------------------------------------------

    def consuming(self, source: Source, name: str, *, batch: bool) -> Consuming:
        return Batches(self, source, name) if batch else Messages(self, source, name)

    def begins(self) -> bool:
        """Whether one more trace may begin here."""
        return self._limit.take()

    def begun(self, span: Span) -> bool:
        """Whether a span that begins a trace is recorded; one that the sampler does not want leaves its place."""
        if span.is_recording():
            return True
        self._limit.back()
        return False

    def nobody(self) -> Span:
        """A span of a trace that nobody records."""
        number = int.from_bytes(self._randbytes(16)) or 1
        return NonRecordingSpan(SpanContext(number, 1, is_remote=True, trace_flags=TraceFlags(0)))

    # -- dead letters -----------------------------------------------------------------------------------------------

    @harmless
    def moved(self, verb: str, letters: Sequence[Letter]) -> None:
        operator = get_current_span().get_span_context()
        links = [Link(operator)] if operator.is_valid else []
        for letter in letters:
            above = parent_of(letter.message.headers)
            if not above.trace_flags & 1:
                continue
            about = names.of_source(letter.source, str(letter.source))
            about |= {names.REASON: letter.reason, names.REDRIVES: letter.redrives + (verb == "redrive")}
            context = remote(above)
            self.start(verb, "settle", letter.message, SpanKind.CLIENT, context, about, links).end()

    # -- spans ------------------------------------------------------------------------------------------------------

    def start(
        self,
        verb: str,
        type: str,
        message: Message,
        kind: SpanKind,
        context: Context,
        more: Mapping[str, names.Value] | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        """A span about one message."""
        about = names.operation(self.system, verb, type, message.channel)
        about.update(names.of_message(message))
        if more:
            about.update(more)
        return self.tracer.start_span(f"{verb} {message.channel}", context, kind, about, links)


def _stamped(outgoing: Outgoing, trace: dict[str, str] | None) -> Outgoing:
    if trace is None:
        return outgoing
    message = outgoing.message
    replaced = msgspec.structs.replace(message, headers=joined(message.headers, trace))
    return msgspec.structs.replace(outgoing, message=replaced)
