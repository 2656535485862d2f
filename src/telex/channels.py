"""Channels: topics, queues and procedures, typed; the contract between teams. Import them from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic

from .clock import Seconds
from .engine import Channel, ChannelKind
from .errors import ConfigError
from .names import check_channel_name
from .policy import duration
from .typevars import A_co, Q, T

if TYPE_CHECKING:
    from typing_extensions import TypeForm

LANES = 16
MOST_LANES = 256
MOST_HISTORY = 10 * 366 * 86400.0


class Topic(Generic[T]):
    """A named stream; every group subscribed to it gets each message.

    Args:
        name: Words of ``[a-z0-9_]`` joined by dots, at most 60 characters.
        type: Of the bodies: a dataclass, Struct, TypedDict, attrs class, pydantic model, builtin, or ``bytes``.
        ordered: Keep order per key, also across retries, restarts and processes.
        key: Takes the key out of a body.
        lanes: Ordered only: units of order, over which processes share the work. Cannot be changed later.
        history: How long settled messages are kept for replay; None: as the engine's settings say.

    Raises:
        ConfigError: A value is out of its range.
    """

    def __init__(
        self,
        name: str,
        type: TypeForm[T] = Any,
        *,
        ordered: bool = False,
        key: Callable[[T], str | None] | None = None,
        lanes: int = LANES,
        history: Seconds | None = None,
    ) -> None:
        self.name = check_channel_name(name)
        self.type: Any = type
        self.key = _check_key_function("Topic", name, key)
        kept = None
        if history is not None:
            kept = timedelta(seconds=duration(f"Topic({name}, history=…)", history, most=MOST_HISTORY))
        self.channel = Channel(name, ChannelKind.TOPIC, ordered, _lanes("Topic", name, ordered, lanes), kept)

    def __repr__(self) -> str:
        return f"Topic({self.name!r})"


class Queue(Generic[T]):
    """A named work queue; one worker gets each message.

    Args:
        name: As for `Topic`.
        type: As for `Topic`.
        ordered: As for `Topic`.
        key: As for `Topic`.
        lanes: As for `Topic`.

    Raises:
        ConfigError: A value is out of its range.
    """

    def __init__(
        self,
        name: str,
        type: TypeForm[T] = Any,
        *,
        ordered: bool = False,
        key: Callable[[T], str | None] | None = None,
        lanes: int = LANES,
    ) -> None:
        self.name = check_channel_name(name)
        self.type: Any = type
        self.key = _check_key_function("Queue", name, key)
        self.channel = Channel(name, ChannelKind.QUEUE, ordered, _lanes("Queue", name, ordered, lanes))

    def __repr__(self) -> str:
        return f"Queue({self.name!r})"


class Procedure(Generic[Q, A_co]):
    """A queue whose handler answers: request-reply.

    Args:
        name: As for `Topic`.
        request: Type of the requests.
        answer: Type of the answers.

    Raises:
        ConfigError: The name breaks a rule.
    """

    def __init__(self, name: str, request: TypeForm[Q] = Any, answer: TypeForm[A_co] = Any) -> None:
        self.name = check_channel_name(name)
        self.request: Any = request
        self.answer: Any = answer
        self.channel = Channel(name, ChannelKind.PROCEDURE)

    def __repr__(self) -> str:
        return f"Procedure({self.name!r})"


def _check_key_function(kind: str, name: str, key: object) -> Any:
    if key is not None and not callable(key):
        raise ConfigError(
            f"{kind}({name}, key={key!r}): write a function of the body, for example key=lambda o: o.customer"
        )
    return key


def _lanes(kind: str, name: str, ordered: object, lanes: object) -> int:
    if not isinstance(ordered, bool):
        raise ConfigError(f"{kind}({name}, ordered={ordered!r}): write True or False")
    if isinstance(lanes, bool) or not isinstance(lanes, int) or not 1 <= lanes <= MOST_LANES:
        raise ConfigError(f"{kind}({name}, lanes={lanes!r}): write a whole number from 1 to {MOST_LANES}")
    return lanes if ordered else 1
