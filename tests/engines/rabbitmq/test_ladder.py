"""The ladder: never early, a bounded time late, in few hops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from telex.engines.rabbitmq.control import Control
from telex.engines.rabbitmq.ladder import BITS, RETRY_TOP, TOP, UNIT, Ladder
from telex.engines.rabbitmq.names import Names

YEAR = 366 * 86400.0


def ladder(bits: int) -> Ladder:
    return Ladder("test", TOP, bits, Names("", {}), Control.__new__(Control))


@given(st.floats(min_value=0.0001, max_value=YEAR))
def test_a_send_is_never_early_and_a_unit_late(seconds: float) -> None:
    units = ladder(0).units(seconds)
    assert seconds <= units * UNIT <= seconds + UNIT + 1e-6 * seconds
    assert units.bit_length() <= TOP


@given(st.floats(min_value=0.0001, max_value=YEAR))
def test_a_retry_is_never_early_and_has_few_hops(seconds: float) -> None:
    units = ladder(BITS).units(seconds)
    assert seconds <= units * UNIT <= seconds * (1 + 2 ** (1 - BITS)) + UNIT
    assert units.bit_count() <= BITS


def test_whole_seconds_are_one_hop() -> None:
    for seconds in (1, 2, 4, 8, 16, 32, 64):
        assert ladder(BITS).units(seconds).bit_count() == 1


def test_the_ladders_are_long_enough() -> None:
    assert ladder(0).longest.total_seconds() > YEAR
    assert UNIT * 2**RETRY_TOP / 2 > 3600
