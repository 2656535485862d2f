"""Reports as Prometheus reads them: https://prometheus.io/docs/instrumenting/exposition_formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import accumulate

from .. import __version__
from .board import Board
from .vitals import BUCKETS, Report, Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GAUGES = (
    ("ready", "telex_ready_messages", "Messages that could be delivered now."),
    ("retrying", "telex_retrying_messages", "Messages that wait for their next attempt."),
    ("delayed", "telex_delayed_messages", "Delayed sends that are not due yet."),
    ("leased", "telex_leased_messages", "Messages in hand somewhere."),
    ("dead", "telex_dead_letters", "Dead letters."),
    ("oldest", "telex_oldest_message_seconds", "Age of the oldest unsettled message."),
    ("consumers", "telex_consumers", "Processes that consume the source now."),
    ("size", "telex_held_bytes", "Bytes of unsettled messages."),
)

Labels = dict[str, str]
Sample = tuple[Labels, float]


def page(board: Board) -> str:
    """All metrics."""
    reports = board.reports()
    lines: list[str] = []
    for name, kind, help, samples in _families(board, reports):
        if samples:
            lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
            lines += [_line(name, *sample) for sample in samples]
    for line in _histogram(reports):
        lines.append(line)
    return "\n".join(lines) + "\n"


def _families(board: Board, reports: Mapping[int, Report]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    of = [(_worker(worker), report) for worker, report in sorted(reports.items())]
    info = [({"version": __version__, "app": r.app, "engine": r.engine}, 1.0) for _, r in of[:1]]
    yield "telex_info", "gauge", "What runs here.", info
    up = [(labels, float(report.state == "running")) for labels, report in of]
    yield "telex_worker_running", "gauge", "Whether a worker takes messages.", up
    ended = [(_worker(worker), float(count)) for worker, count in board.ended().items()]
    yield "telex_worker_ends_total", "counter", "How often a worker ended and had to be started again.", ended
    problems = [(labels, float(len(report.problems))) for labels, report in of]
    yield "telex_problems", "gauge", "Problems that the worker reports; /ready lists them.", problems
    lag = [(labels, report.lag) for labels, report in of]
    yield "telex_loop_lag_seconds", "gauge", "How late the event loop was at the last look.", lag
    settled = [
        ({**labels, "source": source, "outcome": outcome}, float(count))
        for labels, report in of
        for source, counts in sorted(report.settled.items())
        for outcome, count in counts.items()
    ]
    yield "telex_deliveries_total", "counter", "Deliveries by what became of them.", settled
    running = [
        ({**labels, "source": source}, float(timing.running))
        for labels, report in of
        for source, timing in sorted(report.timings.items())
    ]
    yield "telex_handlers_running", "gauge", "Handlers under way.", running
    for field, name, help in GAUGES:
        found = [(source.source, getattr(source, field)) for source in board.sources()]
        yield name, "gauge", help, [({"source": s}, _number(v)) for s, v in found if v is not None]


def _histogram(reports: Mapping[int, Report]) -> Iterable[str]:
    name = "telex_handler_seconds"
    lines: list[str] = []
    for worker, report in sorted(reports.items()):
        for source, timing in sorted(report.timings.items()):
            lines += _buckets(name, {**_worker(worker), "source": source}, timing)
    return [f"# HELP {name} How long handlers took.", f"# TYPE {name} histogram", *lines] if lines else []


def _buckets(name: str, labels: Labels, timing: Timing) -> Iterator[str]:
    counts = list(accumulate(timing.buckets))
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        yield _line(f"{name}_bucket", {**labels, "le": bound}, count)
    yield _line(f"{name}_sum", labels, timing.total)
    yield _line(f"{name}_count", labels, counts[-1])


def _worker(worker: int) -> Labels:
    return {"worker": str(worker + 1)}


def _number(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.17g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
