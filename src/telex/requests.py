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
        self._opening: asyncio.Task[Consumer] | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self.late = 0
        """Answers that came after their request was given up."""

    async def ask(self, outgoing: Outgoing, timeout: float, deadline: float) -> Message:
        """Sends a request and returns its answer as it came.

        Args:
            outgoing: The request.
            timeout: What the caller asked for, in seconds.
            deadline: When that is over, in the loop's time; the request expires then, however late it leaves.

        Raises:
            RequestTimeout: No answer in time; the text says so where nothing was sent.
            RemoteError: The handler raised.
            PublishFailed: The request was stored nowhere.
            PublishUncertain: It may be stored.
            Disconnected: The inbox cannot be opened, as the engine is not reachable; nothing was sent.
            Closed: The application was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        expires = self._clock.now() + timedelta(seconds=deadline - loop.time())
        consumer = self._consumer
        if consumer is None or self._publisher.crowded:
            consumer = await self._ready(outgoing, timeout, deadline)
            if self._closed:
                raise Closed("the application was closed while a request waited to leave; nothing was sent")
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
        self._closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Closed("the application was closed while it waited for an answer"))
        self._waiting.clear()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
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

    async def _ready(self, outgoing: Outgoing, timeout: float, deadline: float) -> Consumer:
        """Waits until a request can leave: for the inbox, and for room in memory."""
        waited_for = "the inbox for its answer could not be opened"
        try:
            async with asyncio.timeout_at(deadline) as scope:
                consumer = self._consumer or await self._open()
                waited_for = "too much is waiting to be stored"
                if self._publisher.crowded:
                    await self._publisher.room(outgoing)
                return consumer
        except TimeoutError:
            if not scope.expired():
                raise
            message = outgoing.message
            raise RequestTimeout(
                f"{message.channel} was not asked: request {message.id} could not leave within {timeout:g} s "
                f"({waited_for}); nothing was sent"
            ) from None

    async def _open(self) -> Consumer:
        """Opens the inbox, once for all who ask: who gives up ends it for no other, and a failure reaches all."""
        if self._closed:
            raise Closed("the application is closed: request inside `async with app`")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._begin(), name="telex inbox opening")
            self._opening.add_done_callback(self._begun)
        opening = self._opening
        await asyncio.wait([opening])
        if opening.cancelled():
            raise Closed("the application was closed while a request waited for its inbox; nothing was sent")
        return opening.result()

    async def _begin(self) -> Consumer:
        source = Source(self._app, SourceKind.INBOX)
        self._consumer = await self._engine.consume(Subscription(source=source, window=WINDOW), _nothing)
        self._task = asyncio.get_running_loop().create_task(self._read(self._consumer), name="telex inbox")
        return self._consumer

    def _begun(self, opening: asyncio.Task[Consumer]) -> None:
        self._opening = None  # Who asks after a failure tries again.
        if not opening.cancelled():
            opening.exception()  # No complaint where all who asked have given up: each was told why.

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
