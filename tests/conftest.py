"""Which tests need a broker: they are run by `make test-rabbitmq`. And that nothing fails where nobody hears of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

WITHOUT = ("tests/docs/", "tests/engines/rabbitmq/")
"""Tests of pages and of single modules, which speak of RabbitMQ and need none."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts a broker: its name, or that of its parameters, says so."""
    for item in items:
        if "rabbitmq" in item.nodeid and not item.nodeid.startswith(WITHOUT):
            item.add_marker("broker")


class Unheard(logging.Handler):
    """What event loops have to say of tasks and callbacks that failed, and that nobody waited for."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._formatter = logging.Formatter()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self._formatter.format(record)
        if "/aiormq/" not in text.partition("exception=")[0]:  # The client library's own tasks cannot be waited for.
            self.said.append(text)


@pytest.fixture(autouse=True)
def nothing_fails_unheard() -> Iterator[None]:
    """An event loop only logs such a failure; a test that did not look at the log would pass."""
    unheard = Unheard()
    log = logging.getLogger("asyncio")
    log.addHandler(unheard)
    yield
    log.removeHandler(unheard)
    assert not unheard.said, "\n".join(unheard.said)
