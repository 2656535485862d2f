"""Spans: one message's life is one trace, whatever becomes of it, and shows nothing of what is in it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from telex import (
    Batch,
    ConfigError,
    Delivery,
    Discard,
    InvalidMessage,
    Message,
    Procedure,
    Queue,
    Reject,
    RemoteError,
    Retry,
    Telex,
    Topic,
)
from telex.events import fields_of
from telex.otel import LIMIT, instrument
from telex.sync import Client
from telex.testing import Harness

SECRET = "s3cr3t-b0dy"
jobs = Queue("jobs", Any)
mails = Queue("mails", Any)
placed = Topic("orders.placed", Any, ordered=True, key=lambda order: "k")
ask = Procedure("ask", Any, Any)
ONCE = Retry(attempts=1)


@dataclass
class Traces:
    """Where spans go, and what they say."""

    sampler: Sampler = field(default_factory=lambda: ParentBased(ALWAYS_ON))

    def __post_init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=self.sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("the application")

    def instrument(self, app: Telex, limit: int | None = None) -> Telex:
        instrument(app, tracer_provider=self.provider, limit=limit)
        return app

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    yield traces
    for span in traces.spans:  # Whatever a test did: nothing of a body, and nothing that the conventions do not know.
        assert SECRET not in span.to_json()
        assert span.instrumentation_scope is not None
        if span.instrumentation_scope.name == "telex":
            about = attributes(span)
            assert {"messaging.system", "messaging.operation.name", "messaging.operation.type"} <= about.keys()
            assert span.name == f"{about['messaging.operation.name']} {about['messaging.destination.name']}"
            assert all(name.startswith(("messaging.", "telex.", "error.type")) for name in about)
            assert about["messaging.system"] == "telex"
    traces.provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def run(main: Any, seconds: float = 20) -> Any:
    return asyncio.run(asyncio.wait_for(main, seconds))


def test_a_life_with_retries_a_dead_letter_and_a_redrive_is_one_trace(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))
    broken = True

    @app.subscribe(placed, group="billing", retry=Retry(attempts=3, delay=60, jitter=0))
    async def bill(order: Any) -> None:
        if broken:
            raise TimeoutError("the bank\nis slow")

    async def main() -> None:
        nonlocal broken
        async with Harness(app) as harness:
            await app.publish(placed, SECRET, id="m1")
            await harness.drain()
            broken = False
            with traces.tracer.start_as_current_span("the operator"):
                assert await app.dead_letters(placed, group="billing").redrive() == 1
            await harness.drain()

    run(main())
    published, operator = traces.one("publish orders.placed"), traces.one("the operator")
    life = [span for span in traces.spans if trace_of(span) == trace_of(published)]
    assert {trace_of(span) for span in traces.spans} == {trace_of(published), trace_of(operator)}
    assert [span.name.partition(" ")[0] for span in life] == [
        *("publish", "process", "retry", "process", "retry", "process", "dead_letter", "redrive", "process"),
    ]
    processed = traces.named("process orders.placed")
    assert {parent(span) for span in processed} == {own(published)}
    assert [attributes(span)["telex.attempt"] for span in processed] == [1, 2, 3, 1]
    assert [attributes(span)["telex.outcome"] for span in processed] == ["retried", "retried", "dead", "accepted"]
    assert [span.status.status_code for span in processed] == [StatusCode.ERROR] * 3 + [StatusCode.UNSET]
    assert processed[0].status.description == "TimeoutError: the bank is slow"
    assert attributes(processed[0]) == {
        "messaging.system": "telex",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders.placed",
        "messaging.destination.partition.id": attributes(processed[0])["messaging.destination.partition.id"],
        "messaging.consumer.group.name": "billing",
        "messaging.message.id": "m1",
        "telex.source": "orders.placed/billing",
        "telex.attempt": 1,
        "telex.outcome": "retried",
        "telex.next_attempt": "2030-01-01T00:01:00+00:00",
        "error.type": "TimeoutError",
    }
    assert {span.kind for span in processed} == {SpanKind.CONSUMER}
    assert (published.kind, published.parent) == (SpanKind.PRODUCER, None)
    assert attributes(published)["messaging.operation.type"] == "send"
    buried = traces.one("dead_letter orders.placed")
    assert (buried.kind, parent(buried)) == (SpanKind.CLIENT, own(processed[2]))
    assert (attributes(buried)["telex.reason"], attributes(buried)["error.type"]) == ("exhausted", "TimeoutError")
    redriven = traces.one("redrive orders.placed")
    assert parent(redriven) == own(published)
    assert [link.context.span_id for link in redriven.links] == [own(operator)]
    assert attributes(redriven)["telex.redrives"] == 1


def test_emissions_and_the_handlers_own_spans_are_children_of_its_run(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))
    app.receive(mails)(nothing)

    @app.receive(jobs)
    async def work(job: Any, delivery: Delivery) -> None:
        with traces.tracer.start_as_current_span("inside"):
            delivery.send(mails, SECRET)
        delivery.publish(placed, SECRET)

    async def main() -> None:
        async with Harness(app) as harness:
            with traces.tracer.start_as_current_span("a request of the web"):
                await app.send(jobs, SECRET)
            await harness.drain()

    run(main())
    web, sent, worked = traces.one("a request of the web"), traces.one("send jobs"), traces.one("process jobs")
    inside, emitted, mailed = traces.one("inside"), traces.one("send mails"), traces.one("process mails")
    chain = [(sent, web), (worked, sent), (inside, worked), (emitted, inside), (mailed, emitted)]
    assert [parent(child) == own(above) for child, above in chain] == [True] * 5
    assert parent(traces.one("publish orders.placed")) == own(worked)
    assert attributes(emitted)["messaging.operation.type"] == "create"
    assert emitted.kind is SpanKind.PRODUCER


async def nothing(job: Any) -> None: ...


def test_a_plain_function_in_its_thread_has_the_span_too(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))

    @app.receive(jobs)
    def work(job: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        with traces.tracer.start_as_current_span("inside"):
            pass

    run(handled(app, jobs))
    assert parent(traces.one("inside")) == own(traces.one("process jobs"))


async def handled(app: Telex, queue: Queue[Any], *bodies: Any, **how: Any) -> None:
    async with Harness(app) as harness:
        for body in bodies or (SECRET,):
            await app.send(queue, body, **how)
        await harness.drain()


def test_request_and_reply(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))

    @app.reply(ask)
    async def answer(question: Any) -> Any:
        if question == "wrong":
            raise KeyError(question)
        return SECRET

    async def main() -> None:
        async with Harness(app):
            assert await app.request(ask, SECRET) == SECRET
            with pytest.raises(RemoteError):
                await app.request(ask, "wrong")

    run(main())
    good, bad = traces.named("request ask")
    processed, replied = traces.named("process ask"), traces.named("reply ask")
    assert [parent(span) for span in processed] == [own(good), own(bad)]
    assert [parent(span) for span in replied] == [own(span) for span in processed]
    assert [link.context.span_id for link in good.links] == [own(replied[0])]
    assert (good.status.status_code, good.kind) == (StatusCode.UNSET, SpanKind.PRODUCER)
    assert bad.status.status_code is StatusCode.ERROR
    assert attributes(bad)["error.type"] == "telex.errors.RemoteError"
    assert attributes(processed[1])["error.type"] == "KeyError"
    assert processed[1].status.status_code is StatusCode.ERROR
    conversation = {attributes(span).get("messaging.message.conversation_id") for span in (processed[0], replied[0])}
    assert conversation == {attributes(good)["messaging.message.id"]}
    assert replied[0].kind is SpanKind.PRODUCER


def test_a_batch_is_linked_and_its_failures_are_in_their_own_traces(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))

    @app.receive(jobs, batch=Batch(3, wait=5), retry=ONCE)
    async def work(batch: list[Any], delivery: Delivery) -> None:
        delivery.fail(1, ValueError("second"))

    async def main() -> None:
        async with Harness(app) as harness:
            for number in range(3):
                await app.send(jobs, SECRET, id=f"m{number}")
            await harness.drain()

    run(main())
    sent, processed = traces.named("send jobs"), traces.one("process jobs")
    assert processed.parent is None
    assert [link.context.span_id for link in processed.links] == [own(span) for span in sent]
    assert [dict(link.attributes or {})["messaging.message.id"] for link in processed.links] == ["m0", "m1", "m2"]
    assert attributes(processed)["messaging.batch.message_count"] == 3
    assert attributes(processed)["telex.outcome"] == "1 not accepted"
    assert "messaging.message.id" not in attributes(processed)
    buried = traces.one("dead_letter jobs")
    assert parent(buried) == own(sent[1])
    assert [link.context.span_id for link in buried.links] == [own(processed)]


def test_bulk_is_one_span(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))
    app.receive(jobs)(nothing)

    async def main() -> None:
        async with Harness(app) as harness:
            assert await app.send_many(jobs, [SECRET] * 5, headers={"a": "b"}) == 5
            await harness.drain()

    run(main())
    sent = traces.one("send jobs")
    assert attributes(sent)["messaging.batch.message_count"] == 5
    assert {parent(span) for span in traces.named("process jobs")} == {own(sent)}


@pytest.mark.parametrize(
    ("error", "outcome", "verb", "bad"),
    [(Reject("no"), "dead", "dead_letter", True), (Discard("no"), "discarded", "discard", False)],
)
def test_verdicts(traces: Traces, error: Exception, outcome: str, verb: str, bad: bool) -> None:
    app = traces.instrument(Telex(name="shop"))

    @app.receive(jobs)
    async def work(job: Any) -> None:
        raise error

    run(handled(app, jobs))
    processed = traces.one("process jobs")
    assert attributes(processed)["telex.outcome"] == outcome
    assert (processed.status.status_code is StatusCode.ERROR) == bad
    assert parent(traces.one(f"{verb} jobs")) == own(processed)


def test_what_middleware_never_sees(traces: Traces) -> None:
    """A body that cannot be read, a handler that is too slow, a channel that does not exist."""
    app = traces.instrument(Telex(name="shop"))
    numbers = Queue("numbers", int)

    @app.receive("numbers", retry=ONCE)
    async def count(number: int) -> None: ...

    @app.receive(mails, timeout=0.05, retry=ONCE)
    async def slow(mail: Any) -> None:
        await asyncio.sleep(5)

    async def main() -> None:
        async with Harness(app) as harness:
            await app.send("numbers", {"card": SECRET})
            await app.send(mails, SECRET)
            await harness.drain()
            with pytest.raises(InvalidMessage):
                await app.send(numbers, SECRET)  # type: ignore[arg-type]  # the mistake under test

    run(main())
    errors = {span.name: attributes(span).get("error.type") for span in traces.spans if span.name.startswith("process")}
    assert errors == {"process numbers": "telex.errors.Undecodable", "process mails": "telex.errors.HandlerTimeout"}
    assert len(traces.named("send numbers")) == 1, "what is refused before anything happens has no span"


def test_a_publish_that_fails(traces: Traces) -> None:
    from telex.engine import Stored
    from tests.core.test_delivery import make

    app, engine = make()
    engine.features = __import__("msgspec").structs.replace(engine.features, system="telex")
    traces.instrument(app)
    engine.outcome = lambda outgoing: (Stored.NO, OSError("full"))

    async def main() -> None:
        async with app:
            with pytest.raises(Exception, match="full"):
                await app.send(jobs, SECRET)

    run(main())
    sent = traces.one("send jobs")
    assert sent.status.status_code is StatusCode.ERROR
    assert attributes(sent)["error.type"] == "telex.errors.PublishFailed"


def test_the_engine_names_the_system() -> None:
    from tests.core.test_delivery import make

    traces = Traces()
    app, _ = make()
    traces.instrument(app)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)

    run(main())
    assert attributes(traces.one("send jobs"))["messaging.system"] == "loopback"


def test_a_lost_lease_and_the_end_of_the_process(traces: Traces) -> None:
    app = traces.instrument(Telex("memory://", name="shop", grace=0.05))
    begun = asyncio.Event()

    @app.receive(jobs)
    async def work(job: Any) -> None:
        begun.set()
        await asyncio.sleep(60)

    async def main() -> None:
        async with app.running():
            await app.send(jobs, SECRET)
            await begun.wait()

    run(main())
    assert attributes(traces.one("process jobs"))["telex.outcome"] == "interrupted"


def test_middleware_is_inside(traces: Traces) -> None:
    seen: list[tuple[str, int]] = []

    def span_id() -> int:
        return trace.get_current_span().get_span_context().span_id

    async def around(delivery: Any, call_next: Any) -> Any:
        seen.append(("handler", span_id()))
        return await call_next(delivery)

    async def publishing(message: Message, call_next: Any) -> None:
        seen.append(("publish", span_id()))
        await call_next(message.replace(headers={**message.headers, "a": "b"}))

    app = traces.instrument(Telex(name="shop", middleware=[around], publish_middleware=[publishing]))
    app.receive(jobs)(nothing)
    run(handled(app, jobs))
    assert seen == [("publish", own(traces.one("send jobs"))), ("handler", own(traces.one("process jobs")))]
    assert parent(traces.one("process jobs")) == own(traces.one("send jobs"))


def test_the_blocking_face_continues_the_callers_trace(traces: Traces, tmp_path: Path) -> None:
    app = traces.instrument(Telex(str(tmp_path / "telex.db"), name="shop"))
    with Client(app) as client, traces.tracer.start_as_current_span("a request of the web") as web:
        client.send(jobs, SECRET)
        client.send_many(jobs, [SECRET])
    assert {parent(span) for span in traces.named("send jobs")} == {web.get_span_context().span_id}


# -- who decides what is recorded ---------------------------------------------------------------------------------


def headers_of(app: Telex, **how: Any) -> list[dict[str, str]]:
    """The headers of two messages, sent one after another in whatever span is current."""
    found: list[dict[str, str]] = []

    @app.receive(jobs)
    async def work(job: Any, delivery: Delivery) -> None:
        found.append(dict(delivery.message.headers))

    run(handled(app, jobs, SECRET, SECRET, **how))
    return found


def test_what_the_publisher_does_not_record_nobody_records(traces: Traces) -> None:
    quiet = Traces(ALWAYS_OFF)
    app = quiet.instrument(Telex(name="shop"))
    first, second = headers_of(app)
    assert int(first["traceparent"][-2:], 16) & 1 == 0
    assert first["traceparent"] != second["traceparent"]

    other, inside = traces.instrument(Telex(name="other")), []

    @other.receive(jobs)
    async def work(job: Any, delivery: Delivery) -> None:
        inside.append(trace.get_current_span().get_span_context())
        delivery.send(mails, SECRET)
        with traces.tracer.start_as_current_span("inside"):
            pass

    run(handled(other, jobs, headers=first))
    assert traces.spans == []
    assert f"{inside[0].trace_id:032x}" == first["traceparent"][3:35]


def test_no_more_traces_begin_than_the_limit(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    app, later, began = traces.instrument(Telex(name="shop"), limit=2), 0, time.monotonic()
    took = 0.0
    app.receive(jobs)(nothing)

    async def main() -> None:
        nonlocal later, took
        async with Harness(app) as harness:
            for _ in range(200):
                await app.send(jobs, SECRET)
            with traces.tracer.start_as_current_span("from elsewhere"):
                for _ in range(10):
                    await app.send(jobs, SECRET)
            later, took = len(traces.named("send jobs")), time.monotonic() - began
            await harness.drain()

    run(main())
    assert 12 <= later <= 10 + 2 * (int(took) + 2), "two in each second that it touched; and what came from elsewhere"
    processed = traces.named("process jobs")
    assert sum(span.parent is not None for span in processed) == later, "whose publish is recorded is recorded"
    begun = sum(span.parent is None for span in processed)
    assert begun <= 2 * (time.monotonic() - began + 2), "and a few begin where they are handled"


def test_above_the_limit_nothing_of_the_handlers_is_recorded_either(traces: Traces) -> None:
    app, inside = traces.instrument(Telex(name="shop"), limit=1), []

    @app.receive(jobs)
    async def work(job: Any, delivery: Delivery) -> None:
        inside.append(trace.get_current_span().get_span_context())
        with traces.tracer.start_as_current_span("inside"):
            delivery.send(mails, job)

    run(handled(app, jobs, *range(50)))
    recorded = {span.context.trace_id for span in traces.spans if span.context is not None}
    quiet = [context for context in inside if context.trace_id not in recorded]
    assert len(quiet) > 30
    assert all(context.is_valid and not context.trace_flags & 1 for context in quiet)
    assert {trace_of(span) for span in traces.named("inside")} <= recorded


def test_headers_of_the_callers_own(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))
    given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    first, _ = headers_of(app, headers=given)
    assert first["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert first["traceparent"] != given["traceparent"]
    assert first["tracestate"] == "a=b"
    sent = traces.named("send jobs")[0]
    assert parent(sent) == 0xB7AD6B7169203331


def test_a_current_span_is_stronger_than_headers_that_are_passed_on(traces: Traces) -> None:
    app = traces.instrument(Telex(name="shop"))
    app.receive(mails)(nothing)

    @app.receive(jobs)
    async def forward(job: Any, delivery: Delivery) -> None:
        delivery.send(mails, job, headers=delivery.message.headers)

    run(handled(app, jobs, headers={"a": "b"}))
    assert parent(traces.one("send mails")) == own(traces.one("process jobs"))
    assert parent(traces.one("process mails")) == own(traces.one("send mails"))


@pytest.mark.parametrize("count", [30, 31, 32])
def test_a_trace_never_stops_a_message(traces: Traces, count: int) -> None:
    app = traces.instrument(Telex(name="shop"))
    given = {f"h{number}": "x" for number in range(count)}
    with traces.tracer.start_as_current_span("above"):
        first, _ = headers_of(app, headers=given)
    assert given.items() <= first.items()
    assert len(first) <= 32
    assert ("traceparent" in first) == (count < 32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ],
)
def test_a_traceparent_that_breaks_the_rules_begins_a_trace(traces: Traces, text: str) -> None:
    plain = Telex("memory://broken", name="plain")
    app = traces.instrument(Telex("memory://broken", name="shop"))
    app.receive(jobs)(nothing)

    async def main() -> None:
        async with app, plain:
            await plain.send(jobs, 1, headers={"traceparent": text})
            await app.run(until_idle=True)

    run(main())
    processed = traces.one("process jobs")
    assert processed.parent is None
    assert attributes(processed)["telex.outcome"] == "accepted"


def test_a_version_of_the_future_is_read_as_far_as_it_is_known(traces: Traces) -> None:
    plain = Telex("memory://future", name="plain")
    app = traces.instrument(Telex("memory://future", name="shop"))
    app.receive(jobs)(nothing)
    text = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings"

    async def main() -> None:
        async with app, plain:
            await plain.send(jobs, 1, headers={"traceparent": text})
            await app.run(until_idle=True)

    run(main())
    assert parent(traces.one("process jobs")) == 0xB7AD6B7169203331


# -- mistakes, and nothing there ----------------------------------------------------------------------------------


def test_an_open_application_is_refused_and_a_second_time_too() -> None:
    traces = Traces()
    app = Telex("memory://", name="shop")

    async def main() -> None:
        async with app:
            with pytest.raises(ConfigError, match="before it is opened"):
                traces.instrument(app)

    run(main())
    traces.instrument(app)
    with pytest.raises(ConfigError, match="traced already"):
        traces.instrument(app)
    for limit in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="from 1"):
            instrument(Telex(name="x"), limit=limit)  # type: ignore[arg-type]  # the mistake under test
    assert LIMIT == 100


class Broken(SpanProcessor):
    """Of a kind that is written on a Friday."""

    def __init__(self, moment: str) -> None:
        self._moment = moment

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._moment == "start":
            raise RuntimeError(SECRET)

    def on_end(self, span: Any) -> None:
        if self._moment == "end":
            raise RuntimeError(SECRET)


@pytest.mark.parametrize("moment", ["start", "end"])
def test_tracing_that_fails_fails_no_message(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Broken(moment))
    app, seen = Telex(name="shop"), []
    instrument(app, tracer_provider=provider)

    @app.receive(jobs, retry=ONCE)
    async def work(job: Any, delivery: Delivery) -> None:
        seen.append(job)
        delivery.send(mails, job)
        if job == 2:
            raise ValueError

    @app.receive(mails, batch=Batch(2))
    async def mail(batch: list[Any]) -> None:
        seen.extend(batch)

    @app.reply(ask)
    async def answer(question: Any) -> Any:
        return question

    async def main() -> None:
        async with Harness(app) as harness:
            await app.send(jobs, 1)
            await app.send_many(jobs, [2, 3])
            assert await app.request(ask, 4) == 4
            await harness.drain()
            assert await app.dead_letters(jobs).redrive() == 1
            await harness.drain()

    run(main())
    assert sorted(seen) == [1, 1, 2, 2, 3, 3]
    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "telex.tracing_failed"]
    assert fields_of(record) == {"event": "telex.tracing_failed", "error": "RuntimeError"}


def test_wrong_headers_are_refused_as_without_tracing() -> None:
    app = Telex("memory://", name="shop")
    instrument(app, tracer_provider=TracerProvider())

    async def main() -> None:
        async with app:
            for headers in (5, {"traceparent": 5}, {"A": "b"}):
                with pytest.raises(InvalidMessage):
                    await app.send_many(jobs, [1], headers=headers)  # type: ignore[arg-type]  # the mistake under test
                with pytest.raises(InvalidMessage):
                    await app.send(jobs, 1, headers=headers)  # type: ignore[arg-type]  # the mistake under test

    run(main())


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
import asyncio
from telex import Queue, Telex
from telex.testing import Harness
app, jobs, seen = Telex(name="shop"), Queue("jobs", int), []
@app.receive(jobs)
async def work(job): seen.append(job)
async def main():
    async with Harness(app) as harness:
        await app.send(jobs, 1)
        await harness.drain()
asyncio.run(main())
assert seen == [1]
assert not [name for name in sys.modules if name.startswith("telex.otel")]
try:
    import telex.otel
except ImportError as error:
    print(error)
"""


def test_without_the_package_everything_else_works_and_the_error_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "telex.otel needs OpenTelemetry: pip install 'telex[otel]'\n"


def test_without_a_sdk_messages_carry_nothing_and_all_works() -> None:
    app = Telex(name="shop")
    instrument(app, tracer_provider=trace.NoOpTracerProvider())
    assert headers_of(app) == [{}, {}]
