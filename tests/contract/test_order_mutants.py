"""Order rests on two rules, on both forms of the engine: who lost a message settles nothing of it, and a lane is passed
on after its last settlement. An engine without either of them is noticed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from telex.engine import Decision, Settled, Settlement
from telex.testing.contract import EngineSuite
from telex.testing.contract.kit import Kit, bodies, scenario, source_of

from .targets import InMemory, OnFile
from .test_mutants import carry_out_without_token, leave_at_once, write_without_token


class OrderSuite(EngineSuite):
    """Not collected by its name; the tests here call its methods."""

    @scenario
    async def stale_range(self, kit: Kit) -> None:
        """What a consumer claimed as a range and lost belongs to the next owner of the lane."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first, ordered=True, lanes=1)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(6)])
        one = await kit.consumer(first, source_of(queue))
        lost = await kit.take(one, 6)
        await one.close()
        other = await kit.consumer(second, source_of(queue))
        again = [await kit.take_one(other)]
        answers = await one.settle(
            [
                Settlement(lost[0].lease, Decision.ACCEPT, emit=[kit.outgoing(queue, b"9", key="a")]),
                Settlement(lost[1].lease, Decision.RETRY, at=kit.clock.now()),
                Settlement(lost[2].lease, Decision.DEAD, reason="rejected"),
                Settlement(lost[3].lease, Decision.RELEASE),
                Settlement(lost[4].lease, Decision.TRIAL),
            ]
        )
        await kit.accept(other, again[0])
        while len(again) < 6:
            again.append(await kit.take_one(other))
            await kit.accept(other, again[-1])
        assert bodies(again) == [b"%d" % n for n in range(6)]
        await kit.nothing(other)
        assert not await kit.letters(second, source_of(queue))
        assert set(answers) == {Settled.LOST}, answers

    @scenario
    async def stale_row(self, kit: Kit) -> None:
        """The same of a message that has a row of its own, since it failed."""
        first, second = await kit.engine(), await kit.engine()
        queue = await kit.queue(first, ordered=True, lanes=1)
        await kit.store(first, [kit.outgoing(queue, b"%d" % n, key="a") for n in range(3)])
        one = await kit.consumer(first, source_of(queue), window=1)
        await kit.retry(one, await kit.take_one(one), 0)
        lost = await kit.take_one(one)
        assert lost.failures == 1
        await one.close()
        other = await kit.consumer(second, source_of(queue))
        held = await kit.take_one(other)
        assert bodies([held]) == [b"0"]
        answers = await one.settle([Settlement(lost.lease, Decision.ACCEPT)])
        await kit.nothing(other)  # The key waits for the one who has it.
        assert list(await other.settle([Settlement(held.lease, Decision.ACCEPT)])) == [Settled.DONE]
        assert list(answers) == [Settled.LOST], answers
        for body in (b"1", b"2"):
            fetched = await kit.take_one(other)
            assert fetched.message.body == body
            await kit.accept(other, fetched)


class FileSuite(OrderSuite):
    target = OnFile()


class MemorySuite(OrderSuite):
    target = InMemory()


FORMS = pytest.mark.parametrize("suite", [FileSuite, MemorySuite])
MUTANTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "no epoch in the settlement of a range": ("settle:_write", write_without_token, "stale_range"),
    "no epoch in the settlement of a row": ("settle:_carry_out", carry_out_without_token, "stale_row"),
    "a lane is passed on before its last settlement": (
        "lanes:look",
        leave_at_once,
        "test_stop_passes_a_lane_on_after_its_last_settlement",
    ),
}


@FORMS
@pytest.mark.parametrize("name", ["stale_range", "stale_row"])
def test_who_lost_a_message_settles_nothing_of_it(suite: type[OrderSuite], name: str) -> None:
    getattr(suite(), name)()


@FORMS
@pytest.mark.parametrize("name", MUTANTS)
def test_is_caught(suite: type[OrderSuite], name: str, caplog: pytest.LogCaptureFixture) -> None:
    where, make, caught_by = MUTANTS[name]
    module, _, function = where.partition(":")
    owner = importlib.import_module(f"telex.engines.embedded.{module}")
    with (
        patch("telex.testing.contract.kit.PATIENCE", 2.0),
        patch("telex.testing.contract.kit.LIMIT", 10.0),
        patch.object(owner, function, make(getattr(owner, function))),
        pytest.raises((AssertionError, TimeoutError)),
    ):
        getattr(suite(), caught_by)()
    assert "store failed" not in caplog.text, "the mutant does not do something wrong, it only breaks"
