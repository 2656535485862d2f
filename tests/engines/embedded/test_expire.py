"""What comes back when a consumer ends with messages in hand."""

from __future__ import annotations

from datetime import UTC, datetime

from telex.engine import Outgoing
from telex.engines.embedded.engine import EmbeddedEngine
from telex.message import Message

from .running import LANE, publish, use


def test_a_message_outside_the_order_goes_on_trial_and_those_in_lanes_do_not() -> None:
    """Redriven and replayed messages have no lane that restarts slowly: nobody else would find the one that kills."""

    async def test(engine: EmbeddedEngine) -> None:
        message = Message(id="loose", channel="t", body=b"{}", time=datetime.now(UTC), key="k")
        await publish(engine, Outgoing(LANE.source, message))
        trials = []
        for _ in range(5):
            consumer = await engine.consume(LANE, lambda leases: None)
            (fetched,) = await consumer.fetch(10, 2)
            trials.append((fetched.losses, fetched.trial))
            await consumer.close()
        assert trials == [(0, None), (1, None), (2, 0), (3, 1), (4, 2)]

    use("memory://", test)
