"""How a handler is called: its arguments, its thread, its middleware, composed once at start."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from .bound import Bound
from .context import Delivery, HandlerDelivery, Middleware
from .invoke import Threads, run_in

Call = Callable[[HandlerDelivery], Awaitable[Any]]
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

    def call(delivery: HandlerDelivery) -> Awaitable[Any]:
        return run_in(context.copy(), inner(delivery.body, delivery))

    if enter is None:
        return call

    def entered(delivery: HandlerDelivery) -> Awaitable[Any]:
        own = context.copy()
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
        return await threads.run(context, function, *arguments)

    return call


def _wrap(middleware: Middleware, inner: Inner) -> Inner:
    async def call(body: Any, delivery: Delivery) -> Any:
        async def call_next(given: Delivery) -> Any:
            return await inner(body, given)

        return await middleware(delivery, call_next)

    return call
