"""What tracing costs: the whole way with it, in the ways that people run it."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, ParentBasedTraceIdRatio, Sampler

from telex import Telex
from telex.otel import LIMIT, instrument

from .flow import COUNT, flow
from .measure import Measured, Setting
from .workload import run


class Nowhere(SpanExporter):
    """Takes spans and does nothing: what sending them costs is not ours."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Takes them."""
        return SpanExportResult.SUCCESS


def usual(setting: Setting) -> Measured:
    """As it comes: the sampler records everything, ``limit`` holds what begins here to 100 traces a second."""
    return _traced(setting, ParentBased(ALWAYS_ON), LIMIT)


def ratio(setting: Setting) -> Measured:
    """The sampler records one trace in a hundred; no limit."""
    return _traced(setting, ParentBasedTraceIdRatio(0.01), None)


def everything(setting: Setting) -> Measured:
    """Every trace is recorded; no limit."""
    return _traced(setting, ParentBased(ALWAYS_ON), None)


def _traced(setting: Setting, sampler: Sampler, limit: int | None) -> Measured:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))

    def traced(app: Telex) -> None:
        instrument(app, tracer_provider=provider, limit=limit)

    try:
        return run(flow(setting.store, ["one"], setting.count(COUNT), traced))
    finally:
        provider.shutdown()
