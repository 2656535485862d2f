"""The state of sources."""

from __future__ import annotations

import time
from datetime import timedelta

from telex.engine import ChannelKind, Source, SourceKind, SourceStats
from telex.engines.embedded import stats
from telex.engines.embedded.topology import private_stream

from .kit import NOW, SECOND, Kit, at


def _stats(kit: Kit, *sources: Source, now: int = NOW) -> list[SourceStats]:
    return stats.stats(kit.db, sources, now)


def test_an_empty_and_an_unknown_source() -> None:
    kit = Kit()
    queue, _ = kit.queue("emails")
    empty, unknown = _stats(kit, queue, Source("nothing", SourceKind.QUEUE))
    assert empty == SourceStats(
        source="emails", ready=0, delayed=0, retrying=0, leased=0, dead=0, consumers=0, size=0, oldest=None
    )
    assert unknown == SourceStats(source="nothing")


def test_everything_is_counted_once_and_in_its_place() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    base = kit.put(stream, *"abcdefghij", when=NOW - 60 * SECOND)
    kit.claim(id, stream, 8)
    kit.span(id, stream, 0, 4, done=b"\x01")  # Three in hand.
    kit.span(id, stream, 4, 2, owner=None)  # Two replayed.
    kit.item(id, base + 6, due=NOW + 5 * SECOND)
    kit.item(id, base + 7, due=NOW)
    kit.item(id, base, state="trial", due=None, owner=1)
    kit.bury(id, "x", "y")
    kit.db.execute("INSERT INTO consumer(member, source) VALUES (1, ?), (1, ?), (2, ?)", (id, id, id))
    (found,) = _stats(kit, source)
    assert (found.ready, found.leased, found.retrying, found.dead) == (2 + 2 + 1, 3 + 1, 1, 2)
    assert found.next_retry == at(NOW + 5 * SECOND)
    assert found.oldest == timedelta(seconds=60)
    assert found.consumers == 2
    (later,) = _stats(kit, source, now=NOW + 5 * SECOND)
    assert (later.ready, later.retrying, later.next_retry) == (6, 0, None)


def test_settling_everything_leaves_nothing() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    kit.put(stream, *"abc")
    kit.claim(id, stream, 3)
    (found,) = _stats(kit, source)
    assert (found.ready, found.leased, found.retrying, found.size, found.oldest) == (0, 0, 0, 0, None)


def test_on_ordered_sources_only_the_head_of_a_key_can_go_on() -> None:
    kit = Kit()
    streams = kit.channel("t", lanes=2)
    source, id = kit.group("t", "billing", ordered=True)
    base = kit.put(streams[0], *"abcdefgh")
    kit.claim(id, streams[0], 8)
    kit.item(id, base, key="k", state="parked", due=NOW + SECOND)
    kit.item(id, base + 1, key="k", state="parked", due=None)
    kit.item(id, base + 2, key="k", state="parked", due=0)
    kit.item(id, base + 3, key="l", state="parked", due=NOW)
    kit.item(id, base + 4, key="l", state="parked", due=None)
    kit.item(id, base + 5, key="m", state="parked", due=None, owner=1)
    kit.item(id, base + 6, key="m", state="parked", due=None)
    redriven = kit.put(private_stream(kit.db, id), "r", "s")
    kit.item(id, redriven, key="k")
    kit.item(id, redriven + 1, key="k")
    (found,) = _stats(kit, source)
    assert (found.ready, found.leased, found.retrying) == (1 + 2, 1, 3 + 1 + 1)
    assert found.next_retry == at(NOW + SECOND)


def test_delayed_sends_belong_to_their_queue() -> None:
    kit = Kit()
    queue, _ = kit.queue("emails")
    other, _ = kit.queue("other")
    channel = kit.topology.channels["emails"].id
    kit.db.execute("INSERT INTO later(due, channel, frame) VALUES (?, ?, ?)", (NOW + 1, channel, b"12345"))
    found, empty = _stats(kit, queue, other)
    assert (found.delayed, found.size, found.ready) == (1, 5, 0)
    assert (empty.delayed, empty.size) == (0, 0)


def test_size_is_that_of_what_is_held() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    for index in range(100):
        kit.put(stream, f"m{index}", body=b"x" * 1000)
    (found,) = _stats(kit, source)
    assert found.size is not None
    assert 100_000 < found.size < 120_000
    kit.claim(id, stream, 90)
    (found,) = _stats(kit, source)
    assert found.size is not None
    assert 10_000 < found.size < 12_000


def test_sources_are_listed_by_name_without_those_of_one_process() -> None:
    kit = Kit()
    kit.channel("t")
    queue, _ = kit.queue("emails")
    billing, _ = kit.group("t", "billing")
    kit.db.execute("INSERT INTO source(grp, pattern, kind, ordered) VALUES ('', 't', 'broadcast', 0)")
    assert stats.sources(kit.db) == [queue, billing]


def test_a_thousand_topics_and_a_hundred_groups_take_no_time() -> None:
    kit = Kit()
    with kit.write() as db:
        db.executemany(
            "INSERT INTO channel(id, name, kind, ordered, lanes) VALUES (?, ?, 'topic', 0, 1)",
            [(n, f"t{n}") for n in range(1, 1001)],
        )
        db.executemany(
            "INSERT INTO stream(no, channel, lane, next) VALUES (?, ?, 0, 100)", [(n, n) for n in range(1, 1001)]
        )
        db.executemany(
            "INSERT INTO source(id, grp, pattern, kind, ordered) VALUES (?, ?, '#', 'group', 0)",
            [(n, f"g{n}") for n in range(1, 101)],
        )
        db.executemany("INSERT INTO stream(channel, lane) VALUES (?, 0)", [(-n,) for n in range(1, 101)])
        db.executemany(
            "INSERT INTO log(pos, count, at, data) VALUES (?, 100, ?, ?)",
            [(n << 40, NOW - n, b"x" * 1000) for n in range(1, 1001)],
        )
        db.executemany(
            "INSERT INTO cursor(source, stream, next) VALUES (?, ?, ?)",
            [(group, n, 0 if group % 2 else 50) for n in range(1, 1001) for group in range(1, 101)],
        )
    start = time.perf_counter()
    found = _stats(kit, *stats.sources(kit.db))
    took = time.perf_counter() - start
    by_name = {entry.source: entry for entry in found}
    assert by_name["#/g1"].ready == 100_000
    assert by_name["#/g2"].ready == 50_000
    assert by_name["#/g1"].size == 1_000_000
    assert took < 1.5  # 0.2 s by itself; the machine may be busy. A scan of messages takes far longer.


def test_channel_kinds_have_their_sources() -> None:
    kit = Kit()
    kit.channel("price", ChannelKind.PROCEDURE)
    assert [str(source) for source in stats.sources(kit.db)] == ["price"]
