"""Declaring handlers, in modules that need not know the application."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import msgspec

from .channels import Procedure, Queue, Topic
from .clock import Seconds
from .delivery.context import Middleware
from .engine import Start
from .errors import ConfigError
from .names import check_channel_name, check_group, check_pattern, is_pattern
from .policy import Batch, Retry, duration
from .typevars import A, Q, T

R = TypeVar("R")
P = ParamSpec("P")
H = TypeVar("H", bound=Callable[..., Any])

CONCURRENCY = 16
REPLY_CONCURRENCY = 100
TIMEOUT = 300.0
REPLY_TIMEOUT = 30.0
MOST_CONCURRENCY = 10_000
DEFAULT_RETRY = Retry()


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One handler as it was declared."""

    function: Callable[..., Any]
    target: Topic[Any] | Queue[Any] | Procedure[Any, Any] | str
    verb: Literal["subscribe", "receive", "reply"]
    concurrency: int
    timeout: float | None
    group: str | None = None
    broadcast: bool = False
    start: Start = "new"
    ordered: bool | None = None
    retry: Retry = DEFAULT_RETRY
    rate: float | None = None
    batch: Batch | None = None
    middleware: tuple[Middleware, ...] = ()


class _Takes(Generic[T]):
    """The decorator of a typed channel: the handler takes its body, or a list of them."""

    def __init__(self, add: Callable[[Callable[..., Any]], None]) -> None:
        self._add = add

    @overload
    def __call__(self, h: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...
    @overload
    def __call__(self, h: Callable[Concatenate[list[T], P], R], /) -> Callable[Concatenate[list[T], P], R]: ...
    def __call__(self, h: Callable[..., Any], /) -> Callable[..., Any]:
        self._add(h)
        return h


class _Answers(Generic[Q, A]):
    """The decorator of a typed procedure: the handler takes a request and returns an answer."""

    def __init__(self, add: Callable[[Callable[..., Any]], None]) -> None:
        self._add = add

    @overload
    def __call__(
        self, h: Callable[Concatenate[Q, P], Coroutine[Any, Any, A]], /
    ) -> Callable[Concatenate[Q, P], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(self, h: Callable[Concatenate[Q, P], A], /) -> Callable[Concatenate[Q, P], A]: ...
    def __call__(self, h: Callable[..., Any], /) -> Callable[..., Any]:
        self._add(h)
        return h


class Handlers:
    """A collection of handlers; an application includes it.

    Args:
        middleware: Around every handler of this collection, outermost first.
    """

    def __init__(self, *, middleware: Sequence[Middleware] = ()) -> None:
        self._middleware = check_middleware("middleware", middleware, "(delivery, call_next)")
        self._registrations: list[Registration] = []
        self._included: list[Handlers] = []

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """All handlers, those of included collections too, with the middleware around them, outermost first."""
        own = [*self._registrations, *(r for included in self._included for r in included.registrations)]
        return tuple(msgspec.structs.replace(r, middleware=(*self._middleware, *r.middleware)) for r in own)

    @overload
    def subscribe(
        self,
        topic: Topic[T],
        *,
        group: str | None = None,
        broadcast: bool = False,
        start: Literal["new", "all"] | datetime = "new",
        ordered: bool | None = None,
        concurrency: int = CONCURRENCY,
        retry: Retry = DEFAULT_RETRY,
        timeout: Seconds | None = TIMEOUT,
        rate: float | None = None,
        batch: Batch | None = None,
    ) -> _Takes[T]: ...
    @overload
    def subscribe(
        self,
        topic: str,
        *,
        group: str | None = None,
        broadcast: bool = False,
        start: Literal["new", "all"] | datetime = "new",
        ordered: bool | None = None,
        concurrency: int = CONCURRENCY,
        retry: Retry = DEFAULT_RETRY,
        timeout: Seconds | None = TIMEOUT,
        rate: float | None = None,
        batch: Batch | None = None,
    ) -> Callable[[H], H]: ...
    def subscribe(
        self,
        topic: Topic[Any] | str,
        *,
        group: str | None = None,
        broadcast: bool = False,
        start: Literal["new", "all"] | datetime = "new",
        ordered: bool | None = None,
        concurrency: int = CONCURRENCY,
        retry: Retry = DEFAULT_RETRY,
        timeout: Seconds | None = TIMEOUT,
        rate: float | None = None,
        batch: Batch | None = None,
    ) -> Any:
        """Subscribes the handler to a topic, or to a pattern of topics.

        Args:
            topic: The topic, its name, or a pattern (``*`` one word, ``#`` zero or more).
            group: The consumers that share this subscription; the application's name if None.
            broadcast: Without a group: every running instance gets every message while it runs.
            start: Where a new group begins.
            ordered: Keep order per key; None: as the topic is. False on an ordered topic gives order up.
            concurrency: Most handlers at once, in this process.
            retry: What happens on failure.
            timeout: How long a handler may run; None: for ever.
            rate: Most messages a second, in this process.
            batch: Take several messages at once, as ``list[T]``.

        Raises:
            ConfigError: A value is out of its range, or two of them contradict each other.
        """
        name = _target_name("subscribe", topic, Topic)
        if broadcast and group is not None:
            raise ConfigError(f"subscribe({name}, broadcast=True, group={group!r}): a broadcast has no group; drop one")
        if broadcast and start != "new":
            raise ConfigError(
                f"subscribe({name}, broadcast=True, start=…): a broadcast begins when it runs; drop start"
            )
        if broadcast and batch is not None:
            raise ConfigError(
                f"subscribe({name}, broadcast=True, batch=…): a broadcast takes single messages; drop batch"
            )
        if broadcast and ordered:
            raise ConfigError(
                f"subscribe({name}, broadcast=True, ordered=True): a broadcast keeps no order; drop ordered"
            )
        _check_start(name, start)
        _check_order(name, topic, ordered, batch)
        return self._decorator(
            "subscribe",
            topic,
            name,
            concurrency,
            timeout,
            group=None if group is None else check_group(group),
            broadcast=broadcast,
            start=start,
            ordered=ordered,
            retry=retry,
            rate=rate,
            batch=batch,
        )

    @overload
    def receive(
        self,
        queue: Queue[T],
        *,
        concurrency: int = CONCURRENCY,
        retry: Retry = DEFAULT_RETRY,
        timeout: Seconds | None = TIMEOUT,
        rate: float | None = None,
        batch: Batch | None = None,
    ) -> _Takes[T]: ...
    @overload
    def receive(
        self,
        queue: str,
        *,
        concurrency: int = CONCURRENCY,
        retry: Retry = DEFAULT_RETRY,
        timeout: Seconds | None = TIMEOUT,
        rate: float | None = None,
        batch: Batch | None = None,
    ) -> Callable[[H], H]: ...
    def receive(
        self,
        queue: Queue[Any] | str,
        *,
        concurrency: int = CONCURRENCY,
        retry: Retry = DEFAULT_RETRY,
        timeout: Seconds | None = TIMEOUT,
        rate: float | None = None,
        batch: Batch | None = None,
    ) -> Any:
        """Receives from a queue; arguments as in `subscribe`.

        Raises:
            ConfigError: A value is out of its range, or two of them contradict each other.
        """
        name = _target_name("receive", queue, Queue)
        _check_order(name, queue, None, batch)
        return self._decorator("receive", queue, name, concurrency, timeout, retry=retry, rate=rate, batch=batch)

    @overload
    def reply(
        self,
        procedure: Procedure[Q, A],
        *,
        concurrency: int = REPLY_CONCURRENCY,
        timeout: Seconds | None = REPLY_TIMEOUT,
    ) -> _Answers[Q, A]: ...
    @overload
    def reply(
        self, procedure: str, *, concurrency: int = REPLY_CONCURRENCY, timeout: Seconds | None = REPLY_TIMEOUT
    ) -> Callable[[H], H]: ...
    def reply(
        self,
        procedure: Procedure[Any, Any] | str,
        *,
        concurrency: int = REPLY_CONCURRENCY,
        timeout: Seconds | None = REPLY_TIMEOUT,
    ) -> Any:
        """Answers requests. One attempt: what the handler raises is the answer, as `RemoteError`.

        Raises:
            ConfigError: A value is out of its range.
        """
        return self._decorator("reply", procedure, _target_name("reply", procedure, Procedure), concurrency, timeout)

    def include(self, *others: Handlers) -> None:
        """Adds the handlers of other collections, also those they are given later.

        Raises:
            ConfigError: It is no `Handlers`, or includes this one.
        """
        for other in others:
            if not isinstance(other, Handlers):
                raise ConfigError(f"include({other!r}): give a Handlers")
            if self in other._reachable():
                raise ConfigError("include(): these handlers include each other in a circle")
            self._included.append(other)

    def _reachable(self) -> list[Handlers]:
        return [self, *(h for included in self._included for h in included._reachable())]

    def _decorator(
        self, verb: Any, target: Any, name: str, concurrency: int, timeout: Seconds | None, **settings: Any
    ) -> Any:
        what = f"{verb}({name}, "
        if (
            isinstance(concurrency, bool)
            or not isinstance(concurrency, int)
            or not 1 <= concurrency <= MOST_CONCURRENCY
        ):
            raise ConfigError(f"{what}concurrency={concurrency!r}): write a whole number from 1 to {MOST_CONCURRENCY}")
        limit = None if timeout is None else duration(f"{what}timeout=…)", timeout, least=0.001)
        _check_settings(what, settings)

        def add(function: Callable[..., Any]) -> None:
            if not callable(function):
                raise ConfigError(f"{verb}({name}) decorates {function!r}: write it above a function")
            self._registrations.append(
                Registration(
                    function=function, target=target, verb=verb, concurrency=concurrency, timeout=limit, **settings
                )
            )

        return _Answers(add) if verb == "reply" else _Takes(add)


def check_middleware(name: str, middleware: object, arguments: str) -> tuple[Any, ...]:
    """A sequence of async functions.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(middleware, str) or not isinstance(middleware, Iterable):
        raise ConfigError(f"{name}={middleware!r}: write a list of async functions of {arguments}")
    functions = tuple(middleware)
    for one in functions:
        call = one if inspect.isroutine(one) or isinstance(one, partial) or not callable(one) else one.__call__
        if not inspect.iscoroutinefunction(call):
            raise ConfigError(f"{name}: {one!r} is no async function; write `async def` of {arguments}")
    return functions


def _target_name(
    verb: str, target: object, wanted: type[Topic[Any]] | type[Queue[Any]] | type[Procedure[Any, Any]]
) -> str:
    if isinstance(target, str):
        return check_pattern(target) if wanted is Topic else check_channel_name(target)
    if isinstance(target, wanted):
        return target.name
    raise ConfigError(f"{verb}({target!r}): give a {wanted.__name__}, or its name")


def _check_start(name: str, start: object) -> None:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ConfigError(f"subscribe({name}, start={start!r}): the datetime has no time zone; add tzinfo=UTC")
    elif start not in ("new", "all"):
        raise ConfigError(f"subscribe({name}, start={start!r}): write 'new', 'all' or an aware datetime")


def _check_order(name: str, target: Topic[Any] | Queue[Any] | str, ordered: bool | None, batch: object) -> None:
    if ordered is not None and not isinstance(ordered, bool):
        raise ConfigError(f"subscribe({name}, ordered={ordered!r}): write True, False or None")
    if isinstance(target, str):
        if ordered and is_pattern(target):
            raise ConfigError(
                f"subscribe({name}, ordered=True): a pattern keeps no order; subscribe to the topic itself"
            )
        return
    if ordered and not target.channel.ordered:
        raise ConfigError(
            f"subscribe({name}, ordered=True): the topic is not ordered; "
            f'declare it as Topic("{name}", …, ordered=True, key=…)'
        )
    if batch is not None and target.channel.ordered and ordered is not False:
        remedy = (
            "write ordered=False beside batch, or take single messages"
            if isinstance(target, Topic)
            else ("take single messages, or declare the queue unordered")
        )
        raise ConfigError(f"{name} is ordered, and a batch has no order per key: {remedy}")


def _check_settings(what: str, settings: dict[str, Any]) -> None:
    retry, rate, batch = settings.get("retry", DEFAULT_RETRY), settings.get("rate"), settings.get("batch")
    if not isinstance(retry, Retry):
        raise ConfigError(f"{what}retry={retry!r}): write Retry(…)")
    if batch is not None and not isinstance(batch, Batch):
        raise ConfigError(f"{what}batch={batch!r}): write Batch(…)")
    if rate is not None and (
        isinstance(rate, bool) or not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate <= 0
    ):
        raise ConfigError(f"{what}rate={rate!r}): write messages a second, above 0")
