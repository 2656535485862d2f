"""Purging and removing sources; browsing channels."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from telex.clock import SystemClock
from telex.engine import ChannelKind, Decision, Settled, Settlement, Source, SourceKind, Subscription
from telex.engines import Embedded
from telex.engines.embedded import removal, stats
from telex.engines.embedded.browse import browse
from telex.engines.embedded.engine import EmbeddedEngine
from telex.engines.embedded.retention import Trimmer
from telex.engines.embedded.topology import private_stream

from .kit import NOW, SECOND, Kit
from .running import LANE, QUEUE, SUBSCRIPTION, TOPIC, outgoing, publish, use


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


@pytest.mark.parametrize("subscription", [SUBSCRIPTION, replace(LANE, start="new")], ids=["queue", "ordered group"])
def test_a_consumer_outlives_the_removal_of_its_source(tmp_path: Path, subscription: Subscription) -> None:
    """Somebody removes a source that another process consumes, and makes it again: that one goes on by itself."""
    url = str(tmp_path / "telex.db")
    channel = QUEUE if subscription is SUBSCRIPTION else TOPIC

    async def test(engine: EmbeddedEngine) -> None:
        lost: list[object] = []
        consumer = await engine.consume(subscription, lost.extend)
        operator = Embedded().engine(url, app="operator", clock=SystemClock(), random=Random(2))
        await operator.open(time.monotonic() + 5)
        try:
            await publish(operator, outgoing("old", channel, key="k"))
            (old,) = await consumer.fetch(1, 2)
            await operator.admin.remove(subscription.source)
            async with asyncio.timeout(3):
                while not engine.problems():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert "was removed while it is consumed here" in engine.problems()[0]
            assert lost == [old.lease]
            assert list(await consumer.settle([Settlement(old.lease, Decision.ACCEPT)])) == [Settled.LOST]
            await operator.apply(await operator.plan([channel], [subscription] if channel is TOPIC else []))
            await publish(operator, outgoing("new", channel, key="k"))
            (new,) = await consumer.fetch(1, 3)
            assert new.message.id == "new"
            assert list(await consumer.settle([Settlement(new.lease, Decision.ACCEPT)])) == [Settled.DONE]
            assert engine.problems() == []
        finally:
            await operator.close(time.monotonic() + 5)

    use(url, test)
