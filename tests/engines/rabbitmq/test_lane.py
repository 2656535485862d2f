"""A lane in one process: whatever comes while it is being opened is handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest

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

MESSAGE = Message(id="m1", channel="orders", body=b"", time=datetime(2026, 1, 1, tzinfo=UTC), key="k")


class Early:
    """A channel over which a message comes before it is known to be open."""

    is_over = False

    def __init__(self, reader: Decoder, arrived: Arrived, ended: Ended) -> None:
        self._arrived = arrived
        self.open: dict[int, Lease] = {}

    async def start(self, link: Link, queue: str, prefetch: int) -> None:
        this = cast(Intake, self)
        self.open[1] = Lease(this, 1, MESSAGE, NONE, 0, 0.0)
        self._arrived(this, [(Incoming(MESSAGE, NONE, 0, None, None, None, known=True), self.open[1])])
        await asyncio.sleep(0)


class Nothing:
    """A lane whose last owner has left nothing behind."""

    async def load(self) -> LaneState:
        return LaneState()


async def nobody(id: str) -> frozenset[int]:
    return frozenset()


@pytest.mark.parametrize("left", [False, True], ids=["for the first time", "after it was left for its owner"])
def test_what_comes_while_a_lane_is_opened_is_handed_out(monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    monkeypatch.setattr(lanes, "Intake", Early)

    def ended(lane: Lane, lost: Sequence[Lease], reason: str) -> None: ...

    async def main() -> None:
        ready = asyncio.Event()
        lane = Lane(
            3, "orders:3", lambda state: cast(StateStore, Nothing()), cast(Decoder, None), cast(Control, None),
            Spared(), nobody, Trials(), lambda: datetime.now(UTC), ready.set, ended,
        )  # fmt: skip
        lane.leaving = left
        await lane.open(cast(Link, None), 10)
        async with asyncio.timeout(2):
            await ready.wait()
        fetched = lane.take()
        assert fetched is not None
        assert fetched.message.id == "m1"

    asyncio.run(main())
