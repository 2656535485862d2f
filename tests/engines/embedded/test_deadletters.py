"""Dead letters: looking changes nothing, redriving loses nothing."""

from __future__ import annotations

from typing import Literal

import pytest

from telex.engine import Decide, Letter, Source, SourceKind
from telex.engines.embedded import deadletters
from telex.engines.embedded.append import Tail, read_one
from telex.engines.embedded.topology import private_stream
from telex.message import Message

from .kit import NOW, SECOND, Kit, at, message

Verb = Literal["keep", "redrive", "discard"]
DEAD = "SELECT no, source, id, key, reason, text, cause, at, failures, redrives, errors, frame FROM dead ORDER BY no"


def _keep(seen: list[Letter]) -> Decide:
    def decide(letter: Letter) -> Verb:
        seen.append(letter)
        return "keep"

    return decide


def test_looking_shows_everything_in_order_and_changes_nothing() -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    _, other = kit.queue("other")
    kit.bury(id, "a", "b", "c", errors='["{\\"number\\": 1}", "two"]', redrives=2)
    kit.bury(other, "z")
    before = kit.all(DEAD)
    seen: list[Letter] = []
    with kit.write() as db:
        first = deadletters.sweep(db, queue, _keep(seen), None, 2, NOW)
        second = deadletters.sweep(db, queue, _keep(seen), first.after, 2, NOW)
    assert (first.seen, first.moved, first.complete) == (2, 0, True)
    assert first.after is not None
    assert (second.seen, second.after) == (1, None)
    assert [letter.message.id for letter in seen] == ["a", "b", "c"]
    assert seen[0].message == message("a", key="k")
    assert (seen[0].reason, seen[0].text, seen[0].cause) == ("rejected", "no", "ValueError|place")
    assert seen[0].errors == ('{"number": 1}', "two")
    assert (seen[0].at, seen[0].redrives, seen[0].source) == (at(NOW), 2, queue)
    assert kit.all(DEAD) == before


def test_redrive_goes_into_the_private_stream_and_keeps_history() -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, "a", "b", "c", errors='["one"]', redrives=1)
    frames = kit.all("SELECT id, frame FROM dead")
    with kit.write() as db:
        swept = deadletters.sweep(db, queue, lambda x: "redrive" if x.message.id != "b" else "keep", None, 10, NOW + 5)
    assert (swept.seen, swept.moved, swept.after) == (3, 2, None)
    assert [row[0] for row in kit.all("SELECT id FROM dead")] == ["b"]
    private = private_stream(kit.db, id)
    assert kit.all("SELECT pos, count, at FROM log") == [(private << 40, 1, NOW + 5), ((private << 40) + 1, 1, NOW + 5)]
    assert [row[0] for row in kit.all("SELECT data FROM log")] == [frames[0][1], frames[2][1]]  # Byte for byte.
    assert kit.all(
        "SELECT source, pos, key, state, due, failures, losses, trial, redrives, errors, owner FROM item"
    ) == [
        (id, private << 40, "k", "wait", 0, 0, 0, None, 2, '["one"]', None),
        (id, (private << 40) + 1, "k", "wait", 0, 0, 0, None, 2, '["one"]', None),
    ]
    assert kit.one("SELECT next FROM stream WHERE no = ?", private) == (2,)
    again = read_one(kit.db, Tail(), (private << 40) + 1)
    assert isinstance(again, Message)
    assert again == message("c", key="k")


def test_discard_deletes_only_what_was_chosen() -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, "a", "b")
    with kit.write() as db:
        swept = deadletters.sweep(db, queue, lambda x: "discard" if x.message.id == "a" else "keep", None, 10, NOW)
    assert swept.moved == 1
    assert [row[0] for row in kit.all("SELECT id FROM dead")] == ["b"]
    assert kit.all("SELECT * FROM log") == []


def test_a_failure_in_the_middle_moves_nothing() -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, "a", "b")
    before = kit.all(DEAD)

    def decide(letter: Letter) -> Verb:
        if letter.message.id == "b":
            raise RuntimeError("stop")
        return "redrive"

    with pytest.raises(RuntimeError), kit.write() as db:
        deadletters.sweep(db, queue, decide, None, 10, NOW)
    assert kit.all(DEAD) == before
    assert kit.all("SELECT * FROM item") == []
    assert kit.all("SELECT * FROM log") == []


def test_damaged_bytes_are_shown_and_do_not_stop_the_pass() -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, "a", "b")
    kit.db.execute("UPDATE dead SET frame = ? WHERE id = 'a'", (b"\x00rubbish",))
    seen: list[Letter] = []
    with kit.write() as db:
        swept = deadletters.sweep(db, queue, _keep(seen), None, 10, NOW)
    assert swept.seen == 2
    assert (seen[0].message.id, seen[0].message.body, seen[0].message.key) == ("a", b"\x00rubbish", "k")
    assert seen[1].message == message("b", key="k")


def test_a_pass_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, "a", "b", "c")
    monkeypatch.setattr(deadletters, "PASS_BYTES", 1)
    seen: list[Letter] = []
    after: str | None = None
    for _ in range(3):
        with kit.write() as db:
            after = deadletters.sweep(db, queue, _keep(seen), after, 10, NOW).after
    assert [letter.message.id for letter in seen] == ["a", "b", "c"]
    assert after is None


def test_what_dies_during_a_walk_is_seen_once() -> None:
    kit = Kit()
    queue, id = kit.queue("emails")
    kit.bury(id, "a", "b")
    seen: list[Letter] = []
    with kit.write() as db:
        after = deadletters.sweep(db, queue, _keep(seen), None, 1, NOW).after
    kit.bury(id, "c", when=NOW + SECOND)
    with kit.write() as db:
        assert deadletters.sweep(db, queue, _keep(seen), after, 10, NOW).after is None
    assert [letter.message.id for letter in seen] == ["a", "b", "c"]


def test_a_source_that_does_not_exist_has_none() -> None:
    kit = Kit()
    with kit.write() as db:
        swept = deadletters.sweep(db, Source("x", SourceKind.QUEUE), lambda letter: "discard", None, 10, NOW)
    assert (swept.seen, swept.moved, swept.after) == (0, 0, None)
