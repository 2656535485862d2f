"""The RabbitMQ engine keeps the contract, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from telex.engine import EngineSettings
from telex.engines import RabbitMQ
from telex.testing.contract import ContractSuite

from ..brokers.rabbitmq import shared


class OnRabbitMQ:
    """A virtual host of its own for each test, on a node that all tests share."""

    def __init__(self) -> None:
        self.settings: EngineSettings = RabbitMQ()
        self.lease = 0.4
        self.virtual = False

    @contextmanager
    def place(self) -> Iterator[str]:
        with shared().place() as url:
            yield url


class TestRabbitMQ(ContractSuite):
    target = OnRabbitMQ()
