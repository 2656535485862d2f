from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from telex.testing import VirtualClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2026, 2, 28, 22, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    before = clock.monotonic()
    clock.advance(1.5)
    clock.advance(timedelta(hours=1))
    assert clock.now() == datetime(2026, 2, 28, 23, 0, 1, 500_000, tzinfo=UTC)
    assert clock.monotonic() - before == pytest.approx(3601.5)


def test_jumps_are_told_after_they_happened() -> None:
    clock = VirtualClock()
    told: list[datetime] = []
    clock.on_jump(lambda: told.append(clock.now()))
    clock.advance(1)
    clock.advance(0)
    assert told == [clock.now(), clock.now()]


def test_time_does_not_go_back() -> None:
    clock = VirtualClock()
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    later = clock.now() + timedelta(seconds=5)
    clock.advance_to(later)
    clock.advance_to(later - timedelta(seconds=3))
    assert clock.now() == later


def test_an_instant_needs_its_zone() -> None:
    with pytest.raises(ValueError, match="aware"):
        VirtualClock(datetime(2026, 3, 1))


def test_timers_run_when_time_is_moved_past_them_in_their_order() -> None:
    clock = VirtualClock()
    ran: list[str] = []
    clock.call_later(5, lambda: ran.append("second"))
    clock.call_later(2, lambda: ran.append("first"))
    cancelled = clock.call_later(3, lambda: ran.append("never"))
    assert clock.next_timer() == clock.now() + timedelta(seconds=2)
    cancelled.cancel()
    clock.advance(1.9)
    assert ran == []
    clock.advance(10)
    assert ran == ["first", "second"]
    assert clock.next_timer() is None
