"""Names: no two things have the same, and nothing is taken for an inbox that is none."""

from __future__ import annotations

from random import Random

from telex.engine import Source, SourceKind
from telex.engines.rabbitmq.names import Names, lane_of

SOURCES = [
    Source("orders", SourceKind.QUEUE),
    Source("orders.placed", SourceKind.QUEUE),
    Source("orders.placed", SourceKind.GROUP, "billing"),
    Source("orders.placed", SourceKind.GROUP, "billing-trial"),
    Source("orders.placed", SourceKind.GROUP, "billing.dead"),
    Source("orders.*", SourceKind.GROUP, "billing"),
    Source("orders.#", SourceKind.GROUP, "billing"),
    Source("orders.1", SourceKind.QUEUE),
]


def test_no_two_things_share_a_name() -> None:
    names = Names("shop.", {})
    made = [names.topics, names.due, names.stray, names.catalog, names.members]
    for source in SOURCES:
        queue = names.queue(source)
        made += [queue, names.trial(queue), names.dead(queue), names.rest(queue)]
        made += [names.lane(queue, 1), names.state(queue, 1)]
    made += [names.step(ladder, level) for ladder in ("retry", "delay") for level in range(30)]
    assert len(made) == len(set(made))
    assert all(len(name.encode()) < 200 for name in made)
    assert all(name.startswith("shop.") for name in made)


def test_only_an_inbox_is_one() -> None:
    names, other = Names("a.", {}), Names("b.", {})
    inbox = names.inbox(Random(1))
    assert names.is_inbox(inbox)
    for text in (
        "",
        "work",
        inbox[:-1],
        inbox + "0",
        inbox.upper(),
        other.inbox(Random(1)),
        f"{inbox}\n",
        names.catalog,
    ):
        assert not names.is_inbox(text)


def test_own_names_lead_back() -> None:
    names = Names("", {"orders.placed": "legacy"})
    assert names.routing_key("orders.placed") == "legacy"
    assert names.channel("legacy") == "orders.placed"
    assert names.queue(Source("orders.placed", SourceKind.QUEUE)) == "legacy"


def test_lanes_are_the_same_for_every_publisher() -> None:
    """CRC-32 of the key, whose check value for these digits is 0xCBF43926 (3,421,780,262)."""
    assert lane_of("123456789", "id", 1000) == 262
    assert lane_of(None, "a", 16) == lane_of("a", "other", 16)
