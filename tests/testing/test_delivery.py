from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from unittest.mock import AsyncMock

import pytest

from telex import ConfigError, Delivery, InvalidMessage, Procedure, Queue, Reject, Telex, Topic
from telex.testing import FakeDelivery, delivery


@dataclass
class Order:
    id: str
    total: float


emails = Queue("emails", str)
placed = Topic("orders.placed", Order)


def key(order: Order) -> str:
    if order.id == "broken":
        raise KeyError(order.id)
    return order.id


keyed = Topic("orders.keyed", Order, key=key)


async def bill(order: Order, delivery: Delivery) -> None:
    if order.total < 0:
        raise Reject("negative total")
    await delivery.state.execute(order.id)
    delivery.send(emails, f"attempt {delivery.attempt}")
    delivery.publish(placed, order, key=delivery.message.key)


def test_a_handler_is_called_directly() -> None:
    d = delivery(attempt=2, key="ann", state=AsyncMock())
    asyncio.run(bill(Order("1", 5), d))
    assert d.sent == [("emails", "attempt 2")]
    assert d.published == [("orders.placed", Order("1", 5))]
    d.state.execute.assert_awaited_once_with("1")


def test_verdicts_are_plain_exceptions() -> None:
    with pytest.raises(Reject):
        asyncio.run(bill(Order("1", -5), delivery()))


def test_it_is_a_delivery() -> None:
    def takes(delivery: Delivery) -> FakeDelivery | None:
        return delivery if isinstance(delivery, FakeDelivery) else None

    d = delivery(headers={"a": "b"})
    assert takes(d) is d
    assert (d.attempt, d.source, dict(d.message.headers), d.messages) == (1, "test", {"a": "b"}, (d.message,))
    assert isinstance(d.app, Telex)


@pytest.mark.parametrize(
    "emit",
    [
        lambda d: d.send(emails, 5),
        lambda d: d.send(emails, "x", key=""),
        lambda d: d.send(emails, "x", headers={"telex-a": "b"}),
        lambda d: d.publish(placed, Order("1", float("nan"))),
        lambda d: d.publish("plain", object()),
        lambda d: d.send(emails, "x", delay=-1),
        lambda d: d.send(emails, "x", delay=datetime(2040, 1, 1)),
        lambda d: d.publish(keyed, Order("", 1)),
        lambda d: d.publish(keyed, Order("broken", 1)),
    ],
)
def test_what_would_fail_in_an_application_fails_here(emit: Any) -> None:
    d = delivery()
    with pytest.raises(InvalidMessage):
        emit(d)
    assert (d.sent, d.published) == ([], [])


@pytest.mark.parametrize(
    "emit",
    [
        lambda d: d.send(placed, Order("1", 1)),
        lambda d: d.publish(emails, "x"),
        lambda d: d.send(Procedure("ask"), 1),
        lambda d: d.send("Not a name", 1),
        lambda d: d.fail(0, "no exception"),
    ],
)
def test_what_would_be_a_mistake_in_an_application_is_one_here(emit: Any) -> None:
    d = delivery()
    with pytest.raises(ConfigError):
        emit(d)
    assert (d.sent, d.published, d.failed) == ([], [], {})


def test_ids_differ() -> None:
    d = delivery()
    assert d.send(emails, "x") != d.publish(placed, Order("1", 1)) != d.send(emails, "x")


def test_items_of_a_batch_fail_by_index() -> None:
    d = delivery(size=3)
    assert len({message.id for message in d.messages}) == 3
    error = ValueError("x")
    d.fail(2, error)
    assert d.failed == {2: error}
    with pytest.raises(ConfigError, match="index"):
        d.fail(3, error)


def test_counts_begin_at_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        delivery(attempt=0)
