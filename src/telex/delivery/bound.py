"""A handler as the pipeline runs it: everything looked up, checked and composed before the first message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..engine import Source, Start
from ..message import Message
from ..policy import Batch, Retry
from .context import Middleware

ONCE = Retry(attempts=1)


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """One handler, bound to its source.

    Attributes:
        source: What it consumes.
        name: The source's text form.
        function: The handler.
        is_async: Whether it is a coroutine function; others run in threads.
        takes_delivery: Whether it wants the `Delivery` as second argument.
        decode: From a message to the handler's argument; raises `Undecodable`.
        encode: Procedures only: from the answer to body and content type.
        start: Where a new group begins.
        concurrency: Most handlers running at once, in this process.
        retry: What happens on failure.
        timeout: Seconds a handler may run; None: for ever.
        rate: Most messages a second in this process; None: no limit.
        batch: How messages are gathered; None: one by one.
        middleware: Outermost first.
    """

    source: Source
    name: str
    function: Callable[..., Any]
    is_async: bool
    takes_delivery: bool
    decode: Callable[[Message], Any]
    encode: Callable[[Any], tuple[bytes, str]] | None
    start: Start
    concurrency: int
    retry: Retry
    timeout: float | None
    rate: float | None
    batch: Batch | None
    middleware: tuple[Middleware, ...]

    @property
    def answers(self) -> bool:
        """Whether this is a procedure."""
        return self.encode is not None
