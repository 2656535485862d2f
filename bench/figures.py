"""The figures of the embedded engine: what is measured, against what, and what must come out."""

from __future__ import annotations

from collections.abc import Mapping

from . import backlog, commands, flow, idle, imports, peers, pipeline, publishing, raw, requesting, tracing
from .figure import Figure, take
from .measure import Measurement

MEASUREMENTS: Mapping[str, Measurement] = {
    "raw_bulk": raw.bulk,
    "raw_single": raw.single,
    "huey": peers.huey,
    "litequeue": peers.litequeue,
    "persist_queue": peers.persist_queue,
    "one_process": flow.one_process,
    "traced": tracing.usual,
    "traced_ratio": tracing.ratio,
    "traced_everything": tracing.everything,
    "two_processes": flow.two_processes,
    "three_groups": flow.three_groups,
    "three_processes": flow.three_processes,
    "publish_many": publishing.many,
    "ten": publishing.ten,
    "at_once": requesting.at_once,
    "in_flight": requesting.in_flight,
    "one_by_one": requesting.one_by_one,
    "deliver": pipeline.deliver,
    "whole": pipeline.whole,
    "loaded": backlog.loaded,
    "idle": idle.processor,
    "wake": idle.wake,
    "import": imports.time_taken,
    "start": commands.start,
    "status": commands.status,
    "letters": commands.letters,
}
"""By name; each runs in a process of its own."""

RATE = take("one_process")

FIGURES: tuple[Figure, ...] = (
    Figure("peers", "raw: executemany, 1,000 rows a transaction", "/s", ("raw_bulk",), take("raw_bulk")),
    Figure("peers", "raw: a transaction a row", "/s", ("raw_single",), take("raw_single")),
    Figure("peers", "huey, end to end", "/s", ("huey",), take("huey")),
    Figure("peers", "litequeue, end to end", "/s", ("litequeue",), take("litequeue")),
    Figure("peers", "persist-queue, end to end", "/s", ("persist_queue",), take("persist_queue")),
    Figure(
        "flow", "publish, handle, settle; one process", "/s", ("one_process", "huey"), RATE, take("huey"), "huey", 25
    ),
    Figure("flow", "  processor time a message", "us", ("one_process",), take("one_process", "cpu"), most=22),
    Figure(
        "tracing", "traced, at most 100 traces a second", "/s", ("traced", "one_process"),
        take("traced"), RATE, "untraced", 0.75,
    ),
    Figure(
        "tracing", "  one in a hundred by the sampler", "/s", ("traced_ratio", "one_process"),
        take("traced_ratio"), RATE, "untraced",
    ),
    Figure(
        "tracing", "  every span recorded", "/s", ("traced_everything", "one_process"),
        take("traced_everything"), RATE, "untraced",
    ),
    Figure(
        "publish", "publish_many", "/s", ("publish_many", "raw_bulk"),
        take("publish_many"), take("raw_bulk"), "raw", 0.5,
    ),
    Figure(
        "publish", "10 publishers in flight", "/s", ("ten", "raw_single"),
        take("ten"), take("raw_single"), "raw row", 2.5,
    ),
    Figure(
        "processes", "publisher and worker process", "/s", ("two_processes", "one_process"),
        take("two_processes"), RATE, "one process", 1.2,
    ),
    Figure(
        "groups", "three groups, one process; deliveries", "/s", ("three_groups", "one_process"),
        take("three_groups"), RATE, "one group", 1.2,
    ),
    Figure(
        "groups", "three groups, a process each; deliveries", "/s", ("three_processes", "one_process"),
        take("three_processes"), RATE, "one group", 1.5,
    ),
    Figure(
        "requests", "100 requests at once, 100 ms handler", "ms", ("at_once",),
        take("at_once", "seconds", 1e3), most=150,
    ),
    Figure("requests", "requests, 200 in flight, two processes", "/s", ("in_flight",), take("in_flight"), least=10_000),
    Figure("requests", "requests, one at a time, two processes", "/s", ("one_by_one",), take("one_by_one"), least=400),
    Figure("pipeline", "pipeline above nothing, processor time", "us", ("deliver",), take("deliver", "cpu"), most=12),
    Figure("pipeline", "  with publishing, 1,000 in flight", "us", ("whole",), take("whole", "cpu")),
    Figure(
        "backlog", "beside a backlog, one process", "/s", ("loaded", "one_process"),
        take("loaded"), RATE, "empty file", 0.8,
    ),
    Figure("backlog", "  resident memory", "MiB", ("loaded",), take("loaded", "memory", 2**-20), most=300),
    Figure("idle", "idle worker, share of a processor", "%", ("idle",), take("idle", "share", 100), most=1),
    Figure("idle", "wake-up across processes, median", "ms", ("wake",), take("wake", "p50", 1e3)),
    Figure("idle", "wake-up across processes, p99", "ms", ("wake",), take("wake", "p99", 1e3), most=25),
    Figure("import", "import telex", "ms", ("import",), take("import", "seconds", 1e3), most=25),
    Figure("cli", "a command's start over import telex", "ms", ("start",), take("start", "seconds", 1e3), most=60),
    Figure(
        "cli", "status, 1,000 topics, 100 groups", "ms", ("status",), take("status", "seconds", 1e3), most=300
    ),
    Figure("cli", "100,000 dead letters: first line", "ms", ("letters",), take("letters", "first", 1e3), most=300),
    Figure("cli", "  all of them listed", "s", ("letters",), take("letters", "listed")),
    Figure("cli", "  memory of the listing", "MiB", ("letters",), take("letters", "memory", 2**-20), most=100),
    Figure("cli", "  all of them redriven", "s", ("letters",), take("letters", "redriven"), most=30),
)  # fmt: skip
