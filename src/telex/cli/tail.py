"""`telex tail`: watches messages arrive, and takes none."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from ..app import Telex
from ..message import Message
from . import parser, values
from .interrupts import run
from .output import Exit, Failure, Gone, Output
from .parser import Commands
from .target import find_app
from .texts import content, text_of

PAGE = 2000
POLL = 0.25
"""Seconds between looks when nothing comes."""


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "tail",
        "watch messages arrive, without taking them",
        "telex tail orders.placed",
        "telex tail orders.placed --since -15m --key ann --json | jq .body",
        run=_tail,
        more="Shows what is published from now on, or from --since on, until Ctrl-C or --count messages. "
        "Works where the engine can browse; where it cannot, it ends with exit code 4 and says what to do.",
    )
    one.add_argument("channel", metavar="TOPIC|QUEUE")
    one.add_argument("--since", type=values.since, metavar="-15m|ISO|start", help="begin in the past")
    one.add_argument("--key", metavar="KEY", help="messages with this key only")
    one.add_argument("--count", type=values.count, metavar="N", help="end after N messages")
    one.add_argument("--no-follow", action="store_true", help="end when all that is there was shown")


def _tail(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    return run(lambda stop: _watch(app, arguments, output))


async def _watch(app: Telex, arguments: Namespace, output: Output) -> Exit:
    since = arguments.since or datetime.now(UTC)
    async with app.looking():
        if (refusal := app.features.refusal("browse")) is not None:
            raise refusal
        (channel,) = await app.lookup([arguments.channel])
        if channel is None:
            raise Failure(Exit.USAGE, f"there is no channel {arguments.channel!r}: {await _known(app)}")
        shown, after = 0, None
        while arguments.count is None or shown < arguments.count:
            seen = await app.admin.browse(arguments.channel, since, PAGE, after)
            after = seen.after
            for message in seen.messages:
                if arguments.key is not None and message.key != arguments.key:
                    continue
                output.record(_record(message), _line(message, output))
                shown += 1
                if shown == arguments.count:
                    return Exit.OK
            if not seen.messages:
                if arguments.no_follow:
                    return Exit.OK
                await _wait(output)
    return Exit.OK


async def _wait(output: Output) -> None:
    """Until it is time to look again. A pipe whose reader left is noticed now, not at the next message."""
    output.flush()
    if not output.is_read:
        raise Gone
    await asyncio.sleep(POLL)


async def _known(app: Telex) -> str:
    channels = sorted({source.channel for source in await app.admin.sources()})
    return f"there are {', '.join(channels[:8])}" if channels else "there are none"


def _line(message: Message, output: Output) -> str:
    return output.fit("  ".join(output.words(v) for v in (message.time, message.id, message.key, text_of(message))))


def _record(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "channel": message.channel,
        "time": message.time,
        "key": message.key,
        "headers": message.headers,
        **content(message),
    }
