"""The suite of broker faults notices a broker that loses, and a fault that hits nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from telex import Telex
from telex.engine import Source
from telex.testing.contract import BrokerFaultContract, breaking, broker
from telex.testing.contract.traffic import Traffic

from .targets import OnFile


class NoBroker:
    """Stands for a broker: a file, to which nothing happens."""

    host, port, notices, remembers = "127.0.0.1", 1, 1.0, 0.0
    cannot = frozenset[str]()

    def __init__(self, url: str) -> None:
        self.url = url

    def nothing(self, source: Source | None = None) -> None:
        """Does nothing."""

    kill = start = stop = block = unblock = delete = refuse_letters = take_letters = nothing

    def through(self, port: int) -> str:
        return self.url

    def stranger(self) -> tuple[str, str]:
        return self.url, ""


class Unbroken(OnFile):
    """A file is no broker, but traffic can flow through it."""

    @contextmanager
    def broker(self) -> Iterator[NoBroker]:
        with self.place() as url:
            yield NoBroker(url)


class Suite(BrokerFaultContract):
    """Not collected by its name; the tests here call its methods."""

    target = Unbroken()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls lost what has not come for three seconds; only where a loss is what the test expects."""
    monkeypatch.setattr(breaking, "STUCK", 3.0)


def forgetting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes every hundredth publish return without having stored anything."""
    right: Callable[..., Awaitable[str]] = getattr(Telex, name)
    calls = count(1)

    async def wrong(app: Telex, *args: Any, **fields: Any) -> str:
        return "" if next(calls) % 100 == 0 else await right(app, *args, **fields)

    monkeypatch.setattr(Telex, name, wrong)


def test_traffic_without_faults_is_in_order() -> None:
    Suite().test_shut_down_and_started_again_under_load()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["publish", "send"])
def test_messages_that_are_lost_are_missed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    forgetting(monkeypatch, name)
    with pytest.raises(AssertionError, match=r"I1: .* is lost"):
        Suite().test_shut_down_and_started_again_under_load()


def test_order_that_is_broken_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not serialise keys, on a topic that is said to be ordered."""
    right = Telex.subscribe

    def wrong(app: Telex, topic: Any, **fields: Any) -> Any:
        return right(app, topic, **{**fields, "ordered": False})

    monkeypatch.setattr(Telex, "subscribe", wrong)
    with pytest.raises(AssertionError, match="I5"):
        Suite().test_killed_at_one_and_two_thirds_nothing_is_lost()


def test_a_fault_that_hits_nobody_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Traffic, "in_hand", 0)
    with pytest.raises(AssertionError, match="never fired while something was under way"):
        Suite().test_shut_down_and_started_again_under_load()


@pytest.mark.parametrize(
    "name",
    [
        "test_an_alarm_pauses_publishing_and_is_reported",
        "test_a_publish_during_an_outage_waits_up_to_its_timeout",
        "test_wrong_credentials_are_refused_at_once_and_shown_nowhere",
        "test_nobody_there_is_said_by_the_deadline",
        "test_a_dead_letter_that_cannot_be_written_stops_its_source_and_is_written_later",
    ],
)
def test_faults_that_are_not_felt_are_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(broker, "PATIENCE", 1.0)
    with pytest.raises(AssertionError):
        getattr(Suite(), name)()
