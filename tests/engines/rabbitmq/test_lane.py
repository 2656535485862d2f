"""A lane in one process: what comes while it is being opened, and what is given back while a key goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import permutations
from typing import cast

import pytest

from telex.engine import Decision, Settlement
from telex.engines.rabbitmq import lane as lanes
from telex.engines.rabbitmq.codec import NONE, Incoming
from telex.engines.rabbitmq.codec import Reader as Decoder
from telex.engines.rabbitmq.control import Control
from telex.engines.rabbitmq.intake import Arrived, Ended, Intake
from telex.engines.rabbitmq.lane import Lane
from telex.engines.rabbitmq.lanestate import LaneState, StateStore
from telex.engines.rabbitmq.leases import Lease, Spared
from telex.engines.rabbitmq.link import Link
from telex.engines.rabbitmq.trials import Trials
from telex.message import Message

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MESSAGES = [Message(id=f"m{number}", channel="orders", body=b"", time=NOW, key="k") for number in range(1, 5)]


class Early:
    """A channel over which messages come before it is known to be open."""

    is_over = False
    queue = "orders:3"

    def __init__(self, reader: Decoder, arrived: Arrived, ended: Ended) -> None:
        self._arrived = arrived
        self.open: dict[int, Lease] = {}

    async def start(self, link: Link, queue: str, prefetch: int) -> None:
        this = cast(Intake, self)
        self.open = {tag: Lease(this, tag, message, NONE, 0, 0.0) for tag, message in enumerate(MESSAGES, 1)}
        came = [(Incoming(lease.message, NONE, 0, None, None, None, known=True), lease) for lease in self.open.values()]
        self._arrived(this, came)
        await asyncio.sleep(0)


class Nothing:
    """A lane whose last owner has left nothing behind."""

    async def load(self) -> LaneState:
        return LaneState()


async def nobody(copy: str) -> frozenset[int]:
    return frozenset()


def ended(lane: Lane, lost: Sequence[Lease], reason: str) -> None: ...


def make(ready: Callable[[], None]) -> Lane:
    return Lane(
        3, "orders:3", lambda state: cast(StateStore, Nothing()), cast(Decoder, None), cast(Control, None),
        Spared(), nobody, Trials(), lambda: NOW, ready, ended,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "Intake", Early)


def take_all(lane: Lane) -> list[Lease]:
    taken = []
    while (fetched := lane.take()) is not None:
        taken.append(cast(Lease, fetched.lease))
    return taken


@pytest.mark.parametrize("left", [False, True], ids=["for the first time", "after it was left for its owner"])
def test_what_comes_while_a_lane_is_opened_is_handed_out(left: bool) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        lane = make(ready.set)
        lane.leaving = left
        await lane.open(cast(Link, None), 10)
        async with asyncio.timeout(2):
            await ready.wait()
        assert [lease.message.id for lease in take_all(lane)] == ["m1", "m2", "m3", "m4"]

    asyncio.run(main())


@pytest.mark.parametrize("order", [*permutations([1, 2, 3])])
def test_what_is_given_back_after_its_keys_retry_is_due_keeps_its_place(order: tuple[int, ...]) -> None:
    """What follows a failed message is given back one by one; all of it has its place when the key goes on."""

    async def main() -> None:
        loaded, again = asyncio.Event(), list[Lease]()

        def ready() -> None:
            loaded.set()
            again.extend(take_all(lane) if out else [])

        out: list[Lease] = []
        lane = make(ready)
        await lane.open(cast(Link, None), 10)
        async with asyncio.timeout(2):
            await loaded.wait()
        out += take_all(lane)
        lane.hold(out[0], Settlement(out[0], Decision.RETRY, at=NOW))
        lane.held(out[0])
        for number in order:
            lane.release(out[number])
        assert [lease.message.id for lease in again] == ["m1", "m2", "m3", "m4"]

    asyncio.run(main())
