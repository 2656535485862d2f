"""The engines' settings, and which one a URL asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

import msgspec

from ..channels import Queue, Topic
from ..clock import Clock, Seconds
from ..engine import Engine, EngineSettings
from ..errors import ConfigError
from ..policy import duration
from ..urls import redact

__all__ = ["AWS", "AWSChannel", "Embedded", "Kafka", "KafkaChannel", "RabbitChannel", "RabbitMQ", "find_settings"]

Source = Topic[Any] | Queue[Any] | str
WEEK = 7 * 86400.0
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """The embedded engine: one SQLite file shared by any number of processes of one host, or memory.

    Attributes:
        sync: ``"full"``: a message is on disk when `publish` returns. ``"normal"``: a power cut may take the last
            moments with it (measured: acknowledged messages are lost), a killed process loses nothing.
        retention: How long settled messages are kept, on channels without ``history``.
        lease: How long a stopped process keeps its messages; a dead one gives them up at once.
        max_bytes: Size at which publishing fails; None: as the disk allows.

    Raises:
        ConfigError: A value is out of its range.
    """

    sync: Literal["full", "normal"] = "full"
    retention: Seconds = WEEK
    lease: Seconds = 10
    max_bytes: int | None = None

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of URLs it is for."""
        return ("file", "memory")

    def __post_init__(self) -> None:
        if self.sync not in ("full", "normal"):
            raise ConfigError(f"Embedded(sync={self.sync!r}): write 'full' or 'normal'")
        duration("Embedded(retention=…)", self.retention, most=10 * 366 * 86400.0)
        duration("Embedded(lease=…)", self.lease, least=0.1, most=3600)
        least = 1024 * 1024
        if self.max_bytes is not None and (
            isinstance(self.max_bytes, bool) or not isinstance(self.max_bytes, int) or self.max_bytes < least
        ):
            raise ConfigError(f"Embedded(max_bytes={self.max_bytes!r}): write a whole number from {least}, or None")

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        """The engine for ``memory://``, ``memory://name``, ``file://PATH`` or a path.

        Raises:
            ConfigError: The URL names no file.
        """
        from .embedded.engine import EmbeddedEngine  # Not before it is needed: other engines do not need SQLite.

        scheme, mark, rest = url.partition("://")
        if "\0" in url:
            raise ConfigError(f"URL {url!r} contains a NUL character: write a path such as 'telex.db'")
        if mark and scheme == "memory":
            if rest and not _NAME.fullmatch(rest):
                raise ConfigError(f"URL {url!r}: a store in memory is named by letters, digits, '_', '-' and '.'")
            return EmbeddedEngine(None, memory_name=rest or None, settings=self, app=app, clock=clock, random=random)
        path = rest if mark else url
        if not path:
            raise ConfigError(f"URL {url!r} names no file: write a path such as 'telex.db', or 'memory://'")
        return EmbeddedEngine(path, memory_name=None, settings=self, app=app, clock=clock, random=random)


class _Missing:
    """Settings of an engine that this version does not have: they can be written down, and are refused when used."""

    __slots__ = ()

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        """Always refuses.

        Raises:
            ConfigError: This version has no such engine.
        """
        raise ConfigError(
            f"{redact(url)}: this version of Telex has no engine for {type(self).__name__}; "
            "use a file ('telex.db') or 'memory://'"
        )


def _check_prefix(kind: str, prefix: object) -> None:
    if not isinstance(prefix, str):
        raise ConfigError(f"{kind}(prefix={prefix!r}): write a text")


class RabbitChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's own settings on RabbitMQ.

    Attributes:
        name: Its name on the broker; made from the channel's if None.
    """

    name: str | None = None


class RabbitMQ(msgspec.Struct, frozen=True, kw_only=True):
    """RabbitMQ from 3.10 on, ``amqp://`` and ``amqps://``; needs ``telex[rabbitmq]``.

    Attributes:
        prefix: Before every name on the broker; at most 40 bytes.
        channels: Settings of single channels.

    Raises:
        ConfigError: A value is out of its range.
    """

    prefix: str = ""
    channels: Mapping[Source, RabbitChannel] = {}

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of URLs it is for."""
        return ("amqp", "amqps")

    def __post_init__(self) -> None:
        _check_prefix("RabbitMQ", self.prefix)
        if len(self.prefix.encode()) > 40:
            raise ConfigError(f"RabbitMQ(prefix={self.prefix!r}): it has more than 40 bytes")

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        """The engine for ``amqp://user:password@host:port/vhost``.

        Raises:
            ConfigError: The URL is wrong, or the extra ``rabbitmq`` is not installed.
        """
        try:
            from .rabbitmq.engine import RabbitEngine  # Not before it is needed: it needs an extra.
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("aiormq", "pamqp", "yarl"):
                raise
            raise ConfigError(f"{redact(url)}: install telex[rabbitmq] for this engine") from error

        return RabbitEngine(url, self, app=app, clock=clock, random=random)


class KafkaChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's own settings on Kafka.

    Attributes:
        name: Its topic on the broker; made from the channel's name if None.
        partitions: Of an unordered channel; an ordered one has its lanes.
        replication: Copies of each partition.
        config: Further topic settings.
    """

    name: str | None = None
    partitions: int | None = None
    replication: int | None = None
    config: Mapping[str, str] = {}


class Kafka(_Missing, msgspec.Struct, frozen=True, kw_only=True):
    """Settings for ``kafka://``. This version has no such engine yet.

    Attributes:
        partitions: Of channels that say nothing else.
        replication: Of channels that say nothing else.
        prefix: Before every name on the broker.
        channels: Settings of single channels.
    """

    partitions: int = 12
    replication: int = 3
    prefix: str = ""
    channels: Mapping[Source, KafkaChannel] = {}

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of URLs it is for."""
        return ("kafka",)

    def __post_init__(self) -> None:
        _check_prefix("Kafka", self.prefix)
        for name, value in (("partitions", self.partitions), ("replication", self.replication)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"Kafka({name}={value!r}): write a whole number from 1")


class AWSChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's own settings on AWS.

    Attributes:
        name: Its name there; made from the channel's if None.
    """

    name: str | None = None


class AWS(_Missing, msgspec.Struct, frozen=True, kw_only=True):
    """Settings for ``aws://``. This version has no such engine yet.

    Attributes:
        prefix: Before every name.
        channels: Settings of single channels.
    """

    prefix: str = ""
    channels: Mapping[Source, AWSChannel] = {}

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of URLs it is for."""
        return ("aws",)

    def __post_init__(self) -> None:
        _check_prefix("AWS", self.prefix)


BUILT_IN: tuple[EngineSettings, ...] = (Embedded(), RabbitMQ(), Kafka(), AWS())


def find_settings(url: str, engines: Sequence[EngineSettings]) -> tuple[EngineSettings, str]:
    """The settings a URL asks for: the application's own, else the built-in ones, else an installed engine's.

    Raises:
        ConfigError: The URL is no text, two settings claim its scheme, or there is no engine for it.
    """
    if not isinstance(url, str):
        raise ConfigError(f"URL {url!r}: write a path such as 'telex.db', 'memory://' or a broker's URL")
    scheme = url.partition("://")[0].lower() if "://" in url else "file"
    own = [settings for settings in engines if scheme in settings.schemes]
    if len(own) > 1:
        raise ConfigError(
            f"engines=[…]: {len(own)} settings claim {scheme}://, so it is unclear which one to use: keep one"
        )
    for settings in (*own, *BUILT_IN):
        if scheme in settings.schemes:
            return settings, url
    return _installed(scheme, url), url


def _installed(scheme: str, url: str) -> EngineSettings:
    from importlib.metadata import entry_points  # 16 ms: only for engines that are not built in.

    for point in entry_points(group="telex.engines", name=scheme):
        settings: EngineSettings = point.load()()
        return settings
    known = ", ".join(sorted({s for settings in BUILT_IN for s in settings.schemes}))
    raise ConfigError(f"URL {redact(url)}: there is no engine for {scheme}://; known are {known} and plain paths")
