"""Trimming: settled history goes in time, unsettled messages never; and room on the disk."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from telex.engines.embedded import retention
from telex.engines.embedded.append import Tail, append
from telex.engines.embedded.retention import Room, Trimmer
from telex.engines.embedded.topology import private_stream

from .kit import NOW, SECOND, Kit, message


def _trim(kit: Kit, trimmer: Trimmer, now: int, *, pressed: bool = False) -> int:
    total = 0
    for _ in range(20):
        with kit.write() as db:
            gone = trimmer.step(db, now, pressed=pressed)
        assert gone <= retention.RUNS
        total += gone
    return total


def _left(kit: Kit) -> list[object]:
    return [row[0] for row in kit.all("SELECT pos & 1099511627775 FROM log ORDER BY pos")]


def test_only_what_is_old_and_settled_by_all_goes() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    _, one = kit.group("t", "one")
    _, two = kit.group("t", "two")
    for second in range(6):
        kit.put(stream, f"a{second}", f"b{second}", when=NOW + second * SECOND)
    kit.claim(one, stream, 12)
    kit.claim(two, stream, 7)
    trimmer = Trimmer(history=10 * SECOND)
    assert _trim(kit, trimmer, NOW + 9 * SECOND) == 0
    assert _trim(kit, trimmer, NOW + 11 * SECOND) == 2
    assert _left(kit) == [4, 6, 8, 10]
    assert _trim(kit, trimmer, NOW + 999 * SECOND) == 1  # Half of the fourth run is not claimed by two.
    assert _left(kit) == [6, 8, 10]


def test_ranges_in_hand_and_waiting_messages_keep_their_runs() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    _, id = kit.group("t", "billing")
    base = kit.put(stream, *"ab")
    for _ in range(4):
        kit.put(stream, *"ab")
    kit.claim(id, stream, 10)
    kit.item(id, base + 3, due=None, owner=1)
    kit.span(id, stream, 7, 1)
    assert _trim(kit, Trimmer(history=0), NOW + SECOND) == 2
    assert _left(kit) == [2, 6, 8]  # The run with the item, and all from the range on.
    kit.db.execute("DELETE FROM span")
    assert _trim(kit, Trimmer(history=0), NOW + SECOND) == 2
    assert _left(kit) == [2]


def test_a_channel_has_its_own_history_and_a_full_store_none() -> None:
    kit = Kit()
    (kept,) = kit.channel("kept", history=timedelta(days=1))
    (other,) = kit.channel("other")
    kit.put(kept, "a")
    kit.put(other, "a")
    assert _trim(kit, Trimmer(history=SECOND), NOW + 2 * SECOND) == 1
    assert kit.one("SELECT pos >> 40 FROM log") == (kept,)
    assert _trim(kit, Trimmer(history=SECOND), NOW + 3 * SECOND, pressed=True) == 1


def test_pressure_never_takes_what_is_unsettled() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    kit.group("t", "billing")
    kit.put(stream, "a")
    assert _trim(kit, Trimmer(history=0), NOW + SECOND, pressed=True) == 0


def test_private_streams_keep_nothing_that_is_settled() -> None:
    kit = Kit()
    _, id = kit.queue("emails")
    private = private_stream(kit.db, id)
    base = kit.put(private, "a")
    kit.put(private, "b")
    kit.item(id, base + 1)
    assert _trim(kit, Trimmer(history=10**15), NOW + SECOND) == 1
    assert _left(kit) == [1]


def test_steps_are_bounded_and_go_round(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    with kit.write() as db:
        for _ in range(200):
            append(db, Tail(), stream, [message("a")], NOW)
    trimmer = Trimmer(history=0)
    steps = []
    for _ in range(4):
        with kit.write() as db:
            steps.append(trimmer.step(db, NOW + SECOND))
    assert steps == [64, 64, 64, 8]
    monkeypatch.setattr(retention, "LOOKS", 3)
    for _ in range(10):
        kit.put(stream, "b")
    assert _trim(kit, trimmer, NOW + SECOND) == 10


def test_a_run_that_stays_does_not_keep_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LOOKS", 4)
    kit = Kit()
    (stream,) = kit.channel("t")
    _, id = kit.group("t", "billing")
    base = kit.put(stream, "a")
    for _ in range(9):
        kit.put(stream, "a")
    kit.claim(id, stream, 10)
    for index in range(6):
        kit.item(id, base + index)
    assert _trim(kit, Trimmer(history=0), NOW + SECOND) == 4
    assert _left(kit) == [0, 1, 2, 3, 4, 5]


def test_orphaned_streams_go_whole() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    kit.group("t", "billing")
    kit.put(stream, "a")
    kit.db.execute("UPDATE stream SET channel = 0, lane = no WHERE no = ?", (stream,))
    assert _trim(kit, Trimmer(history=10**15), NOW) == 1
    assert kit.all("SELECT no FROM stream WHERE no = ?", stream) == []


def test_queries_use_indexes() -> None:
    kit = Kit()
    for sql in (
        "SELECT min(next) FROM cursor WHERE stream = 1",
        "SELECT min(first) FROM span WHERE stream = 1",
        "SELECT 1 FROM item WHERE pos >= 1 AND pos < 2 LIMIT 1",
        "SELECT pos, count, at FROM log WHERE pos >= 1 ORDER BY pos LIMIT 1",
    ):
        plan = " ".join(str(row[3]) for row in kit.all("EXPLAIN QUERY PLAN " + sql))
        assert "SEARCH" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_publishers_stop_before_the_reserve(tmp_path: Path) -> None:
    kit = Kit(str(tmp_path / "telex.db"))
    mebibyte = 1024 * 1024
    room = Room(kit.db.filename, 4 * mebibyte)
    with kit.write() as db:
        room.look(db)
    assert room.cap == 4 * mebibyte
    assert room.reserve == room.cap // 10
    assert room.left == room.cap - room.reserve - room.used
    assert not room.pressed
    assert room.take(3 * mebibyte)
    assert not room.take(mebibyte)
    assert room.take(200_000)
    assert room.pressed  # History goes before publishers are stopped.
    assert "max_bytes" in room.refusal()
    with kit.write() as db:
        room.look(db)
    assert room.take(3 * mebibyte)  # Nothing was stored after all.


def test_free_pages_count_as_room() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    kit.put(stream, "a", body=b"x" * 1_000_000)
    room = Room(None, 4 * 1024 * 1024)
    room.look(kit.db)
    used = room.used
    assert used > 1_000_000
    kit.db.execute("DELETE FROM log")
    room.look(kit.db)
    assert room.used < used - 900_000


def test_without_a_cap_the_disk_is_the_limit(tmp_path: Path) -> None:
    kit = Kit(str(tmp_path / "telex.db"))
    room = Room(kit.db.filename, None)
    room.look(kit.db)
    assert room.cap is not None
    assert room.reserve == retention.RESERVE
    assert "the disk" in room.refusal()
    memory = Room(None, None)
    memory.look(kit.db)
    assert memory.cap is None
    assert memory.take(10**15)
