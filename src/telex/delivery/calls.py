"""How a handler is called: its arguments, its thread, its middleware, composed once at start."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from .bound import Bound
from .context import Delivery, HandlerDelivery, Middleware
from .deadline import Slot
from .invoke import Threads, run_in

Call = Callable[[HandlerDelivery, Slot], Awaitable[Any]]
_slot: contextvars.ContextVar[Slot] = contextvars.ContextVar("telex slot")
"""Where a plain function is called from, through whatever middleware stands between."""
Inner = Callable[[Any, Delivery], Any]
"""Of the body and the delivery, which middleware may have put another around."""


def compose(
    bound: Bound, context: contextvars.Context, threads: Threads | None, enter: Callable[[HandlerDelivery], None] | None
) -> Call:
    """The whole call as one function of the delivery, each time in a fresh copy of ``context``; ``enter`` runs in it
    first, if there is one."""
    inner = _plain(bound) if threads is None else _threaded(bound, threads)
    for middleware in reversed(bound.middleware):
        inner = _wrap(middleware, inner)

    def call(delivery: HandlerDelivery, slot: Slot) -> Awaitable[Any]:
        return run_in(context.copy(), inner(delivery.body, delivery))

    if threads is None and enter is None:
        return call

    def entered(delivery: HandlerDelivery, slot: Slot) -> Awaitable[Any]:
        own = context.copy()
        if threads is not None:
            own.run(_slot.set, slot)
        if enter is not None:
            own.run(enter, delivery)
        return run_in(own, inner(delivery.body, delivery))

    return entered


def _plain(bound: Bound) -> Inner:
    function = bound.function
    if bound.takes_delivery:
        return function
    return lambda body, delivery: function(body)


def _threaded(bound: Bound, threads: Threads) -> Inner:
    function, takes_delivery = bound.function, bound.takes_delivery

    async def call(body: Any, delivery: Delivery) -> Any:
        context = contextvars.copy_context()
        arguments = (body, delivery) if takes_delivery else (body,)
        slot = _slot.get()
        slot.in_thread = True
        try:
            return await threads.run(context, function, *arguments)
        finally:
            slot.in_thread = False
            if slot.stop is not None:  # It could not be stopped before; its middleware can.
                raise asyncio.CancelledError

    return call


def _wrap(middleware: Middleware, inner: Inner) -> Inner:
    async def call(body: Any, delivery: Delivery) -> Any:
        async def call_next(given: Delivery) -> Any:
            return await inner(body, given)

        return await middleware(delivery, call_next)

    return call
