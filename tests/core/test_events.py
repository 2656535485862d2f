"""Every event of the log: written when it should be, with the fields that are promised, on one line, without bodies."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import enum
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from telex import (
    Batch,
    DeadLetters,
    Delivery,
    Discard,
    InvalidMessage,
    Procedure,
    Queue,
    Reject,
    RemoteError,
    Retry,
    Telex,
    Undecodable,
)
from telex.codec import decoder, encoder
from telex.engine import Decision, Settled, Source, SourceKind, Swept
from telex.events import EVENTS, Event, fields_of, line, said, trace_id, wait, words
from telex.message import Message
from telex.testing import Harness

from .kit import make, run

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-b0dy"
jobs = Queue("jobs", Any)
ask = Procedure("ask", Any, Any)
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The fields of every record of an event; at the end, every record must be one of the list, and on one line."""
    caplog.set_level(logging.DEBUG, "telex")
    yield lambda name: [fields_of(record) for record in caplog.records if getattr(record, "event", "") == name]
    records = [record for record in caplog.get_records("call") if record.name.startswith("telex")]
    assert records
    for record in records:
        fields = fields_of(record)
        assert fields, f"not in the list: {record.getMessage()}"
        event = next(event for event in EVENTS if event.name == fields["event"])
        own = {name for name in vars(record) if name not in PLAIN}
        assert own == {"event", *event.fields}, event.name
        assert record.levelno == event.level
        assert "\n" not in record.getMessage()
        assert SECRET not in record.getMessage()
        assert SECRET not in json.dumps(fields), "every field can be written as JSON"


PLAIN = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def test_a_retry_says_when_the_next_attempt_is(heard: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = Telex(name="shop")

    @app.receive(jobs, retry=Retry(attempts=2, delay=5400, max_delay=5400, jitter=0))
    async def work(job: Any) -> None:
        raise TimeoutError("the bank is\nslow")

    async def main() -> None:
        async with Harness(app) as harness:
            await app.send(jobs, SECRET, id="m1", headers=HEADERS)
            await harness.drain()

    run(main())
    (retried,) = heard("telex.retried")
    assert {name: retried[name] for name in ("source", "message_id", "attempt", "trace_id", "error", "delay")} == {
        "source": "jobs",
        "message_id": "m1",
        "attempt": 1,
        "trace_id": TRACE,
        "error": "TimeoutError",
        "delay": 5400.0,
    }
    assert retried["next_attempt"].startswith("2030-01-01T01:30:00")
    (dead,) = heard("telex.dead")
    assert (dead["attempt"], dead["reason"], dead["trace_id"]) == (2, "exhausted", TRACE)
    assert "jobs: message m1 failed at attempt 1 (TimeoutError: the bank is slow); " in caplog.text
    assert "next attempt in 90 min, at 2030-01-01 01:30:00 UTC" in caplog.text
    assert "redrive it with: telex dead redrive jobs --id m1" in caplog.text


def test_every_other_end_of_a_delivery(heard: Any) -> None:
    app = Telex(name="shop")

    @app.receive(jobs, retry=Retry(attempts=1))
    async def work(job: int) -> None:
        if job == 1:
            raise Reject("never\x1b[2J")
        if job == 2:
            raise Discard("unwanted")

    @app.reply(ask)
    async def answer(question: Any) -> Any:
        raise KeyError("no such thing")

    async def main() -> None:
        async with Harness(app) as harness:
            await app.send(jobs, 1)
            await app.send(jobs, 2)
            await app.send(jobs, {"card": SECRET}, id="wrong")
            await harness.drain()
            with pytest.raises(RemoteError):
                await app.request(ask, SECRET)

    run(main())
    assert [(dead["reason"], dead["error"]) for dead in heard("telex.dead")] == [
        ("rejected", "telex.policy.Reject"),
        ("undecodable", "telex.errors.Undecodable"),
    ]
    assert [record["reason"] for record in heard("telex.discarded")] == ["unwanted"]
    assert [record["error"] for record in heard("telex.request_failed")] == ["KeyError"]
    assert heard("telex.started")[0]["sources"] == "jobs, ask"
    assert len(heard("telex.stopped")) == 1


def test_what_the_engine_answers(heard: Any) -> None:
    app, engine = make()
    answers = iter([Settled.FAILED, Settled.DONE, Settled.LOST, Settled.UNKNOWN])
    engine.answer = lambda settlement: next(answers)

    @app.receive(jobs)
    async def work(job: int) -> None: ...

    async def main() -> None:
        async with app:
            for number in range(3):
                await app.send(jobs, number, id=f"m{number}")
                await app.run(until_idle=True)

    run(main())
    assert heard("telex.settle_failing") == [
        {"event": "telex.settle_failing", "source": "jobs", "messages": 1, "delay": 0.05}
    ]
    assert len(heard("telex.settle_recovered")) == 1
    assert [record["message_id"] for record in heard("telex.lease_lost")] == ["m1"]
    assert [record["message_id"] for record in heard("telex.settle_uncertain")] == ["m2"]


def test_an_engine_that_breaks(heard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()
    failures = 2

    async def main() -> None:
        nonlocal failures
        async with app.running():
            consumer = engine.consumers[0]
            fetch, settle = consumer.fetch, consumer.settle

            async def broken_fetch(max: int, wait: float) -> Any:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise ConnectionError("gone")
                return await fetch(max, wait)

            async def broken_settle(batch: Any) -> Any:
                raise RuntimeError("contract")

            monkeypatch.setattr(consumer, "fetch", broken_fetch)
            await app.send(jobs, 1)
            await asyncio.sleep(0.05)
            await app.send(jobs, 2)
            await until(lambda: heard("telex.fetch_recovered"))
            monkeypatch.setattr(consumer, "settle", broken_settle)
            await app.send(jobs, 3)
            await until(lambda: heard("telex.settle_broken"))
            monkeypatch.setattr(consumer, "settle", settle)

    app.receive(jobs)(nothing)
    run(main())
    assert [(record["source"], record["delay"]) for record in heard("telex.fetch_failing")] == [
        ("jobs", 0.1),
        ("jobs", 0.2),
    ]
    assert heard("telex.settle_broken")[0]["error"] == "RuntimeError"


async def until(true: Callable[[], object]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)


async def nothing(job: Any) -> None: ...


def test_an_inbox_that_breaks(heard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app, engine = make()

    async def broken(max: int, wait: float) -> Any:
        raise ConnectionError("gone")

    async def main() -> None:
        async with app:
            consume = engine.consume

            async def wrapped(*arguments: Any) -> Any:
                consumer = await consume(*arguments)
                monkeypatch.setattr(consumer, "fetch", broken)
                return consumer

            monkeypatch.setattr(engine, "consume", wrapped)
            with pytest.raises(TimeoutError):
                await app.request(ask, 1, timeout=0.1)

    run(main())
    assert heard("telex.inbox_failing")[0]["error"] == "ConnectionError"


def test_stopping(heard: Any) -> None:
    app, _ = make(grace=0.05)

    @app.receive(jobs)
    async def work(job: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(job)

    async def main() -> None:
        async with app:
            await app.send(jobs, 5, id="m1")
            await app.run()

    run(main())
    assert heard("telex.stopping")[0]["signal"] == "SIGTERM"
    assert [record["reason"] for record in heard("telex.cut_short")] == ["grace"]
    assert [record["message_id"] for record in heard("telex.interrupted")] == ["m1"]


def test_a_message_that_is_isolated_and_a_request_that_expired(heard: Any) -> None:
    app, engine = make()
    app.receive(jobs)(nothing)

    async def main() -> None:
        async with app:
            await app.send(jobs, 1, id="m1")
            await app.send(jobs, 1, id="m2")
            lost, expired = engine.queues["jobs"]
            lost.losses = 2
            expired.message = msgspec.structs.replace(expired.message, expires=expired.message.time)
            await app.run(until_idle=True)

    run(main())
    assert [record["message_id"] for record in heard("telex.isolated")] == ["m1"]
    assert [record["message_id"] for record in heard("telex.discarded")] == ["m2"]


def test_a_batch_writes_a_line_for_each_message(heard: Any) -> None:
    app = Telex(name="shop")

    @app.receive(jobs, batch=Batch(10, wait=0.01), retry=Retry(attempts=1))
    async def work(batch: list[Any], delivery: Delivery) -> None:
        delivery.fail(1, ValueError("second"))

    async def main() -> None:
        async with Harness(app) as harness:
            await app.send_many(jobs, ["a", "b", "c"], id=lambda body: body)
            await harness.drain()

    run(main())
    assert [record["message_id"] for record in heard("telex.dead")] == ["b"]


STORE = """
import asyncio, json, logging, os, resource, signal, sys
from telex import Queue, Telex
from telex.events import fields_of
class Lines(logging.Handler):
    def emit(self, record):
        if fields_of(record):
            print(json.dumps(fields_of(record)), flush=True)
log = logging.getLogger("telex")
log.setLevel(logging.DEBUG)
log.addHandler(Lines())
from telex.engines import Embedded
app = Telex("telex.db", name="shop", engines=[Embedded(lease=2)])
jobs = Queue("jobs", int)
@app.receive(jobs, concurrency=1)
async def work(job: int):
    print(json.dumps({"event": "handling"}), flush=True)
    await asyncio.sleep(job)
async def main():
    async with app:
        if sys.argv[1] == "full":
            size = os.path.getsize("telex.db-wal") if os.path.exists("telex.db-wal") else 0
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            try:
                await app.send(jobs, 1)
            except Exception as error:
                pass
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await app.send(jobs, 1)
        elif sys.argv[1] == "send":
            await app.send(jobs, 600)
        else:
            await app.run()
asyncio.run(main())
"""


class Program:
    """The program above in a process of its own, whose events are heard."""

    def __init__(self, folder: Path, how: str) -> None:
        (folder / "program.py").write_text(STORE)
        self.process = subprocess.Popen(
            [sys.executable, "program.py", how], cwd=folder, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
        )
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for text in output:
                self._heard.put(text)

    def hear(self, event: str, seconds: float = 40) -> dict[str, Any]:
        """Waits for an event."""
        end = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = json.loads(self._heard.get(timeout=max(0.01, end - time.monotonic())))
            if found["event"] == event:
                return found

    def end(self) -> list[str]:
        """Waits until it ended by itself; the events that were not asked for."""
        assert self.process.wait(40) == 0
        self._reader.join()
        return [json.loads(self._heard.get())["event"] for _ in range(self._heard.qsize())]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


def test_the_store_says_when_a_process_is_gone_and_when_it_was_one_itself(tmp_path: Path) -> None:
    assert Program(tmp_path, "send").end() == []
    one = Program(tmp_path, "run")
    one.hear("handling")
    other = Program(tmp_path, "run")
    try:
        other.hear("telex.started")
        for _ in range(5):  # One that is stopped inside a commit stops all: then another time.
            one.process.send_signal(signal.SIGSTOP)
            with contextlib.suppress(queue.Empty):
                assert other.hear("telex.member_lost", 8)["messages"] == 1
                break
            one.process.send_signal(signal.SIGCONT)
            time.sleep(0.37)
        else:
            raise AssertionError("nobody took the stopped process for lost")
        one.process.send_signal(signal.SIGCONT)
        assert one.hear("telex.late")["lease"] == 2
        assert one.hear("telex.lease_lost")["source"] == "jobs"
    finally:
        one.kill()
        other.kill()


def test_the_store_says_when_it_fails_and_when_it_works_again(tmp_path: Path) -> None:
    assert Program(tmp_path, "full").end() == ["telex.store_failing", "telex.store_recovered"]


def test_a_reply_that_comes_too_late(heard: Any) -> None:
    app, asking = Telex("memory://late", name="shop"), Telex("memory://late", name="web")
    begun, gone = asyncio.Event(), asyncio.Event()

    @app.reply(ask)
    async def answer(question: Any) -> Any:
        begun.set()
        await gone.wait()
        await asyncio.sleep(0.3)
        return SECRET

    async def main() -> None:
        async with app.running():
            async with asking:
                with pytest.raises(TimeoutError):
                    await asking.request(ask, SECRET, timeout=1)
                assert begun.is_set()
            gone.set()

    run(main())
    assert heard("telex.not_emitted")[0]["error"] == "telex.errors.PublishFailed"


def test_letters_that_may_have_moved(heard: Any) -> None:
    class Admin:
        async def sweep(self, *arguments: Any) -> Swept:
            return Swept(seen=3, moved=1, uncertain=2, after=None, complete=True)

    async def open() -> Any:
        return Admin(), [Source("jobs", SourceKind.QUEUE)], datetime.now(UTC)

    assert run(DeadLetters(open).redrive()) == 1
    (record,) = heard("telex.move_uncertain")
    assert (record["source"], record["messages"], record["verb"]) == ("jobs", 2, "redrive")


# -- the list and the words -------------------------------------------------------------------------------------------


def test_names_are_stable_words_and_differ() -> None:
    names = [event.name for event in EVENTS]
    assert len(set(names)) == len(names)
    for event in EVENTS:
        assert re.fullmatch(r"telex\.[a-z_]+", event.name)
        assert not set(event.fields) & PLAIN, "a field must not hide an attribute that every record has"


LEVELS = ("debug", "info", "warning", "error", "critical", "exception", "log")


def test_no_line_is_written_past_the_list() -> None:
    """Nowhere; and every event is written somewhere."""
    written = ""
    for path in (ROOT / "src" / "telex").rglob("*.py"):
        if "testing" in path.parts:
            continue
        if path.name == "events.py":
            continue
        text = path.read_text()
        written += text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner, verb = ast.unparse(node.func.value), node.func.attr
                if owner in ("log", "logger", "logging"):
                    assert verb not in LEVELS, f"{path.name}:{node.lineno}: log it as an Event"
    from telex import events

    there = {name for name, value in vars(events).items() if isinstance(value, Event)}
    assert {name for name in there if not re.search(rf"\b{name}\b", written)} == set(), "events that nobody writes"


def test_an_error_that_cannot_speak_stops_nothing() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert said(Mute()) == "(its text cannot be had: RuntimeError)"
    app, engine = make()

    @app.receive(jobs, retry=Retry(attempts=2, delay=0))
    async def work(job: int) -> None:
        raise Mute

    async def main() -> None:
        async with app:
            await app.send(jobs, 1)
            await app.run(until_idle=True)

    run(main())
    assert [settlement.decision for settlement in engine.settlements] == [Decision.RETRY, Decision.DEAD]


def test_lines_are_one_line() -> None:
    assert line("a\r\nb\x00c\x1b[31m\u2028d\ud800") == "a b c [31m d"
    assert len(line("x" * 10_000)) == 500
    assert words(ValueError("")) == "ValueError"
    assert words(ValueError("no\nway")) == "ValueError: no way"


def test_waits_are_for_people() -> None:
    given = (0.05, 0.5, 61.25, 3600, 86400, 20 * 86400)
    assert [wait(seconds) for seconds in given] == ["50 ms", "0.5 s", "61.2 s", "60 min", "24 h", "20 days"]


def test_only_a_trace_id_is_taken_from_a_header() -> None:
    assert trace_id(HEADERS) == TRACE
    for text in ("", SECRET, f"00-{TRACE}", HEADERS["traceparent"] + "\n"):
        assert trace_id({"traceparent": text}) == ""
    assert trace_id({}) == ""


class Colour(enum.Enum):
    RED = "red"


class Painted(msgspec.Struct):
    colour: Colour


class Model(pydantic.BaseModel):
    number: int


@pytest.mark.parametrize("type", [Model, Painted, dict[str, int], list[Model]])
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_an_undecodable_body_is_not_shown(type: Any, quote: str) -> None:
    value = f"{SECRET}{quote}"
    bodies = [{"number": value, "colour": value}, [{"number": value}], value]
    for body in bodies:
        message = Message(id="m", channel="c", body=msgspec.json.encode(body), time=datetime.now(UTC))
        with pytest.raises(Undecodable) as caught:
            decoder(type)(message)
        assert "does not fit" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_a_model_that_cannot_be_written_is_not_shown() -> None:
    with pytest.raises(InvalidMessage) as caught:
        encoder(Model)(Model.model_construct(number=SECRET))
    assert SECRET not in str(caught.value)
    assert "number" in str(caught.value)
