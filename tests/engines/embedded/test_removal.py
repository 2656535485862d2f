"""Purging and removing sources; browsing channels."""

from __future__ import annotations

import pytest

from telex.engine import ChannelKind, Source, SourceKind
from telex.engines.embedded import removal, stats
from telex.engines.embedded.browse import browse
from telex.engines.embedded.retention import Trimmer
from telex.engines.embedded.topology import private_stream

from .kit import NOW, SECOND, Kit


def _remove(kit: Kit, source: Source) -> int:
    steps = 1
    while True:
        with kit.write() as db:
            if removal.remove_step(db, source):
                return steps
        steps += 1


def test_purge_drops_what_is_ready_and_nothing_else() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    other, _ = kit.group("t", "other")
    base = kit.put(stream, *"abcdefghij")
    kit.claim(id, stream, 6)
    kit.span(id, stream, 0, 2)
    kit.span(id, stream, 2, 1, owner=None)
    kit.item(id, base + 3, due=NOW)
    kit.item(id, base + 4, due=NOW + SECOND)
    kit.item(id, base + 5, due=None, owner=1)
    kit.bury(id, "x")
    (before,) = stats.stats(kit.db, [source], NOW)
    with kit.write() as db:
        assert removal.purge(db, source, NOW) == before.ready == 6
    (after,) = stats.stats(kit.db, [source], NOW)
    assert (after.ready, after.leased, after.retrying, after.dead) == (0, 3, 1, 1)
    (untouched,) = stats.stats(kit.db, [other], NOW)
    assert untouched.ready == 10


def test_removing_a_group_leaves_its_topic_and_other_groups() -> None:
    kit = Kit()
    (stream,) = kit.channel("t")
    source, id = kit.group("t", "billing")
    other, _ = kit.group("t", "other")
    kit.put(stream, *"abc")
    kit.span(id, stream, 0, 1)
    kit.item(id, (stream << 40) + 1)
    kit.bury(id, "x")
    private = private_stream(kit.db, id)
    kit.put(private, "r")
    assert _remove(kit, source) == 1
    assert stats.sources(kit.db) == [other]
    for table in ("cursor", "span", "item", "dead"):
        assert kit.all(f"SELECT * FROM {table} WHERE source = ?", id) == [], table
    (left,) = stats.stats(kit.db, [other], NOW)
    assert left.ready == 3
    with kit.write() as db:
        trimmer = Trimmer(history=10**15)
        assert trimmer.step(db, NOW) == 1
    with kit.write() as db:
        trimmer.step(db, NOW)
    assert kit.all("SELECT no FROM stream WHERE no = ?", private) == []
    assert _remove(kit, source) == 1  # Again: nothing to do.


def test_removing_a_queue_takes_its_channel() -> None:
    kit = Kit()
    queue, _ = kit.queue("emails")
    (stream,) = kit.topology.channels["emails"].streams
    kit.put(stream, "a")
    kit.db.execute("INSERT INTO later(due, channel, frame) VALUES (1, ?, x'00')", (kit.topology.channels["emails"].id,))
    _remove(kit, queue)
    assert "emails" not in kit.topology.channels
    assert kit.all("SELECT * FROM later") == []
    _, again = kit.queue("emails")
    (fresh,) = kit.topology.channels["emails"].streams
    assert fresh != stream
    assert stats.stats(kit.db, [queue], NOW)[0].ready == 0
    assert again > 1  # Numbers are not used again: a worker of the old one takes nothing of the new one.


def test_many_dead_letters_go_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "STEP", 2)
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, *"abcde")
    assert _remove(kit, queue) == 3
    assert kit.all("SELECT * FROM dead") == []


def test_an_unknown_source_is_gone_already() -> None:
    kit = Kit()
    with kit.write() as db:
        assert removal.remove_step(db, Source("x", SourceKind.QUEUE))
        assert removal.purge(db, Source("x", SourceKind.QUEUE), NOW) == 0


def test_browsing_merges_lanes_by_age() -> None:
    kit = Kit()
    one, two = kit.channel("t", lanes=2)
    kit.put(one, "a", "b", when=NOW)
    kit.put(two, "c", when=NOW + 1)
    kit.put(one, "d", when=NOW + 2)
    kit.put(two, "e", "f", when=NOW + 3)
    assert [m.id for m in browse(kit.db, "t", None, 100).messages] == list("abcdef")
    assert [m.id for m in browse(kit.db, "t", None, 3).messages] == list("abc")
    assert [m.id for m in browse(kit.db, "t", NOW + 2, 100).messages] == list("def")
    assert browse(kit.db, "t", NOW + 4, 100).messages == []
    assert browse(kit.db, "unknown", None, 100).messages == []
    assert browse(kit.db, "t", None, 0).messages == []


def test_browsing_goes_on_where_it_was() -> None:
    kit = Kit()
    seen = browse(kit.db, "t", None, 100)
    one, two = kit.channel("t", lanes=2)
    kit.put(one, "a", "b", when=NOW)
    kit.put(two, "c", when=NOW)
    shown = []
    for _ in range(3):
        seen = browse(kit.db, "t", None, 1, seen.after)
        shown += [m.id for m in seen.messages]
    assert shown == list("abc")
    kit.put(two, "d", when=NOW - 1)  # A clock that was set back hides nothing.
    kit.put(one, "e", when=NOW)
    seen = browse(kit.db, "t", None, 100, seen.after)
    assert [m.id for m in seen.messages] == list("de")
    later = browse(kit.db, "t", NOW + 5, 100)
    assert later.messages == []
    kit.put(one, "f", when=NOW + 4)
    assert [m.id for m in browse(kit.db, "t", NOW + 5, 100, later.after).messages] == ["f"]


def test_browsing_passes_over_damage() -> None:
    kit = Kit()
    (stream,) = kit.channel("q", ChannelKind.QUEUE)
    base = kit.put(stream, "a", "b", "c")
    kit.put(stream, "d")
    (data,) = kit.one("SELECT data FROM log WHERE pos = ?", base)
    assert isinstance(data, bytes)
    at = data.index(b"\xa1b")
    kit.db.execute("UPDATE log SET data = ? WHERE pos = ?", (data[:at] + b"\xa1X" + data[at + 2 :], base))
    assert [m.id for m in browse(kit.db, "q", None, 100).messages] == ["a", "c", "d"]
