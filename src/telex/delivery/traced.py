"""Execution that is traced: every run, every decision."""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from ..clock import Clock
from ..engine import Fetched, Settlement
from ..tracing import Handling, Tracing
from .bound import Bound
from .context import HandlerDelivery
from .deadline import Slot
from .execution import Execution, Settle

if TYPE_CHECKING:
    from ..app import Telex


class TracedExecution(Execution):
    """As `Execution`, and a tracing system hears of it. A class of its own: without one nothing is asked."""

    def __init__(
        self,
        app: Telex,
        bound: Bound,
        slots: Sequence[Slot],
        settle: Settle,
        clock: Clock,
        random: Random,
        tracing: Tracing,
    ) -> None:
        self._consuming = tracing.consuming(bound.source, bound.name, batch=bound.batch is not None)
        context = contextvars.copy_context()
        context.run(self._consuming.prepare)
        super().__init__(app, bound, slots, self._decided, clock, random, context, self._enter)
        self._hand_on = settle
        self._running: dict[int, Handling] = {}
        """What is recorded, by the identity of the lease."""

    def run(self, slot: Slot, taken: list[Fetched]) -> Coroutine[Any, Any, list[Fetched]]:
        """As `Execution.run`. No coroutine of its own around what nothing is recorded of."""
        handling = self._consuming.handling(taken)
        return super().run(slot, taken) if handling is None else self._run(slot, taken, handling)

    async def _run(self, slot: Slot, taken: list[Fetched], handling: Handling) -> list[Fetched]:
        running = self._running
        for fetched in taken:
            running[id(fetched.lease)] = handling
        left = True
        try:
            unsettled = await super().run(slot, taken)
            left = bool(unsettled)
            return unsettled
        finally:
            for fetched in taken:
                del running[id(fetched.lease)]
            handling.end(left=left)

    def _enter(self, delivery: HandlerDelivery) -> None:
        handling = self._running.get(id(delivery.lease)) if self._running else None
        if handling is None:
            self._consuming.enter(delivery.message)
        else:
            handling.enter()

    def _decided(self, fetched: Fetched, settlement: Settlement, error: BaseException | None) -> None:
        if self._running and (handling := self._running.get(id(fetched.lease))) is not None:
            settlement = handling.settled(fetched, settlement, error)
        self._hand_on(fetched, settlement, error)
