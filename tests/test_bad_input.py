"""Every wrong value: its own error, one message that names value, rule and remedy, before any I/O, nobody disturbed."""

from __future__ import annotations

import asyncio
import json as standard_json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telex import (
    Batch,
    Closed,
    ConfigError,
    Delivery,
    Handlers,
    InvalidMessage,
    MessageTooLarge,
    Procedure,
    Queue,
    Retry,
    RetryAfter,
    Telex,
    Topic,
    Undecodable,
    UnknownChannel,
)
from telex.codec import decoder, encoder
from telex.engines import AWS, Embedded, Kafka, RabbitMQ, find_settings
from telex.message import Message
from telex.names import check_headers, check_id, check_key, matches, parse_source
from telex.urls import redact

NAN = float("nan")
jobs: Queue[Any] = Queue("jobs")
topic = Topic("events", dict)
ordered = Topic("moves", dict, ordered=True, key=lambda d: d["id"])


def handlers() -> Handlers:
    return Handlers()


def plain_middleware(delivery: Any, call_next: Any) -> Any: ...


class Markup(str):
    """As web frameworks give texts."""


def divide(body: Any) -> Any:
    return 1 / 0


DECLARATIONS: list[tuple[Callable[[], object], str]] = [
    (lambda: Topic("Orders"), "channel name 'Orders': write words of a-z"),
    (lambda: Topic(""), "channel name ''"),
    (lambda: Topic("a..b"), "channel name 'a..b'"),
    (lambda: Topic("orders.*"), "channel name"),
    (lambda: Topic("x" * 61), "at most 60"),
    (lambda: Queue("a\n"), "channel name"),
    (lambda: Queue("ä"), "channel name"),
    (lambda: Procedure(7), "channel name 7"),  # type: ignore[arg-type]
    (lambda: Topic("a", lanes=0), "lanes=0): write a whole number from 1 to 256"),
    (lambda: Topic("a", lanes=True), "lanes=True"),
    (lambda: Topic("a", ordered=1), "ordered=1): write True or False"),  # type: ignore[arg-type]
    (lambda: Topic("a", key="id"), "key='id'): write a function"),  # type: ignore[arg-type]
    (lambda: Topic("a", history=-1), "history=…) is -1"),
    (lambda: Topic("a", history=NAN), "is nan"),
    (lambda: Telex(name="My App"), "Telex(name='My App')"),
    (lambda: Telex(name="x" * 41), "1 to 40"),
    (lambda: Telex(name="a", topology="guess"), "write 'declare' or 'verify'"),  # type: ignore[arg-type]
    (lambda: Telex(name="a", grace=-1), "grace"),
    (lambda: Telex(name="a", publish_timeout=0), "publish_timeout"),
    (lambda: Retry(attempts=0), "attempts=…) is 0: write a whole number from 1 or None"),
    (lambda: Retry(crashes=0), "crashes"),
    (lambda: Retry(delay=-1), "delay"),
    (lambda: Retry(factor=0.5), "factor=…) is 0.5: write a number between 1 and"),
    (lambda: Retry(jitter=2), "jitter"),
    (lambda: Retry(delay="1s"), "write seconds as a number, or a timedelta"),  # type: ignore[arg-type]
    (lambda: Retry(unless=ValueError), "write a tuple of exception classes"),  # type: ignore[arg-type]
    (lambda: Batch(0), "size"),
    (lambda: Batch(20_000), "at most 10000"),
    (lambda: Batch(5, wait=NAN), "wait"),
    (lambda: RetryAfter(-1), "delay"),
    (lambda: handlers().subscribe(jobs), "give a Topic, or its name"),  # type: ignore[call-overload]
    (lambda: handlers().receive(topic), "give a Queue, or its name"),  # type: ignore[call-overload]
    (lambda: handlers().receive("jobs.*"), "channel name 'jobs.*'"),
    (lambda: handlers().subscribe("a..#"), "pattern 'a..#'"),
    (lambda: handlers().subscribe(topic, group="Big Group"), "group 'Big Group'"),
    (lambda: handlers().subscribe(topic, group="g", broadcast=True), "a broadcast has no group"),
    (lambda: handlers().subscribe(topic, broadcast=True, start="all"), "a broadcast begins when it runs"),
    (lambda: handlers().subscribe(topic, broadcast=True, batch=Batch(2)), "takes single messages"),
    (lambda: handlers().subscribe(topic, ordered=True), "the topic is not ordered"),
    (lambda: handlers().subscribe("events.*", ordered=True), "a pattern keeps no order"),
    (lambda: handlers().subscribe(ordered, batch=Batch(2)), "write ordered=False beside batch"),
    (lambda: handlers().receive(Queue("q", ordered=True), batch=Batch(2)), "a batch has no order per key"),
    (lambda: handlers().subscribe(topic, start="old"), "write 'new', 'all' or an aware datetime"),  # type: ignore[call-overload]
    (lambda: handlers().subscribe(topic, start=datetime(2026, 1, 1)), "has no time zone"),
    (lambda: handlers().receive(jobs, concurrency=0), "concurrency=0): write a whole number from 1"),
    (lambda: handlers().receive(jobs, timeout=0), "timeout"),
    (lambda: handlers().receive(jobs, timeout=NAN), "timeout"),
    (lambda: handlers().receive(jobs, rate=0), "rate=0): write messages a second, above 0"),
    (lambda: handlers().receive(jobs, rate=NAN), "rate=nan"),
    (lambda: handlers().receive(jobs, retry=3), "write Retry(…)"),  # type: ignore[call-overload]
    (lambda: handlers().receive(jobs, batch=10), "write Batch(…)"),  # type: ignore[call-overload]
    (lambda: handlers().receive(jobs)(3), "write it above a function"),
    (lambda: handlers().include(jobs), "give a Handlers"),  # type: ignore[arg-type]
    (lambda: Handlers(middleware=[3]), "3 is no async function"),  # type: ignore[list-item]
    (lambda: Handlers(middleware=[plain_middleware]), "is no async function"),
    (lambda: Handlers(middleware=None), "middleware=None: write a list of async functions of (delivery, call_next)"),  # type: ignore[arg-type]
    (lambda: Telex(name="a", publish_middleware=[3]), "publish_middleware: 3 is no async function"),  # type: ignore[list-item]
    (
        lambda: Telex(name="a", publish_middleware=3),  # type: ignore[arg-type]
        "publish_middleware=3: write a list of async functions of (message",
    ),
    (lambda: Telex(name="a", lifespan=3), "lifespan=3: write an @asynccontextmanager function"),  # type: ignore[arg-type]
    (lambda: Telex(name="a", engines=[3]), "engines: 3 is no engine's settings"),  # type: ignore[list-item]
    (lambda: Telex(name="a", engines=[Embedded]), "is no engine's settings; write for example Embedded()"),  # type: ignore[list-item]
    (lambda: Telex(name="a", engines=3), "engines=3: write a list of settings"),  # type: ignore[arg-type]
    (lambda: Retry(delay=10**400), "Retry(delay=…) is 1000"),
    (lambda: Embedded(sync="off"), "write 'full' or 'normal'"),  # type: ignore[arg-type]
    (lambda: Embedded(lease=0), "lease"),
    (lambda: Embedded(max_bytes=10), "max_bytes=10"),
    (lambda: Kafka(partitions=0), "partitions=0"),
    (lambda: RabbitMQ(prefix=1), "prefix=1"),  # type: ignore[arg-type]
    (lambda: AWS(prefix=None), "prefix=None"),  # type: ignore[arg-type]
    (lambda: find_settings("ftp://host/", ()), "no engine for ftp://"),
    (lambda: find_settings("memory://", (Embedded(), Embedded())), "2 settings claim memory://"),
    (lambda: parse_source("emails/"), "group ''"),
    (lambda: Telex(name="a").dead_letters(jobs, group="g"), "is a queue and has no groups"),
    (lambda: Telex(name="a").dead_letters(3), "is not a source"),  # type: ignore[arg-type]
    (lambda: Telex(name="a").dead_letters().where(ids="one"), "write a list of ids"),
    (lambda: Telex(name="a").dead_letters().where(since=datetime(2026, 1, 1)), "with a time zone"),
    (lambda: Telex(name="a").dead_letters().where(reason="tired"), "write one of"),  # type: ignore[arg-type]
    (lambda: Telex(name="a").pause(jobs), "no handlers of"),
]


@pytest.mark.parametrize(("make", "says"), DECLARATIONS, ids=[says for _, says in DECLARATIONS])
def test_declarations(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass
class One:
    a: int


@dataclass
class Two:
    b: int


class Entry(TypedDict):
    a: int


class Plain:
    pass


def opening(declare: Callable[[Telex], object]) -> BaseException:
    """What opening an application raises, the first one where there are several."""
    app = Telex("memory://", name="test")
    declare(app)

    async def main() -> None:
        async with app:
            pass

    with pytest.raises((ConfigError, ExceptionGroup)) as caught:
        asyncio.run(main())
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def two_needed(body: Any, delivery: Any, database: Any) -> None: ...
async def none_taken() -> None: ...
async def unknown_type(body: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the mistake under test
async def no_list(body: dict[str, Any]) -> None: ...
async def fine(body: Any) -> None: ...


OPENINGS: list[tuple[Callable[[Telex], object], str]] = [
    (lambda app: app.receive("jobs")(two_needed), "needs the argument 'database'"),
    (lambda app: app.receive("jobs")(none_taken), "takes no message"),
    (lambda app: app.receive("jobs")(unknown_type), "cannot be read"),
    (lambda app: app.receive(jobs, batch=Batch(2))(no_list), "annotate it as list[…]"),
    (lambda app: (app.receive(jobs)(fine), app.receive("jobs")(fine)), "has two handlers"),
    (lambda app: (app.subscribe(topic)(fine), app.subscribe(topic)(fine)), "give each a group of its own"),
    (lambda app: (app.subscribe(topic)(fine), app.receive("events")(fine)), "events is a topic, and receive() takes"),
    (
        lambda app: (app.receive(jobs)(fine), app.receive(Queue("jobs", ordered=True))(fine)),
        "is declared twice and differently",
    ),
    (lambda app: app.receive(Queue("u", One | Two))(fine), "Give each member a tag"),
    (lambda app: app.receive(Queue("p", Plain))(fine), "bodies cannot have the type"),
]


@pytest.mark.parametrize(("declare", "says"), OPENINGS, ids=[says for _, says in OPENINGS])
def test_openings(declare: Callable[[Telex], object], says: str) -> None:
    error = opening(declare)
    assert isinstance(error, ConfigError)
    assert says in str(error)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("a\0b", "contains a NUL character"),
        ("memory://a/b?c=1", "a store in memory is named by letters"),
        (3, "URL 3: write a path"),
        ("file://", "names no file"),
    ],
)
def test_urls(url: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asyncio.run(Telex(url, name="test").__aenter__())
    assert says in str(caught.value)


def test_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELEX_URL", raising=False)
    app = Telex(name="test")
    with pytest.raises(ConfigError, match="has no URL: write"):
        asyncio.run(app.__aenter__())


def test_a_refused_broker_shows_no_password() -> None:
    app = Telex("kafka://user:verysecret@host/?password=verysecret", name="test")
    with pytest.raises(ConfigError) as caught:
        asyncio.run(app.__aenter__())
    assert "verysecret" not in str(caught.value)
    assert "no engine for Kafka" in str(caught.value)


Sends = Callable[[Any], Any]
MESSAGES: list[tuple[Sends, type[Exception], str]] = [
    (lambda app: app.send(jobs, 1, id=""), InvalidMessage, "message id ''"),
    (lambda app: app.send(jobs, 1, id="a\nb"), InvalidMessage, "printable ASCII"),
    (lambda app: app.send(jobs, 1, id="x" * 101), InvalidMessage, "1 to 100"),
    (lambda app: app.send(jobs, 1, key=""), InvalidMessage, "key ''"),
    (lambda app: app.send(jobs, 1, key="ä" * 65), InvalidMessage, "1 to 128 bytes"),
    (lambda app: app.send(jobs, 1, key="\ud800"), InvalidMessage, "key"),
    (lambda app: app.send(jobs, 1, key=7), InvalidMessage, "key 7"),
    (lambda app: app.send(jobs, 1, headers={"X-Name": "1"}), InvalidMessage, "header name 'X-Name'"),
    (lambda app: app.send(jobs, 1, headers={"telex-lane": "1"}), InvalidMessage, "reserved"),
    (lambda app: app.send(jobs, 1, headers={"a": 1}), InvalidMessage, "header a=1: write a text"),
    (lambda app: app.send(jobs, 1, headers={"a": "x" * 4097}), InvalidMessage, "at most 4096"),
    (lambda app: app.send(jobs, 1, headers={f"h{n}": "" for n in range(33)}), InvalidMessage, "at most 32"),
    (lambda app: app.send(jobs, 1, headers=["a"]), InvalidMessage, "write a mapping"),
    (lambda app: app.send(jobs, 1, delay=-1), InvalidMessage, "delay -1"),
    (lambda app: app.send(jobs, 1, delay=NAN), InvalidMessage, "delay nan"),
    (lambda app: app.send(jobs, 1, delay=timedelta(days=400)), InvalidMessage, "a year from now"),
    (lambda app: app.send(jobs, 1, delay=datetime(2030, 1, 1)), InvalidMessage, "has no time zone"),
    (lambda app: app.send(jobs, 1, delay="1m"), InvalidMessage, "write seconds"),
    (lambda app: app.send(jobs, NAN), InvalidMessage, "nan, which JSON cannot carry"),
    (lambda app: app.send(jobs, {"a": [None, {"b": float("inf")}]}), InvalidMessage, "inf, which JSON cannot carry"),
    (lambda app: app.send(jobs, object()), InvalidMessage, "cannot be written as JSON"),
    (lambda app: app.send(jobs, "\ud800"), InvalidMessage, "cannot be written as JSON"),
    (lambda app: app.send(jobs, "x" * 2_000_000), MessageTooLarge, "store the content elsewhere"),
    (lambda app: app.send(Queue("typed", One), Two(1)), InvalidMessage, "is a Two, and this channel takes One"),
    (lambda app: app.send(Queue("raw", bytes), "text"), InvalidMessage, "takes bytes"),
    (lambda app: app.send(topic, {}), ConfigError, "is a topic, not a queue: use publish()"),
    (lambda app: app.publish(jobs, {}), ConfigError, "is a queue, not a topic: use send()"),
    (lambda app: app.send("nowhere", 1), UnknownChannel, "there is no queue 'nowhere'"),
    (lambda app: app.request("nowhere", 1), UnknownChannel, "there is no procedure 'nowhere'"),
    (lambda app: app.publish(ordered, {"name": 1}), InvalidMessage, "the key function of moves raised KeyError"),
    (lambda app: app.send(3, 1), ConfigError, "3 is not a channel"),
    (lambda app: app.send_many(jobs, [1], window=0), ConfigError, "window=0"),
    (lambda app: app.request(Procedure("p"), 1, timeout=0), ConfigError, "timeout"),
    (lambda app: app.run(only=["emailz"]), ConfigError, "no handler for emailz; there are jobs"),
    (lambda app: app.replay(topic, group="none", since="start"), ConfigError, "there is no source 'events/none'"),
    (lambda app: app.remove("none"), ConfigError, "there is no source 'none'"),
    (lambda app: app.send(jobs, 1, delay=10**400), InvalidMessage, "between now and a year from now"),
    (lambda app: app.send(jobs, 1, delay=timedelta.max), InvalidMessage, "between now and a year from now"),
    (lambda app: app.send_many(jobs, [1], key="k"), ConfigError, "key='k': write a function of the body"),
    (lambda app: app.send_many(jobs, [1], id=3), ConfigError, "id=3: write a function of the body"),
    (lambda app: app.send_many(jobs, [1], progress=3), ConfigError, "progress=3: write a function"),
    (lambda app: app.send_many(jobs, None), ConfigError, "bodies=None: write an iterable"),
    (lambda app: app.send_many(jobs, "text"), ConfigError, "bodies='text': write an iterable"),
    (lambda app: app.send_many(jobs, [1], key=divide), InvalidMessage, "raised ZeroDivisionError: division by zero"),
    (lambda app: app.send_many(jobs, [1], id=divide), InvalidMessage, "the id function given for jobs raised"),
    (lambda app: app.dead_letters().redrive(rate="a"), ConfigError, "rate='a'): write a number of messages a second"),
    (lambda app: app.dead_letters().redrive(rate=True), ConfigError, "rate=True"),
    (lambda app: app.backup(3), ConfigError, "backup(3): write the path of a new file"),
    (lambda app: app.backup("a\0b"), ConfigError, "write the path of a new file"),
    (lambda app: app.send(Queue("td", Entry), {"a": "x"}), InvalidMessage, "Expected `int`, got `str` - at `$.a`"),
    (lambda app: app.send(Queue("li", list[int]), ["a"]), InvalidMessage, "Expected `int`, got `str` - at `$[0]`"),
    (lambda app: app.send(Queue("di", dict[str, int]), {"a": None}), InvalidMessage, "got `null` - at `$[...]`"),
    (lambda app: app.send(Queue("one", One), One("x")), InvalidMessage, "Expected `int`, got `str` - at `$.a`"),  # type: ignore[arg-type]
    (lambda app: app.send(Queue("ones", list[One]), [One(1), One("x")]), InvalidMessage, "at `$[1].a`"),  # type: ignore[arg-type]
    (lambda app: app.send(Queue("int", int), True), InvalidMessage, "Expected `int`, got `bool`"),
]


@pytest.mark.parametrize(("send", "kind", "says"), MESSAGES, ids=[says for _, _, says in MESSAGES])
def test_messages(send: Sends, kind: type[Exception], says: str) -> None:
    """The wrong one is refused; a hundred others under way at the same time are not disturbed."""
    app = Telex("memory://", name="test")
    got: list[int] = []

    @app.receive(jobs)
    async def work(job: int) -> None:
        got.append(job)

    async def main() -> None:
        async with app:
            others = [asyncio.ensure_future(app.send(jobs, n)) for n in range(100)]
            with pytest.raises(kind) as caught:
                await send(app)
            assert type(caught.value) is kind
            assert says in str(caught.value)
            await asyncio.gather(*others)
            await app.run(until_idle=True)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert sorted(got) == list(range(100))


def test_texts_of_other_classes_become_texts() -> None:
    """Engines write `str` alone: one text of a class derived from it would fail all that is stored with it."""
    assert type(check_id(Markup("a"))) is str
    assert type(check_key(Markup("ä"))) is str
    headers = check_headers({Markup("a"): Markup("b")})
    assert headers == {"a": "b"}
    assert {type(text) for pair in headers.items() for text in pair} == {str}
    app = Telex("memory://", name="test")
    got: list[tuple[str, str | None, Any]] = []

    @app.receive(jobs)
    async def work(job: Any, delivery: Delivery) -> None:
        got.append((delivery.message.id, delivery.message.key, dict(delivery.message.headers)))

    @app.receive(Queue("first", int))
    async def emit(job: int, delivery: Delivery) -> None:
        delivery.send(jobs, job, key=Markup("k2"), headers={"a": Markup("b2")})

    async def main() -> None:
        async with app:
            await app.send(jobs, 1, id=Markup("mine"), key=Markup("k"), headers={Markup("a"): Markup("b")})
            await app.send_many(jobs, [1], id=lambda body: Markup("many"), key=lambda body: Markup("k"))
            await app.send("first", 1)
            await app.run(until_idle=True)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert [key for _, key, _ in sorted(got, key=str)].count("k") == 2
    assert ("mine", "k", {"a": "b"}) in got
    assert ("many", "k", {}) in got
    assert any((key, headers) == ("k2", {"a": "b2"}) for _, key, headers in got)


def test_a_function_of_bulk_that_raises_tells_how_many_are_stored() -> None:
    app = Telex("memory://", name="test")

    async def main() -> None:
        async with app:
            with pytest.raises(InvalidMessage) as caught:
                await app.send_many(jobs, [1, 2, 0, 3], key=lambda body: str(6 // body))
            assert caught.value.stored == 2
            (source,) = (await app.stats()).sources
            assert source.ready == 2

    asyncio.run(main())


def test_bulk_tells_how_many_are_stored() -> None:
    app = Telex("memory://", name="test")

    async def main() -> None:
        async with app:
            await app.send(jobs, 0)
            with pytest.raises(InvalidMessage) as caught:
                await app.send_many(jobs, [*range(2500), NAN, 1])
            assert caught.value.stored == 2500
            (source,) = (await app.stats()).sources
            assert source.ready == 2501

    asyncio.run(main())


def test_closed() -> None:
    app = Telex("memory://", name="test")
    with pytest.raises(Closed, match="write `async with app:` around it"):
        asyncio.run(app.send(jobs, 1))


def test_opened_twice() -> None:
    app = Telex("memory://", name="test")

    async def main() -> None:
        async with app:
            with pytest.raises(ConfigError, match="is open already"):
                await app.__aenter__()

    asyncio.run(main())


def test_a_channel_that_exists_differently(tmp_path: Path) -> None:
    url = str(tmp_path / "telex.db")

    async def declare(channel: Queue[Any], verify: bool = False) -> None:
        async with Telex(url, name="test", topology="verify" if verify else "declare") as app:
            await app.send(channel, {"id": "1"})

    asyncio.run(declare(jobs))
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(declare(Queue("jobs", ordered=True)))
    assert "exists and differs" in str(caught.value.exceptions[0])
    with pytest.raises(UnknownChannel, match="creates nothing"):
        asyncio.run(declare(Queue("other"), verify=True))
    asyncio.run(declare(jobs, verify=True))


# -- any input -----------------------------------------------------------------------------------------------------


def test_a_bomb_of_brackets_is_undecodable() -> None:
    message = Message(id="1", channel="jobs", body=b"[" * 500_000, time=datetime.now().astimezone())
    with pytest.raises(Undecodable):
        decoder(Any)(message)


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutilated(draw: st.DrawFn, data: bytes) -> bytes:
    """JSON with a byte changed, left out or put in, or cut off."""
    place = draw(st.integers(0, len(data)))
    middle = draw(st.binary(max_size=1) | st.sampled_from([b'"', b"{", b"]", b",", b"\\", b"0"]))
    return data[:place] + middle + data[place + draw(st.integers(0, 1)) :] if draw(st.booleans()) else data[:place]


TYPES: tuple[Any, ...] = (One, dict[str, int], list[float], str)
numbers = st.integers(-(2**53), 2**53)
fitting = (
    st.fixed_dictionaries({"a": numbers})
    | st.dictionaries(st.text(), numbers, max_size=4)
    | st.lists(numbers | st.floats(allow_nan=False, allow_infinity=False), max_size=4)
    | st.text()
)
"""What one of the types can read, and others cannot."""


def is_number(value: Any, *classes: type) -> bool:
    return isinstance(value, classes) and not isinstance(value, bool)


def can_be_read(value: Any, type: Any) -> bool:
    """Whether a JSON value is certainly a body of this type."""
    if type is One:
        return isinstance(value, dict) and is_number(value.get("a"), int)
    if type is str:
        return isinstance(value, str)
    if isinstance(value, dict):
        return type == dict[str, int] and all(is_number(item, int) for item in value.values())
    return type == list[float] and isinstance(value, list) and all(is_number(item, int, float) for item in value)


def was_read(value: Any, type: Any) -> bool:
    """Whether this is what a handler of this type expects."""
    if type is One:
        return isinstance(value, One) and is_number(value.a, int)
    if type == list[float]:
        return isinstance(value, list) and all(isinstance(item, float) for item in value)
    return can_be_read(value, type)


@given(json | fitting)
def test_json_of_others_is_read_by_what_fits_and_undecodable_to_all_else(body: Any) -> None:
    """Written by another library: as any client of the broker may."""
    data = standard_json.dumps(body).encode()
    message = Message(id="1", channel="jobs", body=data, time=datetime.now().astimezone())
    assert decoder(Any)(message) == body
    for type in TYPES:
        try:
            read = decoder(type)(message)
        except Undecodable:
            assert not can_be_read(body, type)
        else:
            assert was_read(read, type)
            assert (msgspec.to_builtins(read) == body) or type is One


@given(st.binary(max_size=300) | json.map(msgspec.json.encode).flatmap(mutilated))
def test_any_bytes_are_the_json_they_are_or_undecodable(data: bytes) -> None:
    message = Message(id="1", channel="jobs", body=data, time=datetime.now().astimezone())
    for type in (Any, *TYPES):
        try:
            read = decoder(type)(message)
        except Undecodable:
            continue
        judged = standard_json.loads(data)  # An error here: we read what is no JSON.
        if type is Any:
            assert read == judged
        else:
            assert was_read(read, type)


@given(json)
def test_json_comes_back_as_it_went(body: Any) -> None:
    data, content_type = encoder(Any)(body)
    message = Message(id="1", channel="jobs", body=data, time=datetime.now().astimezone(), content_type=content_type)
    assert decoder(Any)(message) == body
    assert msgspec.json.decode(data) == body


@given(st.text(max_size=200))
def test_any_text_is_an_id_or_refused(text: str) -> None:
    try:
        assert check_id(text) == text
    except InvalidMessage:
        assert not (1 <= len(text) <= 100 and text.isascii() and text.isprintable() and text == text.strip())


@given(st.text(max_size=200))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    try:
        assert check_key(text) == text
        assert 1 <= size <= 128
    except InvalidMessage:
        assert not 1 <= size <= 128 or any("\ud800" <= c <= "\udfff" for c in text)


NAMES = "abcdefghijklmnopqrstuvwxyz0123456789-"


def may_be_header(name: str, value: str) -> bool:
    """The rule in words of its own: 1 to 64 of a-z, 0-9 and -, not ours; at most 4 KiB of UTF-8."""
    good_name = 1 <= len(name) <= 64 and not set(name) - set(NAMES) and not name.startswith("telex-")
    try:
        return good_name and len(value.encode()) <= 4096
    except UnicodeEncodeError:
        return False


@given(
    st.dictionaries(
        st.text(alphabet=NAMES, max_size=66) | st.text(max_size=5) | st.sampled_from(["telex-lane", "telex", "a\n"]),
        st.text(max_size=5) | st.sampled_from(["x" * 4096, "x" * 4097, "ä" * 2048, "ä" * 2049, "\udcff"]),
        max_size=5,
    )
)
def test_any_headers_are_taken_as_they_are_or_refused_by_the_rule(headers: dict[str, str]) -> None:
    try:
        taken = check_headers(headers)
    except InvalidMessage:
        assert not all(may_be_header(name, value) for name, value in headers.items())
    else:
        assert taken == headers
        assert all(may_be_header(name, value) for name, value in headers.items())


@pytest.mark.parametrize(("number", "fit"), [(32, True), (33, False)])
def test_thirty_two_headers_fit(number: int, fit: bool) -> None:
    headers = {f"h{index}": "" for index in range(number)}
    if fit:
        assert check_headers(headers) == headers
    else:
        with pytest.raises(InvalidMessage, match="at most 32"):
            check_headers(headers)


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
)
def test_patterns_match_as_their_words_say(pattern: list[str], name: list[str]) -> None:
    def fits(p: list[str], n: list[str]) -> bool:
        if not p:
            return not n
        if p[0] == "#":
            return any(fits(p[1:], n[i:]) for i in range(len(n) + 1))
        return bool(n) and p[0] in ("*", n[0]) and fits(p[1:], n[1:])

    assert matches(".".join(pattern), ".".join(name)) == fits(pattern, name)


@given(st.text(alphabet="abcXYZ0189!$&'()*+,;=-._~%", min_size=6))
def test_no_password_is_ever_shown(password: str) -> None:
    secret = f"zz{password}zz"
    assert secret not in redact(f"amqp://user:{secret}@host:5672/vhost")
