"""Dead letters: look at them, group them by cause, send them again, let them go. Built on `Admin.sweep` alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from .deadreason import DeadReason
from .delivery.attempt import Attempt, parse
from .engine import Admin, Letter, Source
from .errors import ConfigError
from .events import DAMAGED_KEPT, MOVE_UNCERTAIN
from .message import Message
from .tracing import Tracing

log = logging.getLogger("telex.deadletters")

NAP = 0.5
PASS = 1000
"""Letters in one pass."""
HOLD = 30.0
"""Seconds for which a broker that must take letters to show them may hide them."""

Progress = Callable[[int], object] | None
Verb = Literal["keep", "redrive", "discard"]
Open = Callable[[], Awaitable[tuple[Admin, Sequence[Source], datetime]]]
"""The engine's admin, the sources asked for, and the present."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that will not be tried again by itself.

    Attributes:
        message: Byte for byte as it was published.
        source: Where it died, for example ``orders.placed/billing``.
        reason: Why.
        text: The same for people, in one line.
        died: When (aware, UTC); None where the broker does not say.
        attempts: What was tried, oldest first.
        redrives: How often it was redriven before.
    """

    message: Message
    source: str
    reason: DeadReason
    text: str
    died: datetime | None
    attempts: tuple[Attempt, ...]
    redrives: int


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that died of the same thing.

    Attributes:
        source: Where.
        reason: Why.
        error: The class of the last error, bare.
        place: The innermost place outside Telex: ``module.function:line``.
        count: How many.
        first: When the first one died.
        last: When the last one died.
    """

    source: str
    reason: DeadReason
    error: str
    place: str
    count: int
    first: datetime | None
    last: datetime | None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters; an empty field asks for nothing."""

    ids: frozenset[str] = frozenset()
    reason: DeadReason | None = None
    error: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether the letter fits."""
        if self.ids and letter.message.id not in self.ids:
            return False
        if self.reason is not None and letter.reason != self.reason.value:
            return False
        if self.key is not None and letter.message.key != self.key:
            return False
        if self.since is not None and (letter.at is None or letter.at < self.since):
            return False
        if self.until is not None and (letter.at is None or letter.at >= self.until):
            return False
        return self.error is None or self._is(letter)

    def _is(self, letter: Letter) -> bool:
        """The last attempt's class, bare or qualified."""
        if letter.errors:
            name = _attempt(letter.errors[-1]).error
            return self.error in (name, name.rpartition(".")[2])
        return self.error == letter.cause.partition("|")[0]


class DeadLetters:
    """Dead letters of one source, or of all; narrowed by `where`. Looking takes nothing away.

    Attributes:
        complete: False once a look showed a part only: some brokers show a sample, or the first so many.
    """

    def __init__(self, open: Open, filter: Filter | None = None, tracing: Tracing | None = None) -> None:
        self.complete = True
        self._open = open
        self._tracing = tracing
        self._filter = filter or Filter()

    def where(
        self,
        *,
        ids: Iterable[str] = (),
        reason: DeadReason | None = None,
        error: str | None = None,
        key: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> DeadLetters:
        """Those that fit all of it.

        Args:
            ids: Message ids.
            reason: Why they died.
            error: Class of the last attempt's error, bare or qualified.
            key: Their key.
            since: Died at or after this instant.
            until: Died before this instant.

        Raises:
            ConfigError: ``ids`` is a single text, ``reason`` is no `DeadReason`, or an instant has no time zone.
        """
        if isinstance(ids, str):
            raise ConfigError(f"where(ids={ids!r}): write a list of ids")
        if reason is not None and not isinstance(reason, DeadReason):
            raise ConfigError(f"where(reason={reason!r}): write one of {', '.join(str(r) for r in DeadReason)}")
        for name, instant in (("since", since), ("until", until)):
            if instant is not None and (not isinstance(instant, datetime) or instant.tzinfo is None):
                raise ConfigError(f"where({name}={instant!r}): write a datetime with a time zone")
        old = self._filter
        return DeadLetters(
            self._open,
            Filter(
                ids=frozenset(ids) or old.ids,
                reason=reason or old.reason,
                error=error or old.error,
                key=key if key is not None else old.key,
                since=since or old.since,
                until=until or old.until,
            ),
            self._tracing,
        )

    async def __aiter__(self) -> AsyncIterator[DeadLetter]:
        """One after another, oldest first where the engine knows."""
        admin, sources, _ = await self._open()
        for source in sources:
            after: str | None = None
            while True:
                found: list[Letter] = []
                swept = await admin.sweep(source, self._keep(found.append), after, PASS, HOLD)
                self.complete = self.complete and swept.complete
                for letter in found:
                    yield _public(letter)
                after = swept.after
                if after is None:
                    break

    async def count(self) -> int:
        """How many there are."""
        count = 0

        def add(letter: Letter) -> None:
            nonlocal count
            count += 1

        await self._look(add)
        return count

    async def causes(self) -> list[Cause]:
        """What they died of, most frequent first."""
        causes: dict[tuple[str, str, str], Cause] = {}

        def add(letter: Letter) -> None:
            key = (str(letter.source), letter.reason, letter.cause)
            error, _, place = letter.cause.partition("|")
            known = causes.get(key)
            if known is None:
                causes[key] = Cause(
                    source=key[0],
                    reason=DeadReason(letter.reason),
                    error=error,
                    place=place,
                    count=1,
                    first=letter.at,
                    last=letter.at,
                )
            else:
                causes[key] = msgspec.structs.replace(known, count=known.count + 1, last=letter.at)

        await self._look(add)
        return sorted(causes.values(), key=lambda cause: -cause.count)

    async def redrive(
        self, *, limit: int | None = None, rate: float | None = None, dry_run: bool = False, progress: Progress = None
    ) -> int:
        """Sends them back to the source they died in: same id, attempts from 1, history kept.

        Killed in the middle, nothing is lost: what was not sent is still here.

        Args:
            limit: Most letters to send.
            rate: Most letters a second.
            dry_run: Only count.
            progress: Called with the number sent in each step, which may be 0; what it raises ends this between steps.

        Returns:
            How many were sent (with ``dry_run``: would be).

        Raises:
            ConfigError: A value is out of its range.
        """
        return await self._move("redrive", limit, rate, dry_run, progress)

    async def discard(self, *, limit: int | None = None, dry_run: bool = False, progress: Progress = None) -> int:
        """Deletes them for good; how many.

        Raises:
            ConfigError: A value is out of its range.
        """
        return await self._move("discard", limit, None, dry_run, progress)

    async def _move(self, verb: Verb, limit: int | None, rate: float | None, dry_run: bool, progress: Progress) -> int:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise ConfigError(f"{verb}(limit={limit!r}): write a whole number, or None for all")
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < float("inf")
        ):
            raise ConfigError(f"{verb}(rate={rate!r}): write a number of messages a second above 0")
        if dry_run:
            count = await self.count()
            return count if limit is None else min(count, limit)
        admin, sources, now = await self._open()
        moved = 0
        step = PASS if rate is None else max(1, min(PASS, int(rate / 10)))
        for source in sources:
            after: str | None = None
            while limit is None or moved < limit:
                most = step if limit is None else min(step, limit - moved)
                taken: list[Letter] = []
                take = self._take(verb, most, now, taken)
                swept = await admin.sweep(source, take, after, PASS if rate is None else most, HOLD)
                moved += swept.moved
                self.complete = self.complete and swept.complete
                if self._tracing is not None and swept.moved == len(taken):
                    self._tracing.moved(verb, taken)
                if swept.uncertain:
                    MOVE_UNCERTAIN.log(
                        log,
                        "%s: %d dead letters may have been moved (%s) and may still be here, with the same ids",
                        source,
                        swept.uncertain,
                        verb,
                        source=str(source),
                        messages=swept.uncertain,
                        verb=verb,
                    )
                if progress is not None:
                    progress(swept.moved)
                after = swept.after
                if after is None:
                    break
                if rate is not None and swept.moved:
                    await _pause(swept.moved / rate, progress)
        return moved

    async def _look(self, see: Callable[[Letter], object]) -> None:
        admin, sources, _ = await self._open()
        for source in sources:
            after: str | None = None
            while True:
                swept = await admin.sweep(source, self._keep(see), after, PASS, HOLD)
                self.complete = self.complete and swept.complete
                after = swept.after
                if after is None:
                    break

    def _keep(self, see: Callable[[Letter], object]) -> Callable[[Letter], Verb]:
        def decide(letter: Letter) -> Verb:
            if self._filter.takes(letter):
                see(letter)
            return "keep"

        return decide

    def _take(self, verb: Verb, most: int, before: datetime, taken: list[Letter]) -> Callable[[Letter], Verb]:
        """What died after the call began stays: a message that fails again at once would go round for ever."""

        def decide(letter: Letter) -> Verb:
            if len(taken) >= most or (letter.at is not None and letter.at > before) or not self._filter.takes(letter):
                return "keep"
            if verb == "redrive" and letter.reason == DeadReason.DAMAGED.value:
                DAMAGED_KEPT.log(
                    log,
                    "%s stays in dead letters: what was published is lost, discard it",
                    letter.message.id,
                    source=str(letter.source),
                    message_id=letter.message.id,
                )
                return "keep"
            taken.append(letter)
            return verb

        return decide


async def _pause(seconds: float, progress: Progress) -> None:
    """Waits in naps, so that who looks on can end it by raising in ``progress``: nothing is half done then."""
    while seconds > 0:
        await asyncio.sleep(min(seconds, NAP))
        seconds -= NAP
        if progress is not None:
            progress(0)


def _public(letter: Letter) -> DeadLetter:
    return DeadLetter(
        message=letter.message,
        source=str(letter.source),
        reason=DeadReason(letter.reason),
        text=letter.text,
        died=letter.at,
        attempts=tuple(_attempt(error) for error in letter.errors),
        redrives=letter.redrives,
    )


def _attempt(error: str) -> Attempt:
    """An attempt; one that another version wrote differently is shown as it is."""
    try:
        return parse(error)
    except (msgspec.DecodeError, msgspec.ValidationError):
        unknown = datetime.fromtimestamp(0).astimezone()
        return Attempt(number=0, started=unknown, worker="", error="", text=error[:500], traceback="")
