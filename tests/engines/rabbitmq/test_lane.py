"""A lane in one process: what comes while it is being opened, what is handed out when, and what is left behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import permutations
from typing import cast

import pytest

from telex.engine import Decision, Fetched, Settled, Settlement
from telex.engines.rabbitmq.codec import Counts, micros
from telex.engines.rabbitmq.lane import Lane
from telex.engines.rabbitmq.lanestate import Alone, LaneState, Waits
from telex.engines.rabbitmq.leases import Lease
from telex.engines.rabbitmq.link import Link
from telex.engines.rabbitmq.trials import Trials

from ...core.kit import run, turns, until
from .rig import NOW, Broker, Copy, Other, Store, make_lane


def take_all(lane: Lane) -> list[Lease]:
    taken = []
    while (fetched := lane.take()) is not None:
        taken.append(cast(Lease, fetched.lease))
    return taken


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message.id for lease in leases]


async def opened(lane: Lane) -> list[Lease]:
    """What can be taken of a lane at once."""
    await lane.open(cast(Link, None), 10)
    await turns()
    return take_all(lane)


async def fail(lane: Lane, *leases: Lease) -> None:
    """Each is tried again at once."""
    for lease in leases:
        lane.hold(lease, Settlement(lease, Decision.RETRY, at=NOW))
    assert await lane.save()
    for lease in leases:
        lease.settled(Decision.RETRY, Settled.DONE)
        lane.held(lease)


@pytest.mark.parametrize("left", [False, True], ids=["for the first time", "after it was left for its owner"])
def test_what_comes_while_a_lane_is_opened_is_handed_out(broker: Broker, left: bool) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        lane = make_lane(Store(), ready=ready.set)
        lane.leaving = left
        await lane.open(cast(Link, None), 10)
        async with asyncio.timeout(2):
            await ready.wait()
        assert ids(take_all(lane)) == ["m1", "m2", "m3", "m4"]

    broker.plan("m1", "m2", "m3", "m4")
    run(main())


@pytest.mark.parametrize("order", [*permutations([1, 2, 3])])
def test_what_is_given_back_after_its_keys_retry_is_due_keeps_its_place(broker: Broker, order: tuple[int, ...]) -> None:
    """What follows a failed message is given back one by one; all of it has its place when the key goes on."""

    async def main() -> None:
        again = list[Lease]()
        out: list[Lease] = []
        lane = make_lane(Store(), ready=lambda: again.extend(take_all(lane) if out else []))
        out += await opened(lane)
        lane.hold(out[0], Settlement(out[0], Decision.RETRY, at=NOW))
        lane.held(out[0])
        for number in order:
            lane.release(out[number])
        assert ids(again) == ["m1", "m2", "m3", "m4"]

    broker.plan("m1", "m2", "m3", "m4")
    run(main())


def test_what_is_handed_out_alone_is_the_suspect_though_a_key_that_became_due_lies_before_it(broker: Broker) -> None:
    async def main() -> None:
        now = NOW
        due = NOW + timedelta(seconds=0.05)
        kept = LaneState({"m1": Waits(1, micros(due))}, {"m1": 1}, Alone("x1", 3, 2, 3))
        trials, store = Trials(), Store(kept)
        lane = make_lane(store, trials, lambda: now)
        alone = []
        lane.give = lambda lane: alone.append(lane.take_suspect())
        other = Other()
        trials.offer(other)
        assert await opened(lane) == []
        assert (lane.blame, lane.parked) == (3, 1)
        now = due
        await until(lambda: not lane.parked)
        trials.end(other)
        await until(lambda: alone)
        (fetched,) = alone
        assert fetched is not None
        assert (fetched.message.id, fetched.trial) == ("x1", 3)
        assert store.saved[-1].alone == Alone("x1", 4, 3, 4)
        assert take_all(lane) == []
        lane.done([cast(Lease, fetched.lease)])
        rest = [lane.take(), lane.take(), lane.take()]
        assert [one and (one.message.id, one.trial) for one in rest] == [("m1", None), ("y1", None), None]

    broker.plan(Copy("m1", "a", returns=1), Copy("x1", "b", returns=4), Copy("y1", "c"))
    run(main())


def test_a_suspect_that_is_given_back_unstarted_keeps_its_earlier_deaths_and_who_dies_then_adds_none(
    broker: Broker,
) -> None:
    async def main() -> None:
        store, trials = Store(LaneState(alone=Alone("x1", 1, 1, 1))), Trials()
        lane, alone = make_lane(store, trials), list[Fetched | None]()
        lane.give = lambda lane: alone.append(lane.take_suspect())
        assert await opened(lane) == []
        await until(lambda: alone)
        (fetched,) = alone
        assert fetched is not None
        assert fetched.trial == 2
        saved = len(store.saved)
        lane.release(cast(Lease, fetched.lease))
        await until(lambda: len(store.saved) > saved)
        after = make_lane(Store(store.saved[-1]))
        assert await opened(after) == []
        assert after.blame == 2

    broker.plan(Copy("x1", "b", returns=2))
    broker.plan(Copy("x1", "b", returns=3))
    run(main())


def test_a_redriven_message_does_not_inherit_the_failures_of_its_former_life(broker: Broker) -> None:
    async def main() -> None:
        lane = make_lane(Store(LaneState({"m1": Waits(4, micros(NOW), "boom")})))
        (former, again) = await opened(lane)
        assert (former.counts.failures, former.counts.errors) == (4, ("boom",))
        assert (again.counts.failures, again.counts.errors) == (0, ("old",))
        await fail(lane, again)
        assert lane.take() is None, "its key is still in hand"
        lane.done([former])
        (again,) = take_all(lane)
        assert again.counts.failures == 1

    broker.plan("m1", Copy("m1", counts=Counts(redrives=1, errors=("old",))))
    run(main())


def test_what_is_known_of_a_message_that_has_left_a_lane_is_not_left_behind_with_it(broker: Broker) -> None:
    async def main() -> None:
        store = Store()
        lane = make_lane(store)
        (lease,) = await opened(lane)
        await fail(lane, lease)
        (again,) = take_all(lane)
        lane.done([again])
        assert "m1" in store.saved[-1].waiting
        await lane.finish()
        assert store.saved[-1] == LaneState()

    broker.plan("m1")
    run(main())


def test_two_copies_of_one_id_without_a_key_that_fail_together_are_each_handed_out_once(broker: Broker) -> None:
    async def main() -> None:
        store = Store()
        lane = make_lane(store)
        copies = await opened(lane)
        assert len(copies) == 2
        store.stored = False
        for lease in copies:
            lane.hold(lease, Settlement(lease, Decision.RETRY, at=NOW))
        assert not await lane.save()
        store.stored = True
        await fail(lane, *copies)
        again = take_all(lane)
        assert [(lease.tag, lease.counts.failures) for lease in again] == [(1, 1), (2, 1)]
        lane.done(again)
        assert sorted(broker.channels[-1].acked) == ["m1", "m1"]

    broker.plan(Copy("m1", None), Copy("m1", None))
    run(main())
