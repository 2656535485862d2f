"""What lies in a lane is taken in order, and a key whose message failed waits with all behind it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from telex.engines.rabbitmq.backlog import Backlog
from telex.engines.rabbitmq.codec import NONE
from telex.engines.rabbitmq.intake import Intake
from telex.engines.rabbitmq.leases import Held, Lease

from ...core.kit import run, until
from .rig import NOW, Copy

SOON = NOW + timedelta(seconds=0.02)
"""Of a clock that stands still until it is set: only the loop's goes on."""


class Lying:
    """A backlog, and what went into it."""

    def __init__(self) -> None:
        self.now = NOW
        self.told = 0
        self.backlog = Backlog(lambda: self.now, self._ready)
        self._intake = cast(Intake, SimpleNamespace(queue="jobs:0", open={}))
        self._position = 0

    def _ready(self) -> None:
        self.told += 1

    def lease(self, id: str, key: str | None = "k") -> Lease:
        self._position += 1
        lease = Lease(self._intake, self._position, Copy(id, key).message, NONE, 0, 0.0)
        lease.position = self._position
        return lease

    def add(self, id: str, key: str | None = "k") -> Lease:
        lease = self.lease(id, key)
        self.backlog.add(lease)
        return lease

    def take(self) -> Lease:
        lease = self.backlog.take()
        assert lease is not None
        return lease

    def rest(self) -> list[str]:
        """What else can be taken now."""
        taken = []
        while (lease := self.backlog.take()) is not None:
            taken.append(lease.message.id)
        return taken

    def fail(self, lease: Lease, due: datetime = NOW) -> Lease:
        """Its key waits; the delivery in its place."""
        again = lease.again()
        self.backlog.hold(lease.message.key or "", again, lease, due)
        return again


def use(test: Callable[[Lying], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        lying = Lying()
        await test(lying)
        lying.backlog.clear()

    run(main())


def test_what_came_is_taken_in_order_but_for_what_was_lost() -> None:
    async def test(lying: Lying) -> None:
        first, second, _ = lying.add("m1"), lying.add("m2"), lying.add("m3", None)
        assert lying.backlog.first is first
        second.state = Held.LOST
        assert lying.rest() == ["m1", "m3"]

    use(test)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_is_put_back_has_its_place(order: tuple[int, ...]) -> None:
    async def test(lying: Lying) -> None:
        for number in range(1, 5):
            lying.add(f"m{number}")
        taken = [lying.take(), lying.take()]
        for index in order:
            assert lying.backlog.put_back(taken[index])
            lying.backlog.returned(taken[index])
        assert lying.rest() == ["m1", "m2", "m3", "m4"]

    use(test)


def test_a_key_that_waits_keeps_all_of_it_and_nothing_else() -> None:
    async def test(lying: Lying) -> None:
        failed, _, behind = lying.add("m1"), lying.add("n1", "n"), lying.add("m2")
        assert lying.take() is failed
        lying.fail(failed, SOON)
        lying.backlog.returned(failed)
        lying.backlog.held(failed)
        lying.add("m3")
        assert not lying.backlog.has(lying.add("m4"))
        assert lying.rest() == ["n1"]
        assert not lying.backlog.put_back(behind)
        assert lying.backlog.next_due == SOON

    use(test)


def test_a_key_goes_on_in_order_when_its_failure_is_stored_it_is_due_and_nothing_of_it_is_in_hand() -> None:
    async def test(lying: Lying) -> None:
        backlog = lying.backlog
        for id in ("m1", "m2", "m3"):
            lying.add(id)
        first, second = lying.take(), lying.take()
        again = lying.fail(first, SOON)
        assert backlog.is_held("k", first)
        assert not backlog.is_held("k", second)
        backlog.returned(first)
        lying.now = SOON
        backlog.held(first)
        assert (lying.rest(), backlog.parked, lying.told) == ([], 2, 0), "the second is in hand"
        backlog.put_back(second)
        assert lying.told == 0
        backlog.returned(second)
        assert lying.told == 1
        assert backlog.first is again
        assert lying.rest() == ["m1", "m2", "m3"]
        assert (backlog.parked, backlog.next_due) == (0, None)

    use(test)


def test_a_key_whose_failure_is_not_stored_waits_past_its_time() -> None:
    async def test(lying: Lying) -> None:
        failed = lying.add("m1")
        lying.take()
        lying.fail(failed)
        lying.backlog.returned(failed)
        assert lying.rest() == []
        lying.backlog.held(failed)
        assert lying.rest() == ["m1"]

    use(test)


def test_a_key_goes_on_by_itself_at_its_time() -> None:
    async def test(lying: Lying) -> None:
        lying.backlog.wait("k", lying.lease("m1"), SOON)
        lying.backlog.wait("k", lying.lease("m2"), NOW)
        lying.backlog.wait("n", lying.lease("n1", "n"), NOW)
        assert lying.rest() == ["n1"]
        lying.now = SOON
        await until(lambda: lying.told)
        assert lying.rest() == ["m1", "m2"]

    use(test)


def test_one_is_pulled_from_wherever_it_lies_and_is_in_hand_then() -> None:
    async def test(lying: Lying) -> None:
        backlog = lying.backlog
        lying.add("n1", "n")
        pulled, behind = lying.add("m1"), lying.add("m2")
        assert backlog.has(pulled)
        assert backlog.pull(pulled)
        assert not backlog.has(pulled)
        assert not backlog.pull(pulled)
        assert lying.take().message.id == "n1"
        assert lying.take() is behind
        lying.fail(behind)
        backlog.held(behind)
        backlog.returned(behind)
        assert lying.rest() == [], "what was pulled is in hand"
        backlog.returned(pulled)
        assert lying.rest() == ["m2"]

    use(test)


def test_what_waits_is_not_pulled() -> None:
    async def test(lying: Lying) -> None:
        waits = lying.lease("m1")
        lying.backlog.wait("k", waits, SOON)
        behind = lying.add("m2")
        assert not lying.backlog.pull(waits)
        assert not lying.backlog.pull(behind)

    use(test)


def test_with_the_lane_what_was_to_be_tried_again_is_lost() -> None:
    async def test(lying: Lying) -> None:
        failed = lying.add("m1")
        lying.take()
        lying.fail(failed)
        lying.backlog.clear()
        assert failed.state is Held.LOST
        assert (lying.backlog.parked, lying.backlog.first) == (0, None)
        lying.add("m1")
        assert lying.rest() == ["m1"], "nothing of its key waits"

    use(test)
