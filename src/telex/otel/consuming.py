"""One source at work: which of its messages get a span, and under which parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.context import Context, attach
from opentelemetry.trace import Link, Span, SpanKind, set_span_in_context

from ..engine import Fetched, Settlement, Source
from ..message import Message
from ..tracing import Handling
from . import attributes as names
from .carrier import PARENT, Unrecorded, is_unrecorded, parent_of, remote
from .spans import HandlingSpan

if TYPE_CHECKING:
    from .tracing import OpenTelemetry


class Messages:
    """A source whose messages are handled one by one: each run is a child of where its message was published."""

    def __init__(self, tracing: OpenTelemetry, source: Source, name: str) -> None:
        self._tracing = tracing
        self._source = source
        self._about = names.of_source(source, name)

    def handling(self, taken: Sequence[Fetched]) -> Handling | None:
        fetched = taken[0]
        text = fetched.message.headers.get(PARENT)
        granted = False
        if text is None:
            granted = self._tracing.begins()
            if not granted:
                return None
        elif is_unrecorded(text):
            return None
        try:
            return self._begin(fetched, granted=granted)
        except Exception as error:
            self._tracing.guard.failed(error)
            return None

    def _begin(self, fetched: Fetched, *, granted: bool) -> Handling | None:
        tracing, above = self._tracing, parent_of(fetched.message.headers)
        if not above.is_valid and not (granted or tracing.begins()):
            return None
        more = {**self._about, **names.of_delivery(fetched, self._source)}
        span = tracing.start("process", "process", fetched.message, SpanKind.CONSUMER, remote(above), more)
        if span.is_recording() if above.is_valid else tracing.begun(span):
            return HandlingSpan(tracing, span, self._about, batch=False)
        return Unwanted(span)

    def prepare(self) -> None:
        attach(set_span_in_context(self._tracing.nobody()))

    def enter(self, message: Message) -> None:
        if PARENT in message.headers:
            attach(set_span_in_context(Unrecorded(message.headers)))


class Batches:
    """A source whose messages are handled together: a run is linked to where each of them was published."""

    def __init__(self, tracing: OpenTelemetry, source: Source, name: str) -> None:
        self._tracing = tracing
        self._source = source
        self._about = names.of_source(source, name)

    def handling(self, taken: Sequence[Fetched]) -> Handling | None:
        try:
            return self._begin(taken)
        except Exception as error:
            self._tracing.guard.failed(error)
            return None

    def _begin(self, taken: Sequence[Fetched]) -> Handling | None:
        tracing = self._tracing
        links = _links_to(taken)
        begins = all(PARENT not in fetched.message.headers for fetched in taken)
        if not links and not (begins and tracing.begins()):
            return None
        channels = {fetched.message.channel for fetched in taken}
        channel = channels.pop() if len(channels) == 1 else self._source.channel
        about = names.operation(tracing.system, "process", "process", channel)
        about |= {**self._about, names.COUNT: len(taken)}
        span = tracing.tracer.start_span(f"process {channel}", Context(), SpanKind.CONSUMER, about, links)
        if span.is_recording() if links else tracing.begun(span):
            return HandlingSpan(tracing, span, self._about, batch=True)
        return Unwanted(span)

    def prepare(self) -> None:
        attach(set_span_in_context(self._tracing.nobody()))

    def enter(self, message: Message) -> None:
        """Several messages, several traces: it stays with nobody's."""


class Unwanted:
    """A run that the sampler does not want; spans that the handler makes belong to its trace all the same."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def enter(self) -> None:
        attach(set_span_in_context(self._span))

    def settled(self, fetched: Fetched, settlement: Settlement, error: BaseException | None) -> Settlement:
        return settlement

    def end(self, *, left: bool) -> None:
        return None


def _links_to(taken: Sequence[Fetched]) -> list[Link]:
    """Links to where the messages of a batch were published, as far as that is recorded."""
    links = []
    for fetched in taken:
        if not is_unrecorded(text := fetched.message.headers.get(PARENT)) and text is not None:
            context = parent_of(fetched.message.headers)
            if context.is_valid and context.trace_flags & 1:
                links.append(Link(context, names.of_message(fetched.message)))
    return links
