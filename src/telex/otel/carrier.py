"""W3C Trace Context in the headers of messages (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

from ..names import HEADER_BYTES, HEADERS

PARENT, STATE = "traceparent", "tracestate"

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_EVEN = "02468ace"
"""Last digits of flags without the sampled one."""
NOWHERE = SpanContext(0, 0, is_remote=True)
"""The context of a message that carries none."""


def parent_of(headers: Mapping[str, str]) -> SpanContext:
    """The context that a message carries; `NOWHERE` if it carries none, or one that breaks the rules."""
    text = headers.get(PARENT)
    found = None if text is None else _PARENT.fullmatch(text)
    if found is None:
        return NOWHERE
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return NOWHERE
    state = headers.get(STATE)
    return SpanContext(
        int(trace, 16),
        int(span, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def is_unrecorded(text: str | None) -> bool:
    """Whether a ``traceparent`` says that nobody records the trace. Asked for each message, so read no further."""
    return text is not None and len(text) == 55 and text[-1] in _EVEN and text.startswith("00-")


def carried(context: SpanContext) -> dict[str, str]:
    """The headers for a context."""
    headers = {PARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state and len(state := context.trace_state.to_header()) <= HEADER_BYTES:
        headers[STATE] = state
    return headers


def joined(headers: Mapping[str, str] | None, trace: dict[str, str]) -> Mapping[str, str]:
    """A message's headers with those of its trace; as they are where both do not fit: a trace never stops a message."""
    if not headers:
        return trace
    together = {name: value for name, value in headers.items() if name not in (PARENT, STATE)}
    together.update(trace)
    if len(together) > HEADERS:
        together.pop(STATE, None)
    return together if len(together) <= HEADERS else headers


def remote(context: SpanContext) -> Context:
    """Nothing but a context that came with a message."""
    return set_span_in_context(NonRecordingSpan(context), Context())


class Unrecorded(NonRecordingSpan):
    """The span of a message whose trace nobody records. What it carries is read only if somebody asks."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def get_span_context(self) -> SpanContext:
        return parent_of(self._headers)

    def __repr__(self) -> str:
        return f"Unrecorded({self.get_span_context()!r})"
