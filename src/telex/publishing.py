"""Middleware around publishing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext

import msgspec

from .engine import Outgoing
from .message import Message
from .outbound import Composer
from .publisher import Publisher
from .tracing import Sending

PublishMiddleware = Callable[[Message, Callable[[Message], Awaitable[None]]], Awaitable[None]]


async def through(
    middleware: Sequence[PublishMiddleware],
    outgoing: Outgoing,
    composer: Composer,
    publish: Callable[[Outgoing], Awaitable[None]],
) -> str:
    """Publishes through middleware, outermost first; the id of what was published.

    Raises:
        InvalidMessage: What middleware made of the message breaks a rule.
    """
    id = outgoing.message.id

    async def last(message: Message) -> None:
        nonlocal id
        if message is not outgoing.message:
            message = composer.checked(outgoing.message, message)
        id = message.id
        await publish(msgspec.structs.replace(outgoing, message=message))

    call: Callable[[Message], Awaitable[None]] = last
    for one in reversed(middleware):
        call = _wrap(one, call)
    await call(outgoing.message)
    return id


async def changed(
    middleware: Sequence[PublishMiddleware], outgoing: Outgoing, *, composer: Composer
) -> Outgoing | None:
    """What middleware makes of a message, None if it goes no further; for those that are published many at a time.

    Raises:
        InvalidMessage: It breaks a rule.
    """
    result = None

    async def keep(last: Outgoing) -> None:
        nonlocal result
        result = last

    await through(middleware, outgoing, composer, keep)
    return result


async def wrapped(
    sending: Sending | None,
    middleware: Sequence[PublishMiddleware],
    outgoing: Outgoing,
    composer: Composer,
    publisher: Publisher,
) -> str:
    """Publishes inside what traces it, then through middleware; the id of what was published."""
    with sending or nullcontext():
        return await through(middleware, outgoing, composer, publisher.publish)


def _wrap(
    middleware: PublishMiddleware, inner: Callable[[Message], Awaitable[None]]
) -> Callable[[Message], Awaitable[None]]:
    async def call(message: Message) -> None:
        await middleware(message, inner)

    return call
