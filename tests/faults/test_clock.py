"""The wall clock jumps: leases do not notice, nothing is lost, what is due may shift with the clock."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from telex import Delivery, Queue, Retry, Telex
from telex.clock import SystemClock
from telex.engines import Embedded

JOBS = Queue("jobs", dict[str, Any])
LEASE = 0.5


class JumpingClock(SystemClock):
    """The machine's clocks; the wall clock may be set."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.offset


def _application(store: Path, clock: JumpingClock, runs: list[tuple[int, int]], work: float) -> Telex:
    app = Telex(str(store), name="clock", engines=[Embedded(lease=LEASE)])
    app._clock = clock  # The face takes no clock: only tests have two.

    @app.receive(JOBS, concurrency=8, retry=Retry(delay=0.02, jitter=0))
    async def handle(body: dict[str, Any], delivery: Delivery) -> None:
        runs.append((body["no"], delivery.attempt))
        await asyncio.sleep(work)
        if body["no"] % 5 == 0 and delivery.attempt == 1:
            raise RuntimeError("fails once")

    return app


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-400), timedelta(days=400)])
def test_a_clock_that_jumps_neither_ends_a_lease_nor_loses_a_message(tmp_path: Path, jump: timedelta) -> None:
    """Handlers run three leases long in one process while its clock jumps and another process looks on."""
    runs: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    clock = JumpingClock()

    async def main() -> None:
        store = tmp_path / "telex.db"
        app = _application(store, clock, runs, work=3 * LEASE)
        other = _application(store, JumpingClock(), others, work=0)
        async with app:
            for no in range(1, 5):
                await app.send(JOBS, {"no": no})
            async with app.running():
                while len(runs) < 4:
                    await asyncio.sleep(0.01)
                clock.offset = jump
                async with other.running():
                    await asyncio.sleep(4 * LEASE)
            assert [attempt for _, attempt in runs] == [1, 1, 1, 1], "a lease ended because a clock was set"
            assert others == [], "the other process took what was in hand"

    asyncio.run(main())


def test_a_clock_set_back_delays_no_message_that_is_ready_and_loses_no_retry(tmp_path: Path) -> None:
    runs: list[tuple[int, int]] = []
    clock = JumpingClock()

    async def main() -> None:
        app = _application(tmp_path / "telex.db", clock, runs, work=0)
        async with app:
            for no in range(1, 21):
                await app.send(JOBS, {"no": no})
            clock.offset = timedelta(hours=-1)
            for no in range(21, 41):
                await app.send(JOBS, {"no": no})
            async with asyncio.timeout(20):
                await app.run(until_idle=True)

    asyncio.run(main())
    assert sorted({no for no, _ in runs}) == list(range(1, 41))
    assert sorted(no for no, attempt in runs if attempt == 2) == [5, 10, 15, 20, 25, 30, 35, 40]
