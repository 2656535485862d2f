"""Request-reply: one inbox a process, answers matched by correlation id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from .clock import Clock
from .delivery.replies import ERROR_HEADER
from .engine import Consumer, Decision, Engine, EngineClosed, Outgoing, Settlement, Source, SourceKind, Subscription
from .errors import Closed, RemoteError, RequestTimeout
from .events import INBOX_FAILING, qualified, words
from .message import Message
from .publisher import Publisher

log = logging.getLogger("telex.requests")

WINDOW = 4096
WAIT = 5.0


class Requests:
    """Sends requests and waits for their answers. The inbox is opened by the first request."""

    def __init__(self, engine: Engine, publisher: Publisher, clock: Clock, app: str) -> None:
        self._engine = engine
        self._publisher = publisher
        self._clock = clock
        self._app = app
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._consumer: Consumer | None = None
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.late = 0
        """Answers that came after their request was given up."""

    async def ask(self, outgoing: Outgoing, timeout: float) -> Message:
        """Sends a request and returns its answer as it came.

        Raises:
            RequestTimeout: No answer in time.
            RemoteError: The handler raised.
            PublishFailed: The request was stored nowhere.
            Closed: The application was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        consumer = self._consumer or await self._open()
        expires = self._clock.now() + timedelta(seconds=timeout)
        id = outgoing.message.id
        message = msgspec.structs.replace(
            outgoing.message, reply_to=consumer.address, correlation_id=id, expires=expires
        )
        answer: asyncio.Future[Message] = loop.create_future()
        self._waiting[id] = answer
        timer = loop.call_at(deadline, self._expire, id, outgoing.message.channel, timeout)

        def published(future: asyncio.Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None and not answer.done():
                answer.set_exception(error)

        try:
            if self._publisher.crowded:
                await self._publisher.room(outgoing)
            # Only the answer is awaited: a store that is slow must not make a caller wait beyond its own deadline.
            self._publisher.put(msgspec.structs.replace(outgoing, message=message)).add_done_callback(published)
            reply = await answer
        finally:
            timer.cancel()
            self._waiting.pop(id, None)
        kind = reply.headers.get(ERROR_HEADER)
        if kind is not None:
            raise RemoteError(kind, _text(reply.body))
        return reply

    async def close(self) -> None:
        """Ends the inbox; requests under way raise `Closed`."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Closed("the application was closed while it waited for an answer"))
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._consumer is not None:
            await self._consumer.close()

    def _expire(self, id: str, channel: str, timeout: float) -> None:
        answer = self._waiting.pop(id, None)
        if answer is not None and not answer.done():
            answer.set_exception(
                RequestTimeout(f"{channel} did not answer request {id} within {timeout:g} s; a late answer is dropped")
            )

    async def _open(self) -> Consumer:
        async with self._opening:
            if self._consumer is None:
                source = Source(self._app, SourceKind.INBOX)
                self._consumer = await self._engine.consume(Subscription(source=source, window=WINDOW), _nothing)
                self._task = asyncio.get_running_loop().create_task(self._read(self._consumer), name="telex inbox")
        return self._consumer

    async def _read(self, consumer: Consumer) -> None:
        while True:
            try:
                batch = await consumer.fetch(WINDOW, WAIT)
                if not batch:
                    continue
                for fetched in batch:
                    self._resolve(fetched.message)
                await consumer.settle([Settlement(fetched.lease, Decision.ACCEPT) for fetched in batch])
            except EngineClosed:
                return
            except Exception as error:
                INBOX_FAILING.log(
                    log,
                    "the inbox cannot be read (%s); requests time out until it can; trying again in 1 s",
                    words(error),
                    error=qualified(error),
                    delay=1.0,
                )
                await asyncio.sleep(1)

    def _resolve(self, reply: Message) -> None:
        answer = self._waiting.pop(reply.correlation_id or "", None)
        if answer is None or answer.done():
            self.late += 1
        else:
            answer.set_result(reply)


def _nothing(leases: Sequence[object]) -> None:
    """Answers are settled at once; one that is lost comes again and finds nobody waiting."""


def _text(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=str)
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace")
