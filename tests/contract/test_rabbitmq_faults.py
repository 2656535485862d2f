"""RabbitMQ is killed, shut down, cut off, starved and tampered with, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from telex.engine import EngineSettings
from telex.engines import RabbitMQ
from telex.testing.contract import Broker, BrokerFaultContract

from ..brokers.hurt import HEARTBEAT, hurt_broker


class OnHurtRabbitMQ:
    """A node that only these tests use."""

    def __init__(self) -> None:
        self.settings: EngineSettings = RabbitMQ()
        self.lease = float(HEARTBEAT)
        self.virtual = False

    def broker(self) -> AbstractContextManager[Broker]:
        return hurt_broker()

    @contextmanager
    def place(self) -> Iterator[str]:
        with hurt_broker() as broker:
            yield broker.url


class TestRabbitMQ(BrokerFaultContract):
    target = OnHurtRabbitMQ()
