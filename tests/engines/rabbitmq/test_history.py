"""A replay whose connection breaks says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from pamqp import commands as amqp

from telex.engine import ChannelKind, Source, SourceKind
from telex.engines.rabbitmq import line, stream
from telex.engines.rabbitmq.catalog import Catalog, ChannelRecord
from telex.engines.rabbitmq.codec import EPOCH
from telex.engines.rabbitmq.history import History
from telex.engines.rabbitmq.names import Names
from telex.engines.rabbitmq.outbound import Outbound
from telex.errors import Disconnected

from .process import Process, Scene, now, play
from .scripted import Frame, Peer
from .streams import Stream

NAMES = Names("", {})
SOURCE = Source("made", SourceKind.GROUP, "group")


async def nothing_new() -> None: ...


def history(process: Process) -> History:
    kept = ChannelRecord("made", ChannelKind.TOPIC, history=3600)
    catalog = cast(Catalog, SimpleNamespace(channels={"made": kept}, sync=nothing_new))
    outbound = cast(Outbound, None)
    return History(NAMES, process.consuming, catalog, outbound, process.publisher, process._decoder, now)


@pytest.mark.parametrize("kind", [amqp.Channel.Open, amqp.Basic.Qos, amqp.Basic.Consume])
@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_breaks_while_it_is_read_cancels_nobody(
    kind: type[Frame], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library ends what it was asked on a connection that is lost as if it had been cancelled."""
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(stream, "EMPTY", 0.05)

    async def test(scene: Scene) -> None:
        process = await scene.process(wanted=False)
        kept = Stream(NAMES.history("made"), b"x")
        said: list[Frame] = []

        async def script(peer: Peer, channel: int, frame: Frame) -> bool:
            if isinstance(frame, kind):
                said.append(frame)
                if len(said) == times:
                    peer.abort()
                    return True
            return await kept(peer, channel, frame)

        scene.broker.script = script
        with pytest.raises(Disconnected):
            await history(process).replay(SOURCE, EPOCH, now(), None, dry_run=True)
        assert len(said) == times

    play(test)
