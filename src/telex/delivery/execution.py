"""Running what was taken, and saying what becomes of it: decode, run, decide."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from ..clock import Clock
from ..engine import Decision, Fetched, Outgoing, Settlement, SourceKind
from ..errors import HandlerTimeout, TelexError, Undecodable
from ..events import LEASE_LOST, said, words
from . import attempt, replies, report
from .bound import Bound
from .calls import compose
from .context import HandlerDelivery
from .deadline import Deadlines, Slot, Stop
from .decide import ISOLATED, Verdict, admit, decide
from .invoke import Threads

if TYPE_CHECKING:
    from ..app import Telex

log = logging.getLogger("telex.delivery")

FOREVER = float("inf")
Settle = Callable[[Fetched, Settlement, BaseException | None], None]


class Execution:
    """Runs deliveries of one source in slots. Every message given to `run` is settled through ``settle``,
    but for those whose lease is lost and those that the end of the process interrupts."""

    def __init__(
        self,
        app: Telex,
        bound: Bound,
        slots: Sequence[Slot],
        settle: Settle,
        clock: Clock,
        random: Random,
        context: contextvars.Context | None = None,
        enter: Callable[[HandlerDelivery], None] | None = None,
    ) -> None:
        self._app = app
        self._bound = bound
        self._settle = settle
        self._now = clock.now
        self._random = random
        self._time = asyncio.get_running_loop().time
        self._threads = None if bound.is_async else Threads(bound.concurrency, f"telex-{bound.name}")
        self._call = compose(bound, context or contextvars.copy_context(), self._threads, enter)
        self._deadlines = Deadlines(slots, bound.timeout) if bound.timeout is not None else None
        self._worker = attempt.worker_name()
        self.expired = 0
        """Requests discarded because nobody waits for their answer any more."""

    def close(self) -> None:
        """Lets the threads end."""
        if self._threads is not None:
            self._threads.close()

    async def run(self, slot: Slot, taken: list[Fetched]) -> list[Fetched]:
        """Runs the handler once for what was taken; returns what is left without a settlement."""
        if self._bound.batch is not None:
            return await self._run_batch(slot, taken)
        fetched = taken[0]
        if not self._admit(fetched):
            return []
        try:
            body = self._bound.decode(fetched.message)
        except Undecodable as undecodable:
            self._failed(fetched, undecodable, self._now())
            return []
        delivery = HandlerDelivery(self._app, self._bound.name, taken, body)
        error, result = await self._handle(slot, taken, delivery)
        if error is None and delivery.emitted:
            error = await self._app.prepare_emissions(delivery.emitted)
        if error is None:
            self._succeeded(slot, fetched, delivery, result)
        elif error is LEFT:
            return taken
        else:
            self._failed(fetched, error, self._started(slot))
        return []

    def broke(self, fetched: Fetched, error: BaseException) -> None:
        """Our own code failed around this message: that counts as a failure of the message, and it goes on."""
        text = f"the message could not be handled: {words(error)}"
        self._failed(fetched, TelexError(text).with_traceback(error.__traceback__), self._now())

    # -- before -----------------------------------------------------------------------------------------------------

    def _admit(self, fetched: Fetched) -> bool:
        """Whether it runs; what must not is settled here: expired, crashed, to be isolated."""
        expires = fetched.message.expires
        if expires is not None and expires <= self._now():
            self.expired += 1
            report.discarded(self._bound.name, fetched, "expired: nobody waits for the answer any more")
            self._settle(fetched, Settlement(fetched.lease, Decision.DISCARD, reason="expired"), None)
            return False
        if not fetched.losses and fetched.trial is None:
            return True
        verdict = admit(fetched, self._bound.retry, ordered=self._bound.source.ordered)
        if verdict is None:
            return True
        if verdict is ISOLATED:
            report.isolated(self._bound.name, fetched)
            self._settle(fetched, Settlement(fetched.lease, Decision.TRIAL), None)
        elif self._bound.answers:
            self._answer_failure(fetched, "crashed", verdict.text)
        else:
            self._bury(fetched, verdict, TelexError(verdict.text), self._now())
        return False

    # -- the handler ------------------------------------------------------------------------------------------------

    async def _handle(
        self, slot: Slot, taken: list[Fetched], delivery: HandlerDelivery
    ) -> tuple[BaseException | None, Any]:
        """Runs the handler: (its error, its result). `LEFT` as error: there is nothing to settle any more."""
        error: BaseException | None = None
        result: Any = None
        slot.taken = taken
        slot.stop = None
        slot.began = began = self._time()
        if self._deadlines is None:
            slot.until = FOREVER
        else:
            assert self._bound.timeout is not None
            slot.until = began + self._bound.timeout
            self._deadlines.arm()
        try:
            result = await self._call(delivery, slot)
        except asyncio.CancelledError as cancelled:
            error = self._cancelled(slot, cancelled)
        except (SystemExit, KeyboardInterrupt) as raised:
            # In a handler these are a failure of its message, and the wish to end the process.
            error = raised
            self._app.fatal(raised)
        except GeneratorExit:
            raise
        except BaseException as raised:  # Panics of extensions and outcomes of test tools derive from it too.
            error = raised
        finally:
            slot.until = 0.0
            if slot.stop is Stop.TIMEOUT or slot.stop is Stop.LOST:
                _forget_cancelling(slot)
        if slot.stop is not None:
            error = self._stopped(slot, taken, error)
        return error, result

    @staticmethod
    def _cancelled(slot: Slot, cancelled: asyncio.CancelledError) -> BaseException:
        """Our own cancellation is an outcome. A handler's own is a failure. Anybody else's ends the slot."""
        task = slot.task
        if slot.stop is None:
            if task is not None and task.cancelling():
                raise cancelled
            return cancelled
        return cancelled

    def _stopped(self, slot: Slot, taken: Sequence[Fetched], error: BaseException | None) -> BaseException:
        """We stopped it, or could not since it ran in a thread: whatever it did, this is the outcome."""
        if slot.stop is Stop.DRAIN:
            return LEFT
        if slot.stop is Stop.LOST:
            LEASE_LOST.log(
                log,
                "%s: LeaseLost: another worker may have message %s by now; this handler's outcome is ignored",
                self._bound.name,
                taken[0].message.id,
                source=self._bound.name,
                message_id=taken[0].message.id,
            )
            return LEFT
        timed_out = HandlerTimeout(f"the handler ran longer than its timeout of {self._bound.timeout:g} s")
        if error is not None:
            timed_out.__cause__ = error
            timed_out.__traceback__ = error.__traceback__
        return timed_out

    def _started(self, slot: Slot) -> datetime:
        """When the handler began; reckoned only where somebody wants to know."""
        return self._now() - timedelta(seconds=self._time() - slot.began)

    # -- after ------------------------------------------------------------------------------------------------------

    def _succeeded(self, slot: Slot, fetched: Fetched, delivery: HandlerDelivery, result: Any) -> None:
        emit: Sequence[Outgoing] = delivery.emitted
        if self._bound.encode is not None:
            try:
                body, content_type = self._bound.encode(result)
                reply = replies.answer(
                    fetched,
                    self._bound.name,
                    self._now(),
                    replies.checked(body, self._app.features.max_body),
                    content_type,
                )
            except TelexError as error:
                self._failed(fetched, error, self._started(slot))
                return
            emit = [*emit, *reply]
        self._settle(fetched, Settlement(fetched.lease, Decision.ACCEPT, emit=emit), None)

    def _failed(self, fetched: Fetched, error: BaseException, started: datetime) -> None:
        """One attempt failed, or a verdict was raised."""
        if self._bound.source.kind is SourceKind.BROADCAST:
            report.dropped(self._bound.name, fetched, error)
            self._settle(fetched, Settlement(fetched.lease, Decision.DISCARD, reason="broadcast"), error)
            return
        if self._bound.answers:
            self._answer_failure(fetched, type(error).__qualname__, said(error))
            return
        now = self._now()
        verdict = decide(fetched.failures, self._bound.retry, error, now, self._random)
        if verdict.decision is Decision.DISCARD:
            report.discarded(self._bound.name, fetched, verdict.reason)
            self._settle(fetched, Settlement(fetched.lease, Decision.DISCARD, reason=verdict.reason), error)
        elif verdict.decision is Decision.DEAD:
            self._bury(fetched, verdict, error, started)
        else:
            report.retried(self._bound.name, fetched, verdict, error, now)
            settlement = Settlement(
                fetched.lease,
                Decision.RETRY,
                at=verdict.at,
                error=self._record(fetched, error, started),
                cause=attempt.cause(error),
            )
            self._settle(fetched, settlement, error)

    def _bury(self, fetched: Fetched, verdict: Verdict, error: BaseException, started: datetime) -> None:
        report.dead(self._bound.name, fetched, verdict, error)
        settlement = Settlement(
            fetched.lease,
            Decision.DEAD,
            reason=verdict.reason,
            text=verdict.text,
            error=self._record(fetched, error, started),
            cause=attempt.cause(error),
        )
        self._settle(fetched, settlement, error)

    def _answer_failure(self, fetched: Fetched, kind: str, text: str) -> None:
        report.request_failed(self._bound.name, fetched, kind, text)
        emit = replies.failure(fetched, self._bound.name, self._now(), kind, text)
        self._settle(fetched, Settlement(fetched.lease, Decision.ACCEPT, emit=emit), None)

    def _record(self, fetched: Fetched, error: BaseException, started: datetime) -> str:
        return attempt.record(fetched.failures + fetched.losses + 1, started, self._worker, error)

    # -- batches ----------------------------------------------------------------------------------------------------

    async def _run_batch(self, slot: Slot, taken: list[Fetched]) -> list[Fetched]:
        admitted: list[Fetched] = []
        bodies: list[Any] = []
        for fetched in taken:
            if not self._admit(fetched):
                continue
            try:
                bodies.append(self._bound.decode(fetched.message))
            except Undecodable as undecodable:
                self._failed(fetched, undecodable, self._now())
            else:
                admitted.append(fetched)
        if not admitted:
            return []
        delivery = HandlerDelivery(self._app, self._bound.name, admitted, bodies)
        error, _ = await self._handle(slot, admitted, delivery)
        if error is LEFT:
            return admitted
        if error is None and delivery.emitted:
            error = await self._app.prepare_emissions(delivery.emitted)
        started = self._started(slot)
        if error is not None:
            for fetched in admitted:
                self._failed(fetched, error, started)
            return []
        failed = delivery.failed or {}
        # What a batch emits leaves only if every item is accepted; it rides on the first item's settlement.
        emit: Sequence[Outgoing] = delivery.emitted if not failed else ()
        for index, fetched in enumerate(admitted):
            if (cause := failed.get(index)) is not None:
                self._failed(fetched, cause, started)
            else:
                self._settle(fetched, Settlement(fetched.lease, Decision.ACCEPT, emit=emit), None)
                emit = ()
        return []


def _forget_cancelling(slot: Slot) -> None:
    """We cancelled the handler, not the slot; it may have swallowed that, and the next one must not pay for it."""
    task = slot.task
    while task is not None and task.cancelling():
        task.uncancel()


class _Left(BaseException):
    """Marks a delivery that is not ours to settle any more."""


LEFT = _Left()
