"""Where a process of the fault tests dies, and what it notes of the engine's answers: hooks put in from outside."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

from telex.engine import Decision, Fetched, Settled, Settlement
from telex.engines.embedded import settle, store
from telex.engines.embedded.consumer import EmbeddedConsumer
from telex.engines.embedded.writer import Writer
from telex.testing.history import Recorder

POINTS = (
    "after fetch",
    "in handler",
    "after handler before settle",
    "after dead letter before settle",
    "in emission",
    "in drain",
)


class Points:
    """Counts what is in hand, notes confirmed settlements, and kills the process at the chosen point.

    The points inside a settlement lie between its statements, before the commit.
    """

    def __init__(self, recorder: Recorder, point: str, nth: int) -> None:
        self._recorder = recorder
        self._point = point
        self._left = nth
        self._hooks = ExitStack()
        self.in_hand = 0
        """Deliveries fetched and not settled."""
        self.quiet = threading.Lock()
        """Held by the writer's thread while it holds the store: a process that stopped then would stop everybody."""

    def __enter__(self) -> Self:
        for owner, name, hook in (
            (EmbeddedConsumer, "fetch", self._fetch(EmbeddedConsumer.fetch)),
            (EmbeddedConsumer, "settle", self._settle(EmbeddedConsumer.settle)),
            (EmbeddedConsumer, "stop", self._stop(EmbeddedConsumer.stop)),
            (settle, "_bury", self._after(settle._bury, "after dead letter before settle")),
            (Writer, "_cycle", self._cycle(Writer._cycle)),
            (store.Store, "_emit", self._after(store.Store._emit, "in emission")),
        ):
            self._hooks.enter_context(patch.object(owner, name, hook))
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.close()

    def pass_by(self, point: str) -> None:
        """The process is at a point; dies there if it is the chosen one and often enough passed."""
        if point == "in handler" and self._point == "in drain" and self._left > 0:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGTERM)
        if point != self._point:
            return
        if point != "in drain":
            self._left -= 1
        if self._left <= 0:
            self._recorder.note("fault", name=point, value=self.in_hand)
            os.kill(os.getpid(), signal.SIGKILL)

    def _fetch(self, fetch: Any) -> Any:
        async def hook(consumer: EmbeddedConsumer, max: int, wait: float) -> Sequence[Fetched]:
            given: Sequence[Fetched] = await fetch(consumer, max, wait)
            self.in_hand += len(given)
            if given:
                self.pass_by("after fetch")
            return given

        return hook

    def _settle(self, settle: Any) -> Any:
        async def hook(consumer: EmbeddedConsumer, batch: Sequence[Settlement]) -> Sequence[Settled]:
            self.pass_by("after handler before settle")
            answers: Sequence[Settled] = await settle(consumer, batch)
            source = str(consumer._holder.source)
            for settlement, answer in zip(batch, answers, strict=True):
                self.in_hand -= answer is not Settled.FAILED
                message_id = settlement.lease.message.id  # type: ignore[attr-defined]  # the embedded engine's lease
                if answer is Settled.LOST:
                    self._recorder.note("lost", id=message_id, source=source)
                elif answer is Settled.DONE and settlement.decision in (Decision.ACCEPT, Decision.DISCARD):
                    self._recorder.note("settle", id=message_id, source=source, outcome="ok")
                elif answer is Settled.DONE and settlement.decision is Decision.DEAD:
                    self._recorder.note("settle", id=message_id, source=source, name="dead")
            return answers

        return hook

    def _stop(self, stop: Any) -> Any:
        async def hook(consumer: EmbeddedConsumer) -> None:
            await stop(consumer)
            self.pass_by("in drain")

        return hook

    def _cycle(self, cycle: Any) -> Any:
        def hook(writer: Writer) -> bool:
            with self.quiet:
                again: bool = cycle(writer)
            return again

        return hook

    def _after(self, function: Any, point: str) -> Any:
        def hook(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            self.pass_by(point)

        return hook
