"""Replay: what was settled comes again, what is under way does not come twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from telex.engine import Decision, Fetched, Settlement, Source, SourceKind
from telex.engines.embedded import replay
from telex.engines.embedded.engine import EmbeddedEngine

from .kit import NOW, SECOND, Kit
from .running import SUBSCRIPTION, outgoing, publish, use

SPANS = "SELECT stream, first, count, done, owner FROM span WHERE owner IS NULL ORDER BY stream, first"


def _replay(
    kit: Kit, source: Source, since: int, until: int, token: str | None = None, *, dry_run: bool = False
) -> tuple[int, str | None]:
    with kit.write() as db:
        return replay.replay(db, source, since, until, token, dry_run)


def test_a_slice_by_time_up_to_the_cursor() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    for second in range(5):
        kit.put(stream, f"a{second}", f"b{second}", when=NOW + second * SECOND)
    kit.claim(id, stream, 7)
    assert _replay(kit, source, NOW + SECOND, NOW + 3 * SECOND, dry_run=True) == (4, None)
    assert kit.all(SPANS) == []
    assert _replay(kit, source, NOW + SECOND, NOW + 3 * SECOND) == (4, None)
    assert kit.all(SPANS) == [(stream, 2, 4, None, None)]
    assert _replay(kit, source, NOW, NOW + 60 * SECOND) == (3, None)  # The rest below the cursor.
    assert kit.all(SPANS) == [(stream, 0, 2, None, None), (stream, 2, 4, None, None), (stream, 6, 1, None, None)]
    assert _replay(kit, source, NOW, NOW + 60 * SECOND) == (0, None)


def test_what_is_in_hand_or_waits_is_left_out() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    base = kit.put(stream, *"abcdefghijkl")
    kit.claim(id, stream, 12)
    kit.span(id, stream, 2, 3)
    kit.item(id, base + 3)  # Left its range, which is still held.
    kit.item(id, base + 4)
    kit.item(id, base + 8, due=NOW + SECOND)
    kit.item(id, base + 11)
    assert _replay(kit, source, NOW, NOW + 1) == (7, None)
    assert [row[1:3] for row in kit.all(SPANS)] == [(0, 2), (5, 3), (9, 2)]


def test_other_groups_are_not_touched() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    _, other = kit.group("t", "other")
    kit.put(stream, *"abc")
    kit.claim(id, stream, 3)
    kit.span(other, stream, 0, 2)
    assert _replay(kit, source, NOW, NOW + 1) == (3, None)
    assert kit.all("SELECT source FROM span WHERE owner IS NULL") == [(id,)]


def test_steps_go_on_where_they_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "STEP", 3)
    monkeypatch.setattr(replay, "SPAN", 2)
    kit = Kit()
    one, two = kit.channel("t", lanes=2)
    source, id = kit.group("t", "billing")
    for stream in (one, two):
        for run in range(4):
            kit.put(stream, f"a{run}", f"b{run}")
        kit.claim(id, stream, 8)
    total, token, steps = 0, None, 0
    while True:
        count, token = _replay(kit, source, NOW, NOW + 1, token)
        total, steps = total + count, steps + 1
        if token is None:
            break
    assert total == 16
    assert steps > 2
    covered = [
        (stream, int(str(first)) + index)
        for stream, first, count in kit.all("SELECT stream, first, count FROM span")
        for index in range(int(str(count)))
    ]
    assert sorted(covered) == [(stream, index) for stream in (one, two) for index in range(8)]
    assert kit.one("SELECT max(count) FROM span") == (2,)


def test_trimmed_history_is_not_handed_out() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    for run in range(3):
        kit.put(stream, f"a{run}", f"b{run}")
    kit.claim(id, stream, 6)
    kit.db.execute("DELETE FROM log WHERE pos = ?", ((stream << 40) + 2,))
    assert _replay(kit, source, NOW, NOW + 1) == (4, None)
    assert [row[1:3] for row in kit.all(SPANS)] == [(0, 2), (4, 2)]


def test_settled_messages_of_a_range_in_hand_come_again() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    kit.put(stream, *"abcdefgh")
    kit.claim(id, stream, 8)
    kit.span(id, stream, 0, 8, done=bytes([0b11010011]))  # c, d and f are in hand.
    assert _replay(kit, source, NOW, NOW + 1) == (5, None)
    assert [row[1:3] for row in kit.all(SPANS)] == [(1, 1), (4, 1), (6, 2)]
    assert kit.all("SELECT pos - ?, state, due FROM item", stream << 40) == [(0, "wait", 0)]
    assert _replay(kit, source, NOW, NOW + 1) == (0, None)


def test_an_unknown_source_gets_nothing() -> None:
    assert _replay(Kit(), Source("x", SourceKind.QUEUE), 0, NOW) == (0, None)


@pytest.mark.parametrize("settled", [5, 0, 10], ids=["half", "none", "all"])
def test_a_slice_that_ends_at_what_is_in_hand_is_handed_out_whole(settled: int) -> None:
    """The rest of a slice that does not fit into one claim begins where the range in hand begins."""

    async def test(engine: EmbeddedEngine) -> None:
        source = Source("q", SourceKind.QUEUE)
        await publish(engine, *(outgoing(f"m{number:03}") for number in range(110)))
        consumer = await engine.consume(SUBSCRIPTION, lambda leases: None)

        async def fetch(most: int) -> list[Fetched]:
            got: list[Fetched] = []
            while len(got) < most and (more := await consumer.fetch(most - len(got), 5)):
                got += more
            return got

        first = await fetch(100)
        await consumer.settle([Settlement(one.lease, Decision.ACCEPT) for one in first])
        second = await fetch(10)
        await consumer.settle([Settlement(one.lease, Decision.ACCEPT) for one in second[:settled]])
        epoch, now = datetime.fromtimestamp(0, UTC), datetime.now(UTC) + timedelta(days=1)
        count, _ = await engine.admin.replay(source, epoch, now, None, False)
        assert count == 100 + settled
        want = [one.message.id for one in (*first, *second[:settled])]
        again = [*await fetch(100), *await fetch(len(want) - 100)]
        assert await consumer.fetch(100, 0.2) == []
        assert sorted(one.message.id for one in again) == want

    use("memory://", test)
