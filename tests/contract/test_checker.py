"""Each check of the checker catches a history that breaks its invariant, and only that check does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from telex.testing.checker import Expectations, check
from telex.testing.history import Event, Recorder, digest, read

SOURCE = "orders.placed/billing"
EXPECTED = Expectations(
    sources={"orders.placed": [SOURCE]},
    ordered=frozenset({SOURCE}),
    attempts=3,
    workers=frozenset({"w0", "w1"}),
    acknowledged=20,
    faults=frozenset({"kill"}),
    redelivered=1,
)
Mutant = Callable[[list[Event]], list[Event]]


def event(t: float, proc: str, op: str, phase: str = "end", **fields: object) -> Event:
    return msgspec.convert({"t": t, "proc": proc, "op": op, "phase": phase, **fields}, Event)


def good_run() -> list[Event]:
    """Twenty messages of four keys; w0 dies in one of them, another fails once, a third one dies."""
    events = []
    for n in range(20):
        what = {
            "id": f"m{n}",
            "channel": "orders.placed",
            "key": f"k{n % 4}",
            "seq": n // 4,
            "digest": digest(b"%d" % n),
        }
        events.append(event(n * 0.01, "p", "publish", "begin", number=n, **what))
        events.append(event(n * 0.01 + 0.005, "p", "publish", number=n, outcome="ok", **what))
    number = 0
    for n in range(20):
        outcomes = {7: ["", "ok"], 9: ["retry", "ok"], 11: ["retry", "dead"]}.get(n, ["ok"])
        for attempt, outcome in enumerate(outcomes, 1):
            number += 1
            t = 1 + n + attempt * 0.3
            proc = "w0" if n < 7 or outcome == "" else "w1"
            what = {
                "id": f"m{n}",
                "source": SOURCE,
                "key": f"k{n % 4}",
                "seq": n // 4,
                "digest": digest(b"%d" % n),
                "attempt": attempt,
                "number": number,
            }
            events.append(event(t, proc, "deliver", "begin", **what))
            if outcome:
                due = t + 0.2 if outcome == "retry" else None
                events.append(event(t + 0.1, proc, "deliver", outcome=outcome, due=due, **what))
            if outcome in ("ok", "dead"):
                events.append(event(t + 0.15, proc, "settle", outcome="ok", id=f"m{n}", source=SOURCE, number=number))
    events.append(event(8.35, "nemesis", "fault", name="kill", value=1))
    events.append(event(8.5, "nemesis", "heal", name="kill"))
    events.append(event(30, "end", "letter", id="m11", source=SOURCE, digest=digest(b"11")))
    events.append(event(30, "end", "queued", source=SOURCE, value=0))
    events.append(event(0, "w1", "resources", name="fds", value=20))
    events.append(event(30, "w1", "resources", name="fds", value=20, last=True))
    return events


def dropped(events: list[Event], **match: object) -> list[Event]:
    """Without the events that match."""
    return [e for e in events if not all(getattr(e, name) == value for name, value in match.items())]


def changed(events: list[Event], match: dict[str, object], **to: object) -> list[Event]:
    """With the events that match changed."""
    fits = [all(getattr(e, name) == value for name, value in match.items()) for e in events]
    assert any(fits), f"no event matches {match}"
    return [msgspec.structs.replace(e, **to) if fit else e for e, fit in zip(events, fits, strict=True)]


def again(events: list[Event], t: float, proc: str = "w1", outcome: str = "ok", **fields: object) -> list[Event]:
    """With one more run of the message m5 (key k1, third of its key)."""
    what = {
        "id": "m5",
        "source": SOURCE,
        "key": "k1",
        "seq": 1,
        "digest": digest(b"5"),
        "attempt": 2,
        "number": 900,
        **fields,
    }
    return [
        *events,
        event(t, proc, "deliver", "begin", **what),
        event(t + 0.01, proc, "deliver", outcome=outcome, **what),
    ]


MUTANTS: dict[str, tuple[str, Mutant]] = {
    "an acknowledged message never ran": (
        "I1",
        lambda e: dropped(dropped(e, id="m19", op="deliver"), id="m19", op="settle"),
    ),
    "a message ran and never ended": ("I1", lambda e: dropped(e, id="m19", op="deliver", phase="end")),
    "a dead letter vanished": ("I1", lambda e: dropped(e, op="letter")),
    "the run did not drain": ("I1", lambda e: changed(e, {"op": "queued"}, value=3)),
    "a message nobody published": ("I2", lambda e: dropped(e, id="m19", op="publish")),
    "another body": ("I2", lambda e: changed(e, {"id": "m3", "op": "deliver"}, digest=digest(b"x"))),
    "another body in a dead letter": ("I2", lambda e: changed(e, {"op": "letter"}, digest=digest(b"x"))),
    "a source that has no part in it": (
        "I2",
        lambda e: changed(e, {"id": "m3", "op": "deliver"}, channel="", source="x"),
    ),
    "a settled message ran again": ("I3", lambda e: again(e, 25.0)),
    "two owners at once": ("I4", lambda e: again(e, 6.35, attempt=2)),
    "a younger message first": (
        "I5",
        lambda e: [
            msgspec.structs.replace(x, t=x.t + 10) if x.id == "m8" and x.op in ("deliver", "settle") else x for x in e
        ],
    ),
    "a younger message during its elder": (
        "I5",
        lambda e: changed(e, {"id": "m8", "op": "deliver", "phase": "end"}, t=13.35),
    ),
    "an attempt that does not rise": (
        "I6",
        lambda e: changed(e, {"id": "m9", "op": "deliver", "attempt": 2}, attempt=1),
    ),
    "an early retry": ("I6", lambda e: changed(e, {"id": "m9", "outcome": "retry"}, due=20.0)),
    "too many failures": (
        "I6",
        lambda e: [
            *e,
            *(
                event(
                    12.31 + n * 0.01,
                    "w1",
                    "deliver",
                    phase,
                    id="m11",
                    source=SOURCE,
                    key="k3",
                    seq=2,
                    digest=digest(b"11"),
                    attempt=2,
                    number=800 + n,
                    outcome="retry" if phase == "end" else "",
                )
                for n in range(5)
                for phase in ("begin", "end")
            ),
        ],
    ),
    "settled and dead": (
        "I7",
        lambda e: [*e, event(30, "end", "letter", id="m2", source=SOURCE, digest=digest(b"2"))],
    ),
    "two dead letters": (
        "I7",
        lambda e: [*e, event(30, "end", "letter", id="m11", source=SOURCE, digest=digest(b"11"))],
    ),
    "done too late": (
        "I8",
        lambda e: [msgspec.structs.replace(x, t=x.t + 99) if x.id == "m19" and x.op != "publish" else x for x in e],
    ),
    "an idle worker": ("I8", lambda e: changed(e, {"proc": "w0", "op": "deliver"}, proc="w1")),
    "a leak": ("I9", lambda e: changed(e, {"op": "resources", "last": True}, value=40)),
    "too few messages": ("vacuous", lambda e: dropped(e, id="m19")),
    "no fault": ("vacuous", lambda e: dropped(e, op="fault")),
    "a fault while nothing was under way": ("vacuous", lambda e: changed(e, {"op": "fault"}, value=0)),
    "no redelivery": (
        "vacuous",
        lambda e: [x for x in e if not (x.op == "deliver" and x.attempt == 1 and x.id in ("m7", "m9", "m11"))],
    ),
    "one message per key": ("vacuous", lambda e: changed(e, {}, seq=1)),
    "nothing delivered": ("vacuous", lambda e: dropped(e, op="deliver")),
}


def test_a_good_run_is_good() -> None:
    report = check(good_run(), EXPECTED)
    assert report.violations == ()
    assert (report.acknowledged, report.handled, report.duplicates, report.dead) == (20, 19, 0, 1)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name: str) -> None:
    caught_by, mutate = MUTANTS[name]
    report = check(mutate(good_run()), EXPECTED)
    assert caught_by in {violation.check for violation in report.violations}, str(report)


def test_duplicates_are_counted_and_forgiven_unless_promised_away() -> None:
    twice = dropped(again(good_run(), 25.0), op="settle")
    assert check(twice, EXPECTED).violations == ()
    assert check(twice, EXPECTED).duplicates == 1
    strict = check(twice, replace(EXPECTED, duplicates=False))
    assert [violation.check for violation in strict.violations] == ["I3"]


def test_unconfirmed_settlements_may_come_back() -> None:
    assert check(again(good_run(), 25.0), replace(EXPECTED, confirmed=False)).violations == ()


def test_a_lost_lease_excuses_two_owners() -> None:
    events = dropped(again(good_run(), 6.35), op="settle")
    assert {violation.check for violation in check(events, EXPECTED).violations} == {"I4"}
    events.append(event(6.33, "w0", "lost", id="m5", source=SOURCE))
    assert check(events, EXPECTED).violations == ()


def test_publishing_again_excuses_a_second_life() -> None:
    what = {"id": "m5", "channel": "orders.placed", "key": "k1", "seq": 1, "digest": digest(b"5"), "number": 77}
    events = [*again(good_run(), 25.0, attempt=1), event(0.5, "p", "publish", "begin", **what)]
    assert check(events, EXPECTED).violations == ()


def test_a_history_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    with Recorder(path, "w0") as recorder:
        begun = recorder.begin("publish", id="m1", channel="orders.placed", key="k", seq=1)
        recorder.end(begun, "ok")
        recorder.note("fault", name="kill", value=2)
    first, second, third = read([path])
    assert (first.phase, second.phase, second.outcome, second.number) == ("begin", "end", "ok", first.number)
    assert first.t <= second.t <= third.t
    assert (third.op, third.name, third.value) == ("fault", "kill", 2)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    with Recorder(path, "w0") as recorder:
        recorder.note("heal", name="kill")
    with path.open("ab") as file:
        file.write(b'{"t":1.0,"proc":"w0","op":"pub')
    assert [found.op for found in read([path])] == ["heal"]
    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(msgspec.DecodeError):
        read([path])


def test_copies_near_a_fault_are_forgiven_only_where_the_engine_may_leave_them() -> None:
    """The message of the killed run comes once more as attempt 1: a second copy of it."""
    events = good_run()
    (last,) = [e for e in events if e.op == "deliver" and e.id == "m7" and e.outcome == "ok"]
    copy = [
        msgspec.structs.replace(last, t=last.t + 0.1, number=99, phase="begin", attempt=1, outcome=""),
        msgspec.structs.replace(last, t=last.t + 0.2, number=99, attempt=1),
    ]
    strict = check([*events, *copy], EXPECTED)
    assert {violation.check for violation in strict.violations} >= {"I6"}
    lenient = check([*events, *copy], replace(EXPECTED, copies=2.0, confirmed=False))
    assert not lenient.violations
    far = [msgspec.structs.replace(e, t=e.t - 100) if e.op in ("fault", "heal") else e for e in events]
    assert {v.check for v in check([*far, *copy], replace(EXPECTED, copies=2.0, confirmed=False)).violations} >= {"I6"}
