"""Which tests need a broker: they are run by `make test-rabbitmq`."""

from __future__ import annotations

import pytest

WITHOUT = ("tests/docs/", "tests/engines/rabbitmq/")
"""Tests of pages and of single modules, which speak of RabbitMQ and need none."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts a broker: its name, or that of its parameters, says so."""
    for item in items:
        if "rabbitmq" in item.nodeid and not item.nodeid.startswith(WITHOUT):
            item.add_marker("broker")
