"""OpenTelemetry: spans and W3C trace context for every message. Needs ``pip install 'telex[otel]'``."""

from __future__ import annotations

try:
    from opentelemetry.trace import TracerProvider, get_tracer_provider
except ImportError as error:
    raise ImportError("telex.otel needs OpenTelemetry: pip install 'telex[otel]'") from error

from ..app import Telex
from .limit import Limit
from .tracing import SCHEMA, OpenTelemetry

LIMIT = 100

__all__ = ["LIMIT", "instrument"]


def instrument(app: Telex, *, tracer_provider: TracerProvider | None = None, limit: int | None = LIMIT) -> None:
    """Makes spans of everything an application publishes, sends, requests and handles, from its next opening on.

    Messages carry the trace in the headers ``traceparent`` and ``tracestate`` (W3C Trace Context), which stay with them
    through retries, dead letters and redrives: a message's life is one trace. A message that has 32 headers of the
    application's own travels without.

    A message whose trace is not recorded (the publisher's decision, in ``traceparent``) is not recorded when it is
    handled either; the sampler is asked where a trace begins.

    Args:
        app: The application; not open.
        tracer_provider: Where spans go; the global one if None.
        limit: Most traces that begin in this process in a second: a recorded span costs more than a message. What is
            above travels without a trace, and the log says how much that was; where it is handled one may begin.
            Traces that came from elsewhere are always recorded as they say. None: no limit.

    Raises:
        ConfigError: The application is open, or instrumented already.
        ValueError: ``limit`` is less than 1.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"instrument(limit={limit!r}): write a whole number from 1, or None for no limit")
    tracer = (tracer_provider or get_tracer_provider()).get_tracer("telex", schema_url=SCHEMA)
    app.trace(OpenTelemetry(tracer, Limit(limit)))
