"""The disk answers EIO while messages are in hand: what is uncertain is said to be, and the source goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from .crew import assert_good, crew
from .disks import Disk, Kind, disk, io_error
from .together import Processor, Together, at_work

Where = Literal["write", "sync"]


def _failing(
    under: Disk, where: Where, times: int | None, only: Callable[[], bool] = lambda: True
) -> Callable[[], int]:
    """Lets the disk fail, so often or from now on; what it returns tells how often it did."""
    failed = 0

    def fault(kind: Kind, name: str) -> None:
        nonlocal failed
        if kind == where and (times is None or failed < times) and only():
            failed += 1
            raise io_error(where)

    under.fault = fault
    return lambda: failed


def _settled(run: Together) -> int:
    return sum(event.op == "settle" for event in run.made.events())


@pytest.mark.parametrize("where", ["write", "sync"])
def test_errors_now_and_then_lose_nothing(tmp_path: Path, where: Where) -> None:
    """One to four failures in a row, whatever transactions they hit; then until a publish is one: it may be stored."""
    with crew(tmp_path, work=0.02, rejected=0.05) as made:

        async def main() -> None:
            with disk(made.store) as under:
                under.recording = False
                async with at_work(made, burst=20, pace=0.03) as run:
                    await run.new("ok", 100)
                    for no in range(16):
                        await run.fault(f"one {where} fails")
                        times = no % 4 + 1
                        failed = _failing(under, where, times)
                        await run.until(lambda failed=failed, times=times: failed() == times)  # type: ignore[misc]  # mypy: defaults of a lambda
                        await run.new("ok", 1)
                    for _ in range(100):  # Until it hits a publish.
                        if run.outcomes["unknown"]:
                            break
                        failed = _failing(under, where, 1, lambda: run.publishes)
                        await run.until(lambda failed=failed: failed() == 1)  # type: ignore[misc]  # mypy: default of a lambda
                        await run.new("ok", 1)
                    done = _settled(run)
                    await run.until(lambda: _settled(run) > done + 50 and not run.problems)
                    print(f"\n{dict(run.outcomes)}")

        asyncio.run(main())
        made.drain()
        report = made.judge(faults=frozenset({f"one {where} fails"}), acknowledged=300, duplicates=False)
        assert report.uncertain > 0
        assert_good(report)


@pytest.mark.parametrize("where", ["sync", pytest.param("write", marks=pytest.mark.slow)])
def test_a_disk_that_stays_broken_for_a_while_loses_nothing_and_nobody_spins(tmp_path: Path, where: Where) -> None:
    with crew(tmp_path, work=0.02, rejected=0.05) as made:

        async def main() -> None:
            with disk(made.store) as under:
                under.recording = False
                async with at_work(made, burst=20, pace=0.03) as run:
                    await run.new("ok", 200)
                    await run.fault(f"every {where} fails")
                    failed = _failing(under, where, None)
                    await run.until(lambda: run.outcomes["unknown"] + run.outcomes["fail"] > 0)
                    stored, used, before = run.outcomes["ok"], Processor(), failed()
                    async with run.silence():
                        await run.until(lambda: "outcomes cannot be stored" in run.problems)
                        await asyncio.sleep(2)
                    assert used.share < 0.5, "somebody tries again and again"
                    assert failed() > before, "nobody tries again"
                    assert run.outcomes["ok"] == stored, "acknowledged, and the disk did not keep it"
                    under.fault = None
                    await run.new("ok", 100)
                    await run.until(lambda: not run.problems)
                    print(f"\n{dict(run.outcomes)}, {used.share:.0%} of a processor")

        asyncio.run(main())
        made.drain()
        report = made.judge(faults=frozenset({f"every {where} fails"}), acknowledged=300, duplicates=False)
        assert_good(report)


def test_a_process_that_ends_while_the_disk_is_broken_ends(tmp_path: Path) -> None:
    """It cannot say that it leaves: what it had in hand comes back as a loss, and nothing that was settled does."""
    with crew(tmp_path, work=0.02, grace=1) as made:

        async def main() -> None:
            with disk(made.store) as under:
                under.recording = False
                async with at_work(made, burst=20, pace=0.03) as run:
                    await run.new("ok", 200)
                    async with run.silence():
                        await run.fault("the end comes while every sync fails")
                        _failing(under, "sync", None)
                        await asyncio.sleep(0.2)

        begun = Processor()
        asyncio.run(main())
        assert begun.elapsed < 20
        made.drain()
        assert_good(made.judge(faults=frozenset({"the end comes while every sync fails"}), acknowledged=200))
