"""The reports of a worker: what fails while they are made is said, and the next is made all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from telex.cli import vitals
from telex.cli.vitals import Report, Vitals
from telex.engine import Source, SourceStats

from ..core.kit import make, run, until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "EVERY", 0.005)
    monkeypatch.setattr(vitals, "STATS_EVERY", 0.005)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of it so far."""
    said = [record for record in caplog.records if getattr(record, "event", "") == "telex.vitals_failing"]
    assert all(record.exc_info for record in said)
    return [record.getMessage() for record in said]


class Admin:
    """What is asked how the sources stand."""

    def __init__(self) -> None:
        self.broken = False
        self.looks = 0

    async def sources(self) -> Sequence[Source]:
        self.looks += 1
        if self.broken:
            raise OSError("disk I/O error")
        return []

    async def stats(self, sources: Sequence[Source]) -> Sequence[SourceStats]:
        return []


def test_a_look_at_the_sources_that_fails_is_said_once_and_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make()
    admin = Admin()
    monkeypatch.setattr(type(app), "admin", property(lambda self: admin))
    reports: list[Report] = []
    alive = Vitals(app, reports.append, looks=True)

    async def main() -> None:
        async with app:
            reporter = asyncio.ensure_future(alive.report())
            await until(lambda: reports[-1].sources is not None)
            for count in (1, 2):
                admin.broken, admin.looks = True, 0
                await until(lambda: reports[-1].problems and admin.looks > 2)
                assert reports[-1].problems == ["the sources cannot be looked at: OSError: disk I/O error"]
                assert len(complaints(caplog)) == count
                admin.broken = False
                await until(lambda: not reports[-1].problems)
            reporter.cancel()
        said = complaints(caplog)[0]
        assert said == "the sources cannot be looked at: OSError: disk I/O error; tried again every few seconds"

    run(main())


def test_a_report_that_cannot_be_made_is_said_once_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = make()
    reports: list[Report] = []
    fails = 0

    def sink(report: Report) -> None:
        nonlocal fails
        if fails:
            fails -= 1
            raise ValueError("no room for it")
        reports.append(report)

    alive = Vitals(app, sink, looks=False)

    async def main() -> None:
        nonlocal fails
        async with app:
            reporter = asyncio.ensure_future(alive.report())
            await until(lambda: len(reports) > 2)
            fails = 3
            await until(lambda: not fails)
            before = len(reports)
            await until(lambda: len(reports) > before)
            reporter.cancel()
        assert len(complaints(caplog)) == 1
        assert "no room for it" in complaints(caplog)[0]

    run(main())
