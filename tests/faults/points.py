"""Where a process of the fault tests dies, and what it notes of the engine's answers: hooks put in from outside.

`Points` stands between the core and any engine: it is the settings an application is given, and wraps what they make.
What lies inside a settlement is known to the engines alone; see `inside`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from random import Random
from typing import Any, Self
from unittest.mock import patch

from telex.clock import Clock
from telex.engine import Consumer, Decision, Engine, EngineSettings, Fetched, Lost, Settled, Settlement, Subscription
from telex.message import Message
from telex.testing.history import Recorder

from .inside import hooks, quiet_hooks

POINTS = (
    "after fetch",
    "in handler",
    "after handler before settle",
    "after dead letter before settle",
    "in emission",
    "in drain",
)


class Points:
    """Counts what is in hand, notes settlements, and kills the process at the chosen point."""

    def __init__(self, recorder: Recorder, point: str, nth: int) -> None:
        self.recorder = recorder
        self._point = point
        self._left = nth
        self._hooks = ExitStack()
        self.in_hand = 0
        """Deliveries fetched and not settled."""
        self.quiet = threading.Lock()
        """Held while this process holds what others need too: one that stopped then would stop everybody."""

    def __enter__(self) -> Self:
        for owner, name, wrap in hooks():
            self._hooks.enter_context(patch.object(owner, name, wrap(getattr(owner, name), self.pass_by)))
        for owner, name in quiet_hooks():
            self._hooks.enter_context(patch.object(owner, name, self._quietly(getattr(owner, name))))
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.close()

    def watch(self, settings: EngineSettings) -> EngineSettings:
        """Settings whose engines are watched."""
        return _Settings(settings, self)

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
            self.recorder.note("fault", name=point, value=self.in_hand)
            os.kill(os.getpid(), signal.SIGKILL)

    def settled(self, source: str, message: Message, decision: Decision, answer: Settled) -> None:
        """Notes what became of a delivery."""
        self.in_hand -= answer not in (Settled.FAILED, Settled.HELD)
        place = {"id": message.id, "source": source}
        if answer is Settled.LOST:
            self.recorder.note("lost", **place)
        elif answer in (Settled.DONE, Settled.SENT):
            if decision in (Decision.ACCEPT, Decision.DISCARD):
                self.recorder.note("settle", outcome="ok" if answer is Settled.DONE else "unknown", **place)
            elif decision is Decision.DEAD:
                self.recorder.note("settle", name="dead", **place)

    def _quietly(self, function: Any) -> Any:
        def hook(*args: Any, **kwargs: Any) -> Any:
            with self.quiet:
                return function(*args, **kwargs)

        return hook


class _Settings:
    """Settings that make watched engines."""

    def __init__(self, settings: EngineSettings, points: Points) -> None:
        self._settings = settings
        self._points = points

    @property
    def schemes(self) -> tuple[str, ...]:
        return self._settings.schemes

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        engine = self._settings.engine(url, app=app, clock=clock, random=random)
        consume = engine.consume

        async def watched(subscription: Subscription, lost: Lost) -> Consumer:
            return _Consumer(await consume(subscription, lost), str(subscription.source), self._points)

        engine.consume = watched  # type: ignore[method-assign]  # every other method is the engine's own
        return engine


class _Consumer:
    """A consumer whose deliveries and settlements are noted."""

    def __init__(self, consumer: Consumer, source: str, points: Points) -> None:
        self._consumer = consumer
        self._source = source
        self._points = points
        self._messages: dict[int, Message] = {}
        """By the identity of the lease, which the core keeps as long as it is in hand."""

    @property
    def address(self) -> str | None:
        return self._consumer.address

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        given = await self._consumer.fetch(max, wait)
        for fetched in given:
            self._messages[id(fetched.lease)] = fetched.message
        self._points.in_hand += len(given)
        if given:
            self._points.pass_by("after fetch")
        return given

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        self._points.pass_by("after handler before settle")
        answers = await self._consumer.settle(batch)
        for settlement, answer in zip(batch, answers, strict=True):
            message = self._messages[id(settlement.lease)]
            self._points.settled(self._source, message, settlement.decision, answer)
        return answers

    async def stop(self) -> None:
        await self._consumer.stop()
        self._points.pass_by("in drain")

    async def close(self) -> None:
        await self._consumer.close()
