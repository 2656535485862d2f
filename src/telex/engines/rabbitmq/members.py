"""The processes that consume talk over a fan-out exchange: who is there, and what each holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec

from ...engine import Stored
from ...errors import AccessDenied, ConfigError, Disconnected
from ...events import BROKER_TROUBLE
from . import table
from .codec import Incoming
from .codec import Reader as Decoder
from .control import Control, Differs
from .intake import Intake
from .leases import Lease
from .link import DROPPED, Link
from .publisher import CHANNEL, Posting, Publisher
from .wire import content_frames

log = logging.getLogger("telex.rabbitmq")

EVERY = 5.0
"""Seconds between announcements."""
GONE = 3 * EVERY
"""Seconds of silence after which a member does not count; the broker hands its lanes on as soon as it loses it."""
ANSWER = 0.5
"""Seconds for all members to say what they hold; after that it is looked whether they are connected at all."""
LONGEST_ANSWER = 5.0
"""Seconds for those that are: a busy machine may let them wait."""
REVIVAL = 3.0
"""Seconds that a process may take to be connected again and to say that it lives."""
STRANGERS = 0.5
"""Seconds to wait for members that are not known."""


class Holding(msgspec.Struct, frozen=True):
    """What one process has of one source.

    Attributes:
        held: Deliveries in hand.
        retrying: What waits for its retry, here or on the ladder, as far as this process knows.
        next_retry: When the earliest of those is due.
        waiting: Of ``retrying``, those on the ladder.
    """

    held: int = 0
    retrying: int = 0
    next_retry: datetime | None = None
    waiting: int = 0


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What members say.

    Attributes:
        who: Its queue, which is its name.
        here: The sources whose order it shares, with when it joined each.
        left: It consumes no more.
        ask: The number of a question: what do you hold?
        answer: The number of the question this answers.
        holdings: The answer.
        lost: With ``ask``: a copy of a message; which deliveries of it did you lose without dying of it?
        spared: The answer to that.
    """

    who: str
    here: Mapping[str, float] | None = None
    left: bool = False
    ask: int | None = None
    answer: int | None = None
    holdings: Mapping[str, Holding] | None = None
    lost: str | None = None
    spared: Sequence[int] | None = None


class Members:
    """This process among the others.

    Args:
        exchange: They talk over.
        queue: Of this process; its name among them.
        holdings: What this process holds.
        spared: Which deliveries of a copy of a message it lost with its connection.
    """

    def __init__(
        self,
        exchange: str,
        queue: str,
        control: Control,
        publisher: Publisher,
        decoder: Decoder,
        holdings: Callable[[], Awaitable[Mapping[str, Holding]]],
        spared: Callable[[str], frozenset[int]],
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self.me = queue
        self._control = control
        self._publisher = publisher
        self._decoder = decoder
        self._holdings = holdings
        self._spared = spared
        self._clock = clock
        self._here: dict[str, float] = {}
        self._others: dict[str, tuple[float, Mapping[str, float]]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._questions = 0
        self._answers: dict[int, dict[str, Word]] = {}
        self._answered = asyncio.Event()
        self._link: Link | None = None
        self._intake: Intake | None = None
        self._started = False
        self._task: asyncio.Task[None] | None = None
        self._talking: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listens and announces from now on."""
        if self._started:
            return
        self._started = True  # And goes on if this fails in the middle: nobody starts it a second time.
        self._task = self._loop.create_task(self._announce(), name="telex rabbitmq members")
        link = self._link
        if link is not None:
            await self._listen(link)

    async def up(self, link: Link) -> None:
        """Listens on a new connection."""
        self._link = link
        if self._started:
            await self._listen(link)

    def down(self) -> None:
        """Hears nothing."""
        self._link = self._intake = None

    async def close(self) -> None:
        """Says goodbye."""
        if self._task is not None:
            self._task.cancel()
        if self._started and self._link is not None:
            await self._say(Word(self.me, left=True))
        if self._intake is not None:
            await self._intake.close()

    async def _listen(self, link: Link) -> None:
        intake = Intake(self._decoder, self._arrived, self._over)
        try:
            await self._control.exchange(self._exchange, "fanout")
            await self._control.queue(self.me, {"x-queue-type": "classic", "x-expires": 60_000})
            await self._control.bind(self.me, self._exchange)
            await intake.start(link, self.me, 1000)
        except (AccessDenied, ConfigError, Differs, Disconnected, *DROPPED) as error:
            if not link.is_open:
                raise
            BROKER_TROUBLE.log(log, "the other processes cannot be heard: %s", error)
            return
        self._intake = intake
        await self._say(Word(self.me, here=dict(self._here)))

    def _over(self, intake: Intake, reason: str) -> None:
        intake.open.clear()
        self._intake = None

    async def _announce(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            link = self._link
            if link is None or not link.is_open:
                continue
            if self._intake is None:
                with suppress(Disconnected, *DROPPED):
                    await self._listen(link)
            await self._say(Word(self.me, here=dict(self._here)))
            self._forget()

    def _forget(self) -> None:
        now = self._loop.time()
        silent = [who for who, (heard, _) in self._others.items() if now - heard > GONE]
        for who in silent:
            del self._others[who]
        if silent:
            self._changed()

    # -- order ------------------------------------------------------------------------------------------------------

    async def join(self, source: str, changed: Callable[[], None]) -> None:
        """Shares the lanes of a source from now on; is told when the members change."""
        self._here[source] = self._clock()
        self._listeners.append(changed)
        await self.start()
        await self._say(Word(self.me, here=dict(self._here)))

    async def leave(self, source: str, changed: Callable[[], None]) -> None:
        """Shares them no more."""
        if changed in self._listeners:
            self._listeners.remove(changed)
        if self._here.pop(source, None) is not None:
            await self._say(Word(self.me, here=dict(self._here)))

    def sharing(self, source: str) -> list[str]:
        """Who shares the lanes of a source, by when they joined."""
        joined = [(since, self.me) for name, since in self._here.items() if name == source]
        joined += [(here[source], who) for who, (_, here) in self._others.items() if source in here]
        return [who for _, who in sorted(joined)]

    async def count(self, source: str) -> int:
        """How many do."""
        await self.start()
        return len(self.sharing(source))

    @property
    def are_others(self) -> bool:
        """Whether there are other processes."""
        return bool(self._others)

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    # -- questions --------------------------------------------------------------------------------------------------

    async def ask(self) -> tuple[Sequence[Mapping[str, Holding]], int]:
        """What each other process holds, by source; and how many are connected and did not say."""
        await self.start()
        words = await self._question(Word(self.me), ANSWER)
        end = self._loop.time() + LONGEST_ANSWER
        while (silent := await self._silent(words)) and self._loop.time() < end:
            words = [*words, *await self._question(Word(self.me), ANSWER)]
        newest = {word.who: word.holdings for word in words if word.holdings is not None}
        return list(newest.values()), silent

    async def _silent(self, words: Sequence[Word]) -> int:
        """How many did not answer and are connected: the others hold nothing, whatever they held is ready again."""
        silent = 0
        for who in set(self._others) - {word.who for word in words}:
            depth = await self._control.depth(who)
            if depth is not None and depth.consumers:
                silent += 1
        return silent

    async def spared(self, copy: str) -> frozenset[int]:
        """Which deliveries of a copy were lost by processes that live. Those that are connecting have some time."""
        words = await self._question(Word(self.me, lost=copy), REVIVAL)
        return self._spared(copy).union(*(word.spared or () for word in words))

    async def _question(self, word: Word, wait: float) -> Sequence[Word]:
        self._questions += 1
        number = self._questions
        answers = self._answers[number] = {}
        known = set(self._others)
        end = self._loop.time() + (wait if known else STRANGERS)
        await self._say(msgspec.structs.replace(word, ask=number))
        try:
            async with asyncio.timeout_at(end):
                while not known or not known <= set(answers):
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass
        finally:
            del self._answers[number]
        return list(answers.values())

    async def _answer(self, question: Word) -> None:
        if question.lost is not None:
            answer = Word(self.me, answer=question.ask, spared=sorted(self._spared(question.lost)))
        else:
            answer = Word(self.me, answer=question.ask, holdings=await self._holdings())
        await self._say(answer, question.who)

    # -- talking ----------------------------------------------------------------------------------------------------

    async def _say(self, word: Word, to: str | None = None) -> None:
        """To all, or to one. What is not heard is said again by and by."""
        body = msgspec.json.encode(word)
        fields = {table.CONTENT_TYPE: table.short(b"application/json"), table.DELIVERY_MODE: b"\x01"}
        content = content_frames(CHANNEL, table.header(len(body), fields), body, 131072)
        exchange, key = (self._exchange, "") if to is None else ("", to)
        posting = Posting(exchange, key, "", content, Stored.UNROUTED, once=True)
        await self._publisher.store([posting], self._loop.time() + 2)

    def _arrived(self, intake: Intake, run: Sequence[tuple[Incoming, Lease]]) -> None:
        intake.ack([lease for _, lease in run])
        for incoming, _ in run:
            try:
                word = msgspec.json.decode(incoming.message.body, type=Word)
            except msgspec.DecodeError:
                continue
            if word.who != self.me:
                self._hear(word)

    def _hear(self, word: Word) -> None:
        if word.ask is not None:
            self._talk(self._answer(word))
        elif word.answer is not None:
            if word.answer in self._answers:
                self._answers[word.answer][word.who] = word
                self._answered.set()
        elif word.left:
            if self._others.pop(word.who, None) is not None:
                self._changed()
        elif word.here is not None:
            before = self._others.get(word.who)
            self._others[word.who] = (self._loop.time(), word.here)
            if before is None:  # It is new, and knows nobody.
                self._talk(self._say(Word(self.me, here=dict(self._here)), word.who))
            if before is None or before[1] != word.here:
                self._changed()

    def _talk(self, words: Awaitable[None]) -> None:
        async def talk() -> None:
            with suppress(AccessDenied, Disconnected):
                await words

        task = self._loop.create_task(talk())
        self._talking.add(task)
        task.add_done_callback(self._talking.discard)
