"""What a process remembers of deliveries that it lost with its connection."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

from telex.engines.rabbitmq.codec import NONE, Counts
from telex.engines.rabbitmq.intake import Intake
from telex.engines.rabbitmq.leases import MOST_SPARED, Lease, Spared
from telex.message import Message


def delivery(returns: int, *, queue: str = "jobs", base: Counts = NONE, id: str = "m1") -> Lease:
    intake = cast(Intake, SimpleNamespace(queue=queue, open={}))
    message = Message(id=id, channel="jobs", body=b"", time=datetime(2026, 1, 1, tzinfo=UTC))
    return Lease(intake, 1, message, base, returns, 0.0)


def test_what_was_lost_stays_known_when_the_message_is_settled() -> None:
    """The acknowledgement may be lost with its connection, and the message come back."""
    spared = Spared()
    for returns in range(3):
        spared.note(delivery(returns))
    spared.settled(delivery(3))
    assert spared.lost(delivery(4).copy) == {0, 1, 2, 3}


def test_what_was_on_trial_and_has_an_outcome_killed_nobody_though_it_comes_back() -> None:
    spared = Spared()
    spared.settled(delivery(0))
    assert spared.lost(delivery(1).copy) == frozenset(), "only of what is on trial it must be known"
    spared.settled(delivery(0, base=Counts(trial=0)))
    assert spared.lost(delivery(1, base=Counts(trial=0)).copy) == {0}


def test_a_copy_is_known_by_its_queue_and_what_it_brought_with_it() -> None:
    spared = Spared()
    spared.note(delivery(0))
    assert spared.lost(delivery(1).copy) == {0}
    for other in (delivery(1, queue="audit"), delivery(1, base=Counts(trial=0)), delivery(1, base=Counts(redrives=1))):
        assert spared.lost(other.copy) == frozenset()
        assert spared.of(other) is None


def test_only_the_very_next_delivery_was_with_nobody_else() -> None:
    spared = Spared()
    spared.note(delivery(0))
    assert spared.of(delivery(1)) == (0, False, 0)
    assert spared.of(delivery(2)) is None
    spared.settled(delivery(1))
    assert spared.of(delivery(1)) is None


def test_memory_is_bounded_and_the_oldest_is_forgotten() -> None:
    spared = Spared()
    for number in range(MOST_SPARED + 1):
        spared.note(delivery(0, id=f"m{number}"))
    assert spared.lost(delivery(1, id="m0").copy) == frozenset()
    assert spared.lost(delivery(1, id="m1").copy) == {0}
