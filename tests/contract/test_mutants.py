"""The suite notices: each mutant of the embedded engine breaks one promise, and the test named with it must fail."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from telex.testing.contract import EngineSuite, kit

from .targets import InMemory, OnFile

HOUR = 3_600_000_000
"""In microseconds."""


class FileSuite(EngineSuite):
    """Not collected by its name; the tests here call its methods."""

    target = OnFile()


class MemorySuite(EngineSuite):
    """The same in memory, where it is faster."""

    target = InMemory()


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong engine.

    Attributes:
        where: What is replaced, within ``telex.engines.embedded``: ``module:name`` or ``module:Class.name``.
        make: Makes the wrong one from the right one.
        caught_by: The test that must fail.
        on_file: It shows only where several processes share a store.
    """

    where: str
    make: Callable[[Any], Any]
    caught_by: str
    on_file: bool = False


def write_without_token(right: Any) -> Any:
    """Whoever has the range now, it is marked."""

    def wrong(db: Any, span: Any) -> bool:
        right(db, span)
        return True

    return wrong


def carry_out_without_token(right: Any) -> Any:
    """Whoever has the row now, it is settled."""

    def wrong(db: Any, lease: Any, settlement: Any, now: int) -> bool:
        rows = db.execute("SELECT token FROM item WHERE source = ? AND pos = ?", (lease.holder.source_id, lease.pos))
        for (token,) in rows.fetchall():
            lease.token = token
        right(db, lease, settlement, now)
        return True

    return wrong


def leave_at_once(right: Any) -> Any:
    """A lane is passed on before its last message is settled."""

    def wrong(db: Any, holder: Any, now: float) -> bool:
        for lane in holder.lanes.values():
            if holder.stopping:
                lane.in_hand = 0
        return bool(right(db, holder, now))

    return wrong


def expire_without_loss(right: Any) -> Any:
    """What a dead process had in hand comes back as if it had never been handed out."""

    def wrong(db: Any, *rest: Any) -> Any:
        back = right(db, *rest)
        db.execute("UPDATE item SET losses = 0, trial = NULL, state = 'wait'")
        return back

    return wrong


def newest_first(right: Any) -> Any:
    """Of a key that was held back, the last message comes first."""

    def wrong(lane: Any, key: str, held: Any) -> None:
        right(lane, key, held)
        lane.held[key].reverse()

    return wrong


def changing(position: int, to: Any) -> Callable[[Any], Any]:
    """With another value for one argument; a function gets the right value."""

    def make(right: Any) -> Any:
        def wrong(*given: Any, **named: Any) -> Any:
            changed = list(given)
            changed[position] = to(given[position]) if callable(to) else to
            return right(*changed, **named)

        return wrong

    return make


def returning(value: Any) -> Callable[[Any], Any]:
    """Does nothing."""
    return lambda right: lambda *given, **named: value


def result(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """With another result."""
    return lambda right: lambda *given, **named: change(right(*given, **named))


MUTANTS: dict[str, Mutant] = {
    "no token in a range's settlement": Mutant(
        "settle:_write", write_without_token, "test_a_process_that_was_stopped_past_its_lease", on_file=True
    ),
    "no token in a row's settlement": Mutant(
        "settle:_carry_out", carry_out_without_token, "test_a_process_that_was_stopped_past_its_lease", on_file=True
    ),
    "every settlement is answered DONE": Mutant(
        "settle:answer", lambda right: lambda settlement: kit.Settled.DONE, "test_a_stale_lease_settles_nothing"
    ),
    "failures are not counted": Mutant("settle:_to_item", changing(3, 0), "test_failures_count_exactly"),
    "a second failure is not counted": Mutant("settle:_update", changing(3, 1), "test_failures_count_exactly"),
    "losses are forgotten by a failure": Mutant("settle:_update", changing(4, 0), "test_losses_and_failures_add_up"),
    "a release counts a loss": Mutant("settle:_to_item", changing(4, lambda n: n + 1), "test_a_release_counts_nothing"),
    "trials are forgotten": Mutant("settle:_to_item", changing(5, None), "test_one_trial_is_in_hand_at_a_time"),
    "history is forgotten": Mutant("settle:_with", returning(None), "test_a_letter_keeps_message_and_history"),
    "a retry is a second early": Mutant(
        "settle:micros", result(lambda at: at - 1_000_000), "test_a_retry_is_never_early"
    ),
    "dead letters are dropped": Mutant("settle:_bury", returning(None), "test_a_reject_leaves_the_source"),
    "emissions are dropped": Mutant("store:Store._emit", returning(None), "test_emissions_leave_with_the_settlement"),
    "a claim skips one": Mutant(
        "claim:Claiming._advance", changing(3, lambda next: next + 1), "test_the_window_bounds_what_is_in_hand"
    ),
    "a claim does not move on": Mutant("claim:Claiming._advance", returning(None), "test_consumers_of_a_source_share"),
    "the window is not kept": Mutant(
        "leases:Holder.room",
        lambda right: property(lambda holder: holder.want),
        "test_the_window_bounds_what_is_in_hand",
    ),
    "several trials at once": Mutant(
        "claim:Claiming.__init__",
        lambda right: lambda *given, **named: right(*given, **{**named, "trials": True}),
        "test_one_trial_is_in_hand_at_a_time",
    ),
    "an owner's end counts nothing": Mutant(
        "store:expire_consumer", expire_without_loss, "test_close_returns_what_is_unsettled_as_a_loss"
    ),
    "an owner's end returns nothing": Mutant(
        "expire:_to_items", returning(0), "test_close_returns_what_is_unsettled_as_a_loss"
    ),
    "stopped processes keep all": Mutant(
        "store:stopped_members", returning(()), "test_a_process_that_was_stopped_past_its_lease", on_file=True
    ),
    "leases are never let go": Mutant("store:Store._let_go", returning(None), "test_a_stale_lease_settles_nothing"),
    "a failed key does not wait": Mutant(
        "lanes:Lane.hold", returning(None), "test_a_retried_key_waits_and_others_flow"
    ),
    "a held key comes newest first": Mutant(
        "lanes:Lane.hold", newest_first, "test_order_holds_through_several_failures"
    ),
    "a new owner does not know what waits": Mutant(
        "lanes:load", returning(None), "test_order_holds_across_a_restart_with_a_waiting_key"
    ),
    "a lane is passed on too soon": Mutant(
        "lanes:look", leave_at_once, "test_stop_passes_a_lane_on_after_its_last_settlement", on_file=True
    ),
    "lanes are not shared": Mutant("lanes:_share", returning(None), "test_stored_order_per_key"),
    "all keys in one lane": Mutant(
        "collect:stream_for", lambda right: lambda row, message: row.streams[0], "test_positions_rise_in_a_lane"
    ),
    "delayed sends go at once": Mutant(
        "collect:Collecting.__init__", changing(4, lambda now: now + HOUR), "test_a_delayed_send_is_never_early"
    ),
    "delayed sends never go": Mutant(
        "collect:Collecting.move_due", returning(0), "test_a_delayed_send_survives_its_sender"
    ),
    "any address is an inbox": Mutant("collect:is_inbox", returning(True), "test_a_foreign_address_is_refused"),
    "a redriven letter has no history": Mutant("deadletters:history", returning(()), "test_redriving_one"),
    "a redriven letter vanishes": Mutant("deadletters:_redrive", returning(None), "test_redriving_all"),
    "a frame loses its last byte": Mutant(
        "frame:_message",
        result(lambda message: message.replace(body=message.body[:-1])),
        "test_bodies_come_back_byte_equal",
        on_file=True,
    ),
    "headers are dropped": Mutant(
        "frame:_message",
        result(lambda message: message.replace(headers={})),
        "test_every_field_comes_back",
        on_file=True,
    ),
    "a new group starts at the beginning": Mutant(
        "topology:_add_cursors", changing(3, "all"), "test_a_group_misses_nothing_after_its_declaration"
    ),
    "a new group starts at the end": Mutant(
        "topology:_add_cursors", changing(3, "new"), "test_a_new_group_from_the_start"
    ),
    "a broadcast reads nothing": Mutant(
        "broadcast:Listener.read", returning(None), "test_broadcast_reaches_every_instance"
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_is_caught(name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mutant = MUTANTS[name]
    module, _, path = mutant.where.partition(":")
    owner: Any = importlib.import_module(f"telex.engines.embedded.{module}")
    *classes, attribute = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    monkeypatch.setattr(kit, "PATIENCE", 2.0)
    monkeypatch.setattr(kit, "LIMIT", 10.0)
    monkeypatch.setattr(kit, "SILENCE", 0.4)  # What a mutant hands out too early may be a little late.
    monkeypatch.setattr(owner, attribute, mutant.make(getattr(owner, attribute)))
    suite = FileSuite() if mutant.on_file else MemorySuite()
    with pytest.raises((AssertionError, TimeoutError)):
        getattr(suite, mutant.caught_by)()
    assert "store failed" not in caplog.text, "the mutant does not do something wrong, it only breaks"
