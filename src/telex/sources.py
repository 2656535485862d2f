"""Sources by their text form: ``emails``, ``orders.placed/billing``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .channels import Queue, Topic
from .engine import Admin, Source
from .errors import ConfigError
from .names import check_group


def text_of(source: Topic[Any] | Queue[Any] | str, group: str | None, app: str) -> str:
    """The text form of a source given as an object or by name.

    Raises:
        ConfigError: A queue with a group, or something else altogether.
    """
    if group is not None:
        check_group(group)
    if isinstance(source, Topic):
        return f"{source.name}/{group or app}"
    if isinstance(source, Queue):
        if group is not None:
            raise ConfigError(f"{source.name} is a queue and has no groups: leave group={group!r} out")
        return source.name
    if isinstance(source, str):
        return source if group is None or "/" in source else f"{source}/{group}"
    raise ConfigError(f"{source!r} is not a source: give a Topic, a Queue, or text such as 'orders.placed/billing'")


async def find_sources(admin: Admin, wanted: str | None) -> Sequence[Source]:
    """The source of this text form; all, by name, for None.

    Raises:
        ConfigError: It does not exist.
    """
    sources = sorted(await admin.sources(), key=str)
    if wanted is None:
        return sources
    found = [source for source in sources if str(source) == wanted]
    if found:
        return found
    groups = [str(source) for source in sources if source.channel == wanted.partition("/")[0]]
    others = groups or [str(source) for source in sources]
    hint = f"there are {', '.join(others[:8])}" if others else "there are none"
    raise ConfigError(f"there is no source {wanted!r}: {hint}")
