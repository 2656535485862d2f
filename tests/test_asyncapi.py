"""Applications as AsyncAPI documents: judged by the official schema, and against what is really on the wire."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from examples.flights.app import app as flights
from jsonschema import Draft7Validator

from telex import Batch, ConfigError, Delivery, Handlers, Procedure, Queue, Retry, Telex, Topic
from telex.asyncapi import document
from telex.codec import encoder

V = TypeVar("V")
OFFICIAL = Path(__file__).parent / "data" / "asyncapi-3.0.0.json"


@dataclass
class Order:
    id: str
    customer: str
    total: float = 0.0


class Shipped(msgspec.Struct, tag=True):
    id: str
    at: datetime


class Cancelled(msgspec.Struct, tag=True):
    id: str
    where: tuple[float, float]
    discriminator: str = ""


class Row(TypedDict):
    prefixItems: list[int]


@attrs.define
class Parcel:
    weight: float


class Item(pydantic.BaseModel):
    sku: str
    pair: tuple[int, str]
    children: list[Item] = []


class Named:
    """Two classes of one name, of two families."""

    class Order(pydantic.BaseModel):
        model: int


placed = Topic("orders.placed", Order, ordered=True, key=lambda o: o.customer)
events = Topic("orders.events", Shipped | Cancelled)
items = Queue("items", Item)
models = Queue("models", list[Named.Order])
rows = Queue("rows", Row)
parcels = Topic("parcels", Parcel)
files = Queue("files", bytes)
price = Procedure("quotes.price", str, dict[str, int])

BODIES: list[tuple[str, Any, Any]] = [
    ("orders.placed", Order, Order("1", "ann", 2.5)),
    ("orders.events", Shipped | Cancelled, Shipped("1", datetime(2026, 1, 2, tzinfo=UTC))),
    ("orders.events", Shipped | Cancelled, Cancelled("1", (1.0, 2.0))),
    ("items", Item, Item(sku="a", pair=(1, "b"), children=[Item(sku="c", pair=(2, "d"))])),
    ("models", list[Named.Order], [Named.Order(model=3)]),
    ("rows", Row, Row(prefixItems=[1])),
    ("parcels", Parcel, Parcel(1.5)),
    ("quotes.price", str, "table"),
    ("quotes.price-answer", dict[str, int], {"cents": 5}),
]


@pytest.fixture
def app() -> Telex:
    handlers = Handlers()

    @handlers.subscribe(placed, group="billing", retry=Retry(attempts=8))
    async def bill(order: Order, delivery: Delivery) -> None:
        """Bills an order.

        Twice is harmless.
        """

    @handlers.subscribe(placed, group="mail", ordered=False, batch=Batch(10))
    async def mail(orders: list[Order]) -> None: ...

    @handlers.subscribe(placed, broadcast=True)
    async def refresh(order: Order) -> None: ...

    @handlers.subscribe(events, group="mail")
    async def follow(event: Shipped | Cancelled) -> None: ...

    @handlers.subscribe("orders.#", group="audit")
    async def audit(body: bytes) -> None: ...

    @handlers.subscribe("plain.topic", group="one")
    async def one(body: Order) -> None: ...

    @handlers.subscribe("plain.topic", group="two")
    async def two(body: dict[str, int]) -> None: ...

    @handlers.receive(items)
    async def take(item: Item) -> None: ...

    @handlers.receive(models)
    async def take_model(item: list[Named.Order]) -> None: ...

    @handlers.receive(rows, retry=Retry(attempts=None))
    async def row(row: Row) -> None: ...

    @handlers.receive(files)
    async def file(content: bytes) -> None: ...

    @handlers.reply(price)
    async def quote(sku: str) -> dict[str, int]:
        return {sku: 1}

    app = Telex(name="shop")
    app.include(handlers)
    return app


@pytest.fixture
def written(app: Telex) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(document(app, version="1.2.0", sends=[parcels, price])))
    return found


@pytest.fixture(scope="module")
def official() -> Draft7Validator:
    return Draft7Validator(json.loads(OFFICIAL.read_text()))


def test_the_official_schema_accepts_it(written: dict[str, Any], official: Draft7Validator) -> None:
    assert [error.message for error in official.iter_errors(written)] == []


def test_the_example_fits_too(official: Draft7Validator) -> None:
    written = json.loads(json.dumps(document(flights)))
    assert len(written["operations"]) >= 4
    assert list(official.iter_errors(written)) == []


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Box(msgspec.Struct, Generic[V]):
    content: V
    next: Box[V] | None = None


@dataclass
class Everything:
    at: datetime
    day: date
    price: Decimal
    id: UUID
    colour: Colour
    size: Literal["s", "l"]
    tags: set[str]
    pairs: list[tuple[int, ...]]
    short: Annotated[str, msgspec.Meta(max_length=3, pattern="^[a-z]*$", description="a few letters")]
    box: Box[int]
    data: bytes
    anything: Any = None
    span: timedelta | None = None


TYPES: list[Any] = [
    Everything,
    Box[int],
    Box[str],
    list[Everything],
    dict[str, Box[int]],
    int | None,
    Colour,
    Literal[1, 2],
    Annotated[int, msgspec.Meta(ge=0)],
    list[Item],
    Item | None,
    datetime,
    list,
    dict,
]


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_every_type_of_body_has_a_schema(type: Any, official: Draft7Validator) -> None:
    app = Telex(name="shop")
    app.receive(Queue("things", type))(lambda body: None)
    written = json.loads(json.dumps(document(app)))
    assert [error.message for error in official.iter_errors(written)] == []
    assert all(resolve(written, reference) is not None for reference in references(written))
    payload = written["components"]["messages"]["things"]["payload"]
    Draft7Validator.check_schema({**payload, "components": written["components"]})
    assert payload


def test_an_application_without_handlers_is_a_document_too(official: Draft7Validator) -> None:
    assert list(official.iter_errors(document(Telex(name="empty")))) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["operations"]["receive-items"].update(action="take"),
        lambda d: d["channels"]["items"].update(address=5),
        lambda d: d["components"]["schemas"]["Order"].update(type="thing"),
        lambda d: d.update(asyncapi="2.6.0"),
    ],
)
def test_the_official_schema_refuses_mistakes(written: dict[str, Any], official: Draft7Validator, spoil: Any) -> None:
    spoil(written)
    assert list(official.iter_errors(written))


def test_every_reference_leads_somewhere(written: dict[str, Any]) -> None:
    found = list(references(written))
    assert len(found) > 30
    for reference in found:
        assert resolve(written, reference) is not None, reference


@pytest.mark.parametrize(("at", "type", "body"), BODIES, ids=[f"{at}-{type}" for at, type, _ in BODIES])
def test_what_is_on_the_wire_fits_its_schema(written: dict[str, Any], at: str, type: Any, body: Any) -> None:
    encoded, content_type = encoder(type)(body)
    message = written["components"]["messages"][at]
    assert message["contentType"] == content_type
    schema = {**message["payload"], "components": written["components"]}
    Draft7Validator.check_schema(schema)
    validator = Draft7Validator(schema)
    validator.validate(json.loads(encoded))
    assert list(validator.iter_errors([{"wrong": [None]}])), "the schema takes anything"


def test_a_tuple_is_as_long_as_it_says(written: dict[str, Any]) -> None:
    schema = {**written["components"]["messages"]["orders.events"]["payload"], "components": written["components"]}
    wrong = {"type": "Cancelled", "id": "1", "where": [1.0, 2.0, 3.0]}
    assert list(Draft7Validator(schema).iter_errors(wrong))
    assert not list(Draft7Validator(schema).iter_errors({**wrong, "where": [1.0, 2.0]}))


def test_receiving(written: dict[str, Any]) -> None:
    assert written["info"] == {"title": "shop", "version": "1.2.0"}
    assert written["channels"]["orders.placed"]["x-telex"] == {"kind": "topic", "ordered": True, "lanes": 16}
    assert set(written["operations"]) == {
        "subscribe-orders.placed-billing",
        "subscribe-orders.placed-mail",
        "broadcast-orders.placed",
        "subscribe-orders.events-mail",
        "subscribe-pattern-orders.ALL-audit",
        "subscribe-plain.topic-one",
        "subscribe-plain.topic-two",
        "receive-items",
        "receive-models",
        "receive-rows",
        "receive-files",
        "reply-quotes.price",
        "publish-parcels",
        "request-quotes.price",
    }
    bill = written["operations"]["subscribe-orders.placed-billing"]
    assert bill["action"] == "receive"
    assert bill["summary"] == "Bills an order."
    assert bill["description"] == "Twice is harmless."
    assert bill["x-telex"] == {"source": "orders.placed/billing", "group": "billing", "attempts": 8, "ordered": True}
    assert written["operations"]["receive-rows"]["x-telex"]["attempts"] is None


def test_a_batch_is_documented_as_its_messages(written: dict[str, Any]) -> None:
    assert list(written["channels"]["orders.placed"]["messages"]) == ["orders.placed"]


def test_handlers_of_a_plain_name_each_have_their_message(written: dict[str, Any]) -> None:
    messages = [written["operations"][f"subscribe-plain.topic-{g}"]["messages"][0]["$ref"] for g in ("one", "two")]
    assert messages == [f"#/channels/plain.topic/messages/{m}" for m in ("plain.topic", "plain.topic-2")]


def test_a_pattern_has_no_address(written: dict[str, Any]) -> None:
    channel = written["channels"]["pattern-orders.ALL"]
    assert channel["address"] is None
    assert channel["x-telex"] == {"kind": "topic", "pattern": "orders.#"}


def test_requests_name_their_answers(written: dict[str, Any]) -> None:
    for operation, action in (("reply-quotes.price", "receive"), ("request-quotes.price", "send")):
        found = written["operations"][operation]
        assert found["action"] == action
        assert found["reply"]["channel"] == {"$ref": "#/channels/quotes.price-answer"}
    assert written["channels"]["quotes.price-answer"]["address"] is None


def test_bytes_are_no_json(written: dict[str, Any]) -> None:
    assert written["components"]["messages"]["files"]["contentType"] == "application/octet-stream"


def test_two_classes_of_one_name_stay_two(written: dict[str, Any]) -> None:
    schemas = written["components"]["schemas"]
    assert set(schemas["Order"]["properties"]) == {"id", "customer", "total"}
    assert set(schemas["Order-model"]["properties"]) == {"model"}
    payload = written["components"]["messages"]["models"]["payload"]
    assert payload["items"] == {"$ref": "#/components/schemas/Order-model"}


def test_nothing_of_the_url_is_in_it(official: Draft7Validator) -> None:
    text = json.dumps(document(Telex("amqp://user:secret@broker/", name="shop")))
    assert "secret" not in text
    assert "broker" not in text


def test_wrong_declarations_are_said() -> None:
    app = Telex(name="shop")

    @app.receive("things")
    async def first(body: int) -> None: ...

    @app.receive("things")
    async def second(body: int) -> None: ...

    with pytest.raises(ExceptionGroup, match="cannot be started"):
        document(app)
    with pytest.raises(ConfigError, match="JSON knows nothing"):
        document(Telex(name="shop"), sends=[Queue("open", Path)])


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(written: Any, reference: str) -> Any:
    assert re.fullmatch(r"#(/[A-Za-z0-9._-]+)+", reference), reference
    for part in reference.removeprefix("#/").split("/"):
        written = written[part]
    return written
