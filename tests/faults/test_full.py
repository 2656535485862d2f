"""The disk fills up, or the store comes to its cap, while messages are in hand: publishers are told, workers go on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from telex.engines.embedded import retention

from .crew import assert_good, crew
from .disks import SIZE, Kind, disk
from .together import Processor, Together, at_work

CAP = 1024 * 1024


async def _goes_on(run: Together, settled: int) -> None:
    """Handlers run and are settled, dead letters are kept."""
    events = run.made.events()
    done, dead = _settled(run), sum(event.op == "settle" and event.name == "dead" for event in events)
    await run.until(lambda: _settled(run) >= done + settled)
    await run.until(lambda: sum(event.op == "settle" and event.name == "dead" for event in run.made.events()) > dead)


def _settled(run: Together) -> int:
    return sum(event.op == "settle" for event in run.made.events())


def test_the_cap_stops_publishers_and_not_what_empties_the_store(tmp_path: Path) -> None:
    with crew(tmp_path, max_bytes=CAP, rejected=0.02, work=0.03, concurrency=8) as made:

        async def main() -> None:
            async with at_work(made, burst=60, pace=0.02) as run:
                await run.until(lambda: run.outcomes["fail"] > 0)
                await run.fault("the cap is reached")
                await run.until(lambda: "max_bytes" in run.problems)
                await _goes_on(run, 100)
                for _ in range(2):  # By itself: what is handled makes room, and that is filled again.
                    await run.new("ok", 20)
                    await run.new("fail", 20)
                assert run.outcomes["unknown"] == 0
                print(f"\n{dict(run.outcomes)}")

        asyncio.run(main())
        assert _without_letters(made.folder / "telex.db") <= CAP
        made.drain()
        report = made.judge(faults=frozenset({"the cap is reached"}), acknowledged=200, duplicates=False)
        assert_good(report)


def test_a_disk_that_others_fill_stops_publishers_and_not_what_empties_the_store(tmp_path: Path) -> None:
    """What is left is less than the reserve: it is for settlements and dead letters, until there is room again."""
    with crew(
        tmp_path, rejected=0.02, work=0.06, concurrency=4
    ) as made:  # Slower than its publisher: it has a backlog.

        async def main() -> None:
            with disk(made.store) as under:
                under.recording = False
                async with at_work(made, burst=40, pace=0.03) as run:
                    await run.new("ok", 800)
                    under.free = SIZE // 9
                    await run.new("fail")  # It is noticed.
                    await run.fault("the disk is full")
                    under.free = SIZE // 14
                    await run.new("fail", 20)
                    refused = run.outcomes["ok"]
                    assert "the store is full" in run.problems
                    await _goes_on(run, 200)
                    assert run.outcomes["ok"] - refused <= 40, "publishers take the room that settlements need"
                    await run.until(lambda: "cannot be stored" not in run.problems)
                    under.free = 100 * 1024 * 1024
                    await run.new("ok", 100)
                    await run.until(lambda: not run.problems)
                    assert run.outcomes["unknown"] == 0, "a full disk is a certain refusal"
                    print(f"\n{dict(run.outcomes)}")

        asyncio.run(main())
        made.drain()
        report = made.judge(faults=frozenset({"the disk is full"}), acknowledged=800, duplicates=False)
        assert_good(report)


def test_a_disk_that_takes_nothing_loses_nothing_and_nobody_spins(tmp_path: Path) -> None:
    """Every write answers FULL, settlements too: outcomes wait in the process, handlers do not run again for them."""
    with crew(tmp_path, rejected=0.1, work=0.02, concurrency=4) as made:

        def full(kind: Kind, name: str) -> None:
            if kind == "write":
                raise apsw.FullError("database or disk is full")

        async def main() -> None:
            with disk(made.store) as under:
                under.recording = False
                async with at_work(made, burst=40, pace=0.05) as run:
                    await run.new("ok", 200)
                    await run.fault("no write succeeds")
                    under.fault = full
                    await run.new("fail", 20)
                    stored, used = run.outcomes["ok"], Processor()
                    async with run.silence():
                        await run.until(lambda: "outcomes cannot be stored" in run.problems)
                        await asyncio.sleep(2)
                    assert used.share < 0.5, "somebody tries again and again"
                    assert run.outcomes["ok"] == stored
                    under.fault = None
                    await run.new("ok", 100)
                    await run.until(lambda: not run.problems)
                    assert run.outcomes["unknown"] == 0, "a full disk is a certain refusal"
                    print(f"\n{dict(run.outcomes)}, {used.share:.0%} of a processor")

        asyncio.run(main())
        made.drain()
        report = made.judge(faults=frozenset({"no write succeeds"}), acknowledged=300, duplicates=False)
        assert_good(report)


def test_the_disk_of_these_tests_tells_how_full_it_is(tmp_path: Path) -> None:
    with disk(str(tmp_path / "telex.db")) as under:
        db = apsw.Connection(str(tmp_path / "telex.db"))
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE t(a)")
        room = retention.Room(str(tmp_path / "telex.db"), None)
        under.free = 50_000
        room.look(db)
        assert room.left is not None
        assert room.left < 50_000
        with pytest.raises(apsw.FullError):
            db.execute("INSERT INTO t VALUES (zeroblob(60000))")
        db.execute("INSERT INTO t VALUES (zeroblob(10000))")
        assert under.free < 40_000
        under.free = None
        db.close()


def _without_letters(path: Path) -> int:
    """Bytes of a store but for its dead letters, which are written above the cap as well: none may be lost for it."""
    with contextlib.closing(apsw.Connection(str(path))) as db:
        ((letters,),) = db.execute("SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name GLOB 'dead*'")
    return path.stat().st_size - int(str(letters))
