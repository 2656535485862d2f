"""What each version of the server decides, also of those that are not here to run against."""

from __future__ import annotations

import pytest

from telex import ConfigError
from telex.engine import Source, SourceKind
from telex.engines.rabbitmq.control import Control
from telex.engines.rabbitmq.names import Names
from telex.engines.rabbitmq.topology import Topology
from telex.engines.rabbitmq.versions import HIGH, gates


@pytest.mark.parametrize(
    ("version", "nack_is_free", "dead_limit"),
    [
        ("3.10.0", False, None),
        ("3.10.8", False, None),
        ("3.13.7", False, None),
        ("4.0.0", False, -1),
        ("4.2.1", False, -1),
        ("4.3.0", True, -1),
        ("4.10.0", True, -1),
        ("5.0.0-beta.1", True, -1),
    ],
)
def test_decisions(version: str, nack_is_free: bool, dead_limit: int | None) -> None:
    decided = gates({"product": "RabbitMQ", "version": version})
    assert (decided.nack_is_free, decided.dead_limit) == (nack_is_free, dead_limit)


@pytest.mark.parametrize(
    "properties",
    [
        {"product": "RabbitMQ", "version": "3.9.29"},
        {"product": b"RabbitMQ", "version": b"2.8.1"},
        {"product": "LavinMQ", "version": "2.0.0"},
        {"product": "RabbitMQ", "version": "unknown"},
        {},
    ],
)
def test_what_is_refused_says_what_is_needed(properties: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"3\.10"):
        gates(properties)


@pytest.mark.parametrize(("version", "limit"), [("3.10.8", None), ("4.1.0", -1)])
def test_a_dead_queue_may_be_looked_at_for_ever(version: str, limit: int | None) -> None:
    """-1 means 0 to 3.x, which then loses a letter at the first look; from 4.0 no limit means 20."""
    topology = Topology(Names("", {}), Control.__new__(Control))
    parts = topology.source(Source("work", SourceKind.QUEUE), 1, gates({"product": "RabbitMQ", "version": version}))
    arguments = {queue.name: queue.arguments for queue in parts.queues}
    assert arguments["work:dead"].get("x-delivery-limit") == limit
    assert arguments["work"]["x-delivery-limit"] == HIGH
    assert arguments["work"]["x-dead-letter-strategy"] == "at-least-once"
