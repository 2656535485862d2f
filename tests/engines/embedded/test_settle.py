"""Settling: what leaves with a settlement leaves whole, or its message is kept."""

from __future__ import annotations

from typing import Literal

from telex.engine import Channel, ChannelKind, Decision, Letter, Settled, Settlement, Source, SourceKind
from telex.engines.embedded.engine import EmbeddedEngine

from .running import SUBSCRIPTION, outgoing, publish, use


def test_a_message_whose_emission_cannot_be_stored_is_a_dead_letter() -> None:
    """Its channel was removed, and its name is a topic's now: neither message may vanish."""
    gone = Channel("mails", ChannelKind.QUEUE)

    async def test(engine: EmbeddedEngine) -> None:
        await engine.apply(await engine.plan([gone], []))
        await engine.admin.remove(Source("mails", SourceKind.QUEUE))
        await engine.apply(await engine.plan([Channel("mails", ChannelKind.TOPIC)], []))
        await publish(engine, outgoing("a"), outgoing("b"))
        consumer = await engine.consume(SUBSCRIPTION, lambda leases: None)
        first, second = await consumer.fetch(2, 2)
        answers = await consumer.settle(
            [
                Settlement(first.lease, Decision.ACCEPT, emit=[outgoing("emitted", gone)]),
                Settlement(second.lease, Decision.ACCEPT),
            ]
        )
        assert list(answers) == [Settled.DONE, Settled.DONE]
        letters: list[Letter] = []

        def keep(letter: Letter) -> Literal["keep"]:
            letters.append(letter)
            return "keep"

        await engine.admin.sweep(SUBSCRIPTION.source, keep, None, 10, 1.0)
        assert [letter.message.id for letter in letters] == ["a"]
        assert "mails is a topic here, not a queue" in letters[0].text

    use("memory://", test)
