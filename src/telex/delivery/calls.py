"""How a handler is called: its arguments, its thread, its middleware, composed once at start."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from .bound import Bound
from .context import HandlerDelivery
from .invoke import Threads, run_in

Call = Callable[[HandlerDelivery], Awaitable[Any]]


def compose(bound: Bound, context: contextvars.Context, threads: Threads | None) -> Call:
    """The whole call as one function of the delivery, each time in a fresh copy of ``context``."""
    inner = _plain(bound) if threads is None else _threaded(bound, threads)
    for middleware in reversed(bound.middleware):
        inner = _wrap(middleware, inner)

    def call(delivery: HandlerDelivery) -> Awaitable[Any]:
        return run_in(context.copy(), inner(delivery))

    return call


def _plain(bound: Bound) -> Callable[[HandlerDelivery], Any]:
    function = bound.function
    if bound.takes_delivery:
        return lambda delivery: function(delivery.body, delivery)
    return lambda delivery: function(delivery.body)


def _threaded(bound: Bound, threads: Threads) -> Callable[[HandlerDelivery], Any]:
    function, takes_delivery = bound.function, bound.takes_delivery

    async def call(delivery: HandlerDelivery) -> Any:
        context = contextvars.copy_context()
        arguments = (delivery.body, delivery) if takes_delivery else (delivery.body,)
        return await threads.run(context, function, *arguments)

    return call


def _wrap(middleware: Callable[..., Any], inner: Callable[[HandlerDelivery], Any]) -> Callable[[HandlerDelivery], Any]:
    async def call(delivery: HandlerDelivery) -> Any:
        return await middleware(delivery, inner)

    return call
