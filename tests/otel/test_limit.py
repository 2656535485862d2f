from __future__ import annotations

import logging

import pytest

from telex.events import fields_of
from telex.otel.limit import Limit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_in_each_second() -> None:
    clock = Clock()
    limit = Limit(3, clock)
    assert [limit.take() for _ in range(5)] == [True, True, True, False, False]
    clock.now += 0.9
    assert not limit.take()
    limit.back()
    assert limit.take()
    clock.now += 0.2
    assert [limit.take() for _ in range(4)] == [True, True, True, False]


def test_none_is_no_limit() -> None:
    limit = Limit(None)
    assert all(limit.take() for _ in range(10_000))


def test_what_is_not_recorded_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limit = Limit(1, clock)
    for _ in range(100):
        for _ in range(3):
            limit.take()
        clock.now += 1
    records = [fields_of(record) for record in caplog.records]
    assert [record["unrecorded"] for record in records] == [2, 120]
    assert {record["event"] for record in records} == {"telex.traces_limited"}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
