"""Bodies of unions: told apart by their tags, and refused before anything is stored."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Optional, Union

import msgspec
import pytest

from telex import InvalidMessage, Queue, Telex, Topic
from telex.codec import encoder
from telex.testing import Harness


class Shipped(msgspec.Struct, tag=True):
    id: str


class Cancelled(msgspec.Struct, tag=True):
    id: str


Event = Shipped | Cancelled
UNIONS: list[Any] = [
    Event,
    Union[Shipped, Cancelled],  # noqa: UP007
    Annotated[Shipped | Cancelled, "a note"],
    Annotated[Shipped, 1] | Cancelled,
]


@pytest.mark.parametrize("type", UNIONS, ids=str)
def test_members_of_a_union_are_written(type: Any) -> None:
    assert encoder(type)(Shipped("1"))[0] == b'{"type":"Shipped","id":"1"}'
    assert encoder(type)(Cancelled("1"))[0] == b'{"type":"Cancelled","id":"1"}'


@pytest.mark.parametrize("type", UNIONS, ids=str)
def test_what_is_no_member_is_refused_by_name(type: Any) -> None:
    with pytest.raises(InvalidMessage, match="the body is a dict, and this channel takes Shipped or Cancelled"):
        encoder(type)({"id": "1"})


def test_none_may_be_a_member() -> None:
    for type in (str | None, Optional[str]):  # noqa: UP045
        assert encoder(type)(None)[0] == b"null"
        assert encoder(type)("a")[0] == b'"a"'
        with pytest.raises(InvalidMessage, match="takes str or NoneType"):
            encoder(type)(1)
    assert encoder(float | str)(1)[0] == b"1"


async def _events_arrive() -> list[Event]:
    topic, queue, seen = Topic("orders.events", Event), Queue("orders.jobs", Event), list[Event]()
    app = Telex(name="shop")

    @app.subscribe(topic)
    async def follow(event: Event) -> None:
        seen.append(event)

    @app.receive(queue)
    async def work(event: Event) -> None:
        seen.append(event)

    async with Harness(app) as harness:
        await app.publish(topic, Shipped("1"))
        await app.publish_many(topic, [Cancelled("2")])
        await app.send(queue, Cancelled("3"))
        await harness.drain()
    return sorted(seen, key=lambda event: event.id)


def test_events_of_a_union_arrive() -> None:
    assert asyncio.run(_events_arrive()) == [Shipped("1"), Cancelled("2"), Cancelled("3")]
