"""What operators ask of an open application: its dead letters, its past, its topology. None of it runs a handler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from .binding import Plan, unsupported
from .channels import Queue, Topic
from .clock import Clock
from .deadletters import DeadLetters
from .engine import Admin, Change, Channel, EngineSettings, Source, Status
from .errors import ConfigError, Unsupported
from .features import Features
from .names import check_channel_name
from .session import Session, changes_for, check_plan
from .sources import find_sources, text_of
from .tracing import Tracing


class Operated(ABC):
    """The operators' half of an application."""

    name: str
    _clock: Clock
    _tracing: Tracing | None
    _engines: Sequence[EngineSettings]

    @abstractmethod
    def _open(self) -> Session: ...

    def dead_letters(
        self, source: Topic[Any] | Queue[Any] | str | None = None, *, group: str | None = None
    ) -> DeadLetters:
        """The dead letters of a source, or of all sources.

        Args:
            source: A queue, a topic (with ``group``, or the application's name), a pattern, or a source's text form.
            group: The group, for a topic.
        """
        wanted = None if source is None else text_of(source, group, self.name)

        async def open() -> tuple[Admin, Sequence[Source], datetime]:
            admin = self._open().engine.admin
            return admin, await find_sources(admin, wanted), self._clock.now()

        return DeadLetters(open, tracing=self._tracing)

    async def replay(
        self,
        topic: Topic[Any] | str,
        *,
        group: str,
        since: datetime | timedelta | Literal["start"],
        dry_run: bool = False,
    ) -> int:
        """Hands a group the messages published since an instant again, beside what it does now; how many.

        Replayed messages are outside the order promise.

        Args:
            topic: The topic, its name, or the pattern the group is subscribed to.
            group: The group.
            since: An aware datetime, how long ago, or ``"start"`` for all that is kept.
            dry_run: Only count.

        Raises:
            Unsupported: The engine keeps no history.
            ConfigError: The group does not exist, or ``since`` is wrong.
        """
        engine = self._open().engine
        if (refusal := engine.features.refusal("replay")) is not None:
            raise refusal
        now = self._clock.now()
        (source,) = await find_sources(engine.admin, text_of(topic, group, self.name))
        start, token, count = _since(since, now), None, 0
        while True:
            done, token = await engine.admin.replay(source, start, now, token, dry_run)
            count += done
            if token is None:
                return count

    async def backup(self, path: str) -> int:
        """Writes a consistent copy of everything to a new file while the application works; its size in bytes.

        Raises:
            ConfigError: The file exists, or its folder does not.
            Unsupported: The engine's broker is backed up by its own tools.
        """
        return await self._open().engine.admin.backup(path)

    async def lookup(self, names: Sequence[str]) -> Sequence[Channel | None]:
        """The channels of these names as they exist; None for one that does not.

        Raises:
            ConfigError: A name breaks the rules.
        """
        return await self._open().engine.lookup([check_channel_name(name) for name in names])

    async def plan(self) -> Sequence[Change]:
        """What declaring this application's channels and groups would do; only reads. Empty: all is there."""
        session = self._open()
        return await changes_for(session.engine, session.plan)

    async def declare(self) -> Sequence[Change]:
        """Creates what is missing, and alters nothing; what was created.

        Raises:
            ExceptionGroup: Of a `ConfigError` for each thing that exists differently; nothing was created then.
        """
        engine, changes = self._open().engine, await self.plan()
        check_plan(changes, verify=False)
        missing = [change for change in changes if change.status is Status.CREATE]
        if missing:
            await engine.apply(missing)
        return missing

    def refusals(self, features: Features | None = None) -> list[Unsupported]:
        """What this application asks for and an engine refuses: its own, or one with these features."""
        session = self._open()
        return unsupported(session.plan, session.engine.features if features is None else features)

    @property
    def engines(self) -> Sequence[EngineSettings]:
        """The typed settings it was given."""
        return self._engines

    @property
    def bound(self) -> Plan:
        """The handlers as they were bound to sources, and the channels they need.

        Raises:
            Closed: The application is not open.
        """
        return self._open().plan

    @property
    def admin(self) -> Admin:
        """What tools for operators are built on; on every engine the same.

        Raises:
            Closed: The application is not open.
        """
        return self._open().engine.admin

    @property
    def features(self) -> Features:
        """What the engine can do.

        Raises:
            Closed: The application is not open.
        """
        return self._open().engine.features


def _since(since: datetime | timedelta | str, now: datetime) -> datetime:
    if since == "start":
        return datetime.fromtimestamp(0, now.tzinfo)
    if isinstance(since, timedelta):
        return now - since
    if isinstance(since, datetime) and since.tzinfo is not None:
        return since
    raise ConfigError(f"replay(since={since!r}): write an aware datetime, a timedelta or 'start'")
