"""Spans under way: what is being published, and what is being handled."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, set_span_in_context

from ..delivery.replies import ERROR_HEADER
from ..engine import Decision, Fetched, Settlement
from ..events import line, qualified, words
from ..message import Message
from ..tracing import Handling, Sending
from . import attributes as names
from .carrier import parent_of, remote
from .guard import Guard, harmless

if TYPE_CHECKING:
    from .tracing import OpenTelemetry

_OUTCOMES = {
    Decision.ACCEPT: "accepted",
    Decision.RETRY: "retried",
    Decision.DEAD: "dead",
    Decision.DISCARD: "discarded",
    Decision.TRIAL: "isolated",
}
_VERBS = {Decision.RETRY: "retry", Decision.DEAD: "dead_letter", Decision.DISCARD: "discard"}
"""Settlements with a span of their own: what is not simply done."""


def failed(span: Span, kind: str, text: str) -> None:
    """Marks a span: the class of the error, and its words in one line. No traceback: it may show what a body holds."""
    span.set_attribute(names.ERROR, kind)
    span.set_status(StatusCode.ERROR, line(text))


class SendingSpan(Sending):
    """A publish, send or request, from the call until it is stored or answered."""

    def __init__(self, span: Span, guard: Guard) -> None:
        self._span = span
        self.guard = guard

    def __enter__(self) -> Self:
        self._token = attach(set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        detach(self._token)
        self._end(error)

    @harmless
    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            failed(self._span, qualified(error), words(error))
        self._span.end()

    @harmless
    def stored(self, count: int) -> None:
        self._span.set_attribute(names.COUNT, count)

    @harmless
    def answered(self, reply: Message) -> None:
        context = parent_of(reply.headers)
        if context.is_valid:
            self._span.add_link(context)


class HandlingSpan(Handling):
    """One run of a handler, for one message or a batch."""

    def __init__(self, tracing: OpenTelemetry, span: Span, source: names.Attributes, *, batch: bool) -> None:
        self._tracing = tracing
        self.guard = tracing.guard
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._source = source
        self._batch = batch
        self._failed = 0

    def enter(self) -> None:
        attach(set_span_in_context(self._span))

    def settled(self, fetched: Fetched, settlement: Settlement, error: BaseException | None) -> Settlement:
        try:
            if settlement.decision is Decision.ACCEPT:
                return self._accepted(settlement)
            self._not_accepted(fetched, settlement, error)
        except Exception as failure:
            self.guard.failed(failure)
        return settlement

    def _not_accepted(self, fetched: Fetched, settlement: Settlement, error: BaseException | None) -> None:
        self._failed += 1
        about: names.Attributes = {names.OUTCOME: _OUTCOMES[settlement.decision]}
        if settlement.reason:
            about[names.REASON] = line(settlement.reason)
        if settlement.at is not None:
            about[names.NEXT] = settlement.at.isoformat()
        if not self._batch:
            self._span.set_attributes(about)
        bad = error is not None and settlement.decision is not Decision.DISCARD
        if bad and error is not None:
            failed(self._span, qualified(error), words(error))
        verb = _VERBS.get(settlement.decision)
        if verb is not None:
            self._settle(verb, fetched, about, error if bad else None)

    @harmless
    def end(self, *, left: bool) -> None:
        if left:
            self._span.set_attribute(names.OUTCOME, "interrupted")
        elif self._batch:
            self._span.set_attribute(names.OUTCOME, f"{self._failed} not accepted" if self._failed else "accepted")
        self._span.end()

    def _accepted(self, settlement: Settlement) -> Settlement:
        if not self._batch:
            self._span.set_attribute(names.OUTCOME, "accepted")
        if not any(isinstance(outgoing.to, str) for outgoing in settlement.emit):
            return settlement
        emit = []
        for outgoing in settlement.emit:
            if isinstance(outgoing.to, str):
                kind = outgoing.message.headers.get(ERROR_HEADER)
                if kind is not None:
                    failed(self._span, kind, "")
                outgoing = self._tracing.replying(outgoing, self._context)
            emit.append(outgoing)
        return msgspec.structs.replace(settlement, emit=emit)

    def _settle(self, verb: str, fetched: Fetched, about: names.Attributes, error: BaseException | None) -> None:
        """In the message's own trace, which for a batch is not the trace of its handling."""
        context, links = self._context, list[Link]()
        if self._batch:
            creation = parent_of(fetched.message.headers)
            if creation.is_valid and not creation.trace_flags & 1:
                return
            if creation.is_valid:
                context, links = remote(creation), [Link(self._span.get_span_context())]
        span = self._tracing.start(
            verb, "settle", fetched.message, SpanKind.CLIENT, context, {**self._source, **about}, links
        )
        if error is not None:
            failed(span, qualified(error), words(error))
        span.end()
