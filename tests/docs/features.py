"""The table of an engine's features, for its page: ``python -m tests.docs.features PAGE URL`` writes it there."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import timedelta
from pathlib import Path

import msgspec

from telex import Telex
from telex.features import Features, Refusal, Support

BEGIN, END = "<!-- features -->", "<!-- /features -->"
TITLES = {
    "durable": "messages outlive the process",
    "settle_confirmed": "settlements are confirmed by the broker",
    "atomic": "emissions and their settlement are one step",
    "groups": "topics with groups",
    "patterns": "groups on patterns",
    "broadcast": "broadcast",
    "ordered": "order per key",
    "delay": "delayed sends",
    "requests": "request-reply",
    "replay": "replay",
    "start_all": "new groups that begin in the past",
    "browse": "looking at messages without taking them",
    "max_body": "largest body",
    "max_delay": "longest delay",
    "max_hold": "longest time a delivery may stay unsettled",
    "hold_window": "ordered: unsettled messages of a lane while a key waits, before the lane waits",
    "holds_keys": "ordered: a key that waits is held by the worker",
    "retention": "unsettled messages are kept for",
}


def table(features: Features) -> str:
    """The table, as Markdown.

    Raises:
        KeyError: There is a feature that has no title here.
    """
    lines = ["| | |", "|---|---|"]
    for field in msgspec.structs.fields(features):
        if field.name not in ("engine", "pipelined", "system"):  # Names and a matter of speed, not features.
            lines.append(f"| {TITLES[field.name]} | {_shown(field.name, getattr(features, field.name))} |")
    return "\n".join(lines)


def _shown(name: str, value: object) -> str:
    match value:
        case Support():
            return value.value
        case Refusal():
            return f"no: {value.because}; instead {value.instead}"
        case bool():
            return "yes" if value else "no"
        case timedelta():
            return _duration(value)
        case None:
            return "ever" if name == "retention" else "no limit"
        case int() if name == "max_body":
            return f"{value:,} bytes"
        case _:
            return f"{value:,}"


def _duration(value: timedelta) -> str:
    if value >= timedelta(days=2):
        return f"{value.days} days"
    minutes = value / timedelta(minutes=1)
    return f"{minutes:g} minutes" if minutes < 120 else f"{minutes / 60:g} hours"


async def features_of(url: str) -> Features:
    """What an engine can do, as it says itself."""
    async with Telex(url, name="docs") as app:
        return app.features


def written(page: str) -> str:
    """The table that stands on a page."""
    found = re.search(f"{BEGIN}\n(.*?){END}", page, re.DOTALL)
    assert found is not None, f"the page has no {BEGIN}"
    return found[1].strip()


def main(page: Path, url: str) -> None:
    """Writes it."""
    text = page.read_text()
    made = f"{BEGIN}\n{table(asyncio.run(features_of(url)))}\n{END}"
    page.write_text(re.sub(f"{BEGIN}\n.*?{END}", lambda _: made, text, flags=re.DOTALL))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
