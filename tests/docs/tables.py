"""The parts of the documents that are made from the program: ``python -m tests.docs.tables`` writes them anew."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from telex import ConfigError, Features, errors, events
from telex.clock import SystemClock
from telex.engine import EngineSettings
from telex.engines import BUILT_IN
from telex.features import Refusal, Support

DOCS = Path(__file__).parents[2] / "docs"
SAMPLES = {"file": "telex.db"}
"""A URL for each scheme that needs more than itself."""
HEADS = {
    "embedded": "embedded, a file",
    "memory": "embedded, in memory",
    "rabbitmq": "RabbitMQ",
    "kafka": "Kafka",
    "aws": "SQS/SNS",
}


def every_features() -> list[Features]:
    """The features of each engine that this version has, by asking it; nothing is opened."""
    found: dict[str, Features] = {}
    for settings in BUILT_IN:
        for scheme in settings.schemes:
            if (features := _features(settings, SAMPLES.get(scheme, f"{scheme}://localhost"))) is not None:
                found.setdefault(features.engine, features)
    return list(found.values())


def _features(settings: EngineSettings, url: str) -> Features | None:
    try:
        return settings.engine(url, app="docs", clock=SystemClock(), random=Random(0)).features
    except ConfigError:  # Settings of an engine that this version does not have.
        return None


INSIDE = ("engine", "holds_keys", "pipelined", "system")
"""Names, and what only the core asks for."""


def features_table() -> str:
    """Engines side by side, one capability a row."""
    engines = every_features()
    lines = [
        "| | " + " | ".join(HEADS.get(one.engine, one.engine) for one in engines) + " |",
        "|---" * (len(engines) + 1) + "|",
    ]
    notes: list[str] = []
    for field in msgspec.structs.fields(Features):
        if field.name in INSIDE:
            continue
        cells = [_cell(getattr(one, field.name), one, field.name, notes) for one in engines]
        lines.append(f"| {ROWS[field.name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines + (["", *notes] if notes else []))


ROWS: Mapping[str, str] = {
    "durable": "messages outlive the process",
    "settle_confirmed": "settle confirmed",
    "atomic": "atomic",
    "groups": "topics with durable groups",
    "patterns": "groups on patterns",
    "broadcast": "broadcast",
    "ordered": "order per key",
    "delay": "delayed sends",
    "requests": "request and reply",
    "replay": "replay",
    "start_all": 'new groups with `start="all"`',
    "browse": "looking without taking",
    "max_body": "largest body",
    "max_delay": "longest delay",
    "max_hold": "longest time unsettled",
    "hold_window": "messages of a lane that may wait behind a key",
    "retention": "after which unsettled messages may go",
}


def _cell(value: Any, features: Features, name: str, notes: list[str]) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case Support():
            return value.value
        case Refusal():
            who = HEADS.get(features.engine, features.engine)
            notes.append(f"{len(notes) + 1}. {who}, {ROWS[name]}: {value.because}. Instead: {value.instead}.")
            return f"no ({len(notes)})"
        case None:
            return "never" if name == "retention" else "no limit"
        case timedelta():
            return _duration(value)
        case int() if name == "max_body":
            return f"{value // 1024:,} KiB" if value % 1024 == 0 else f"{value:,} bytes"
        case int():
            return f"{value:,}"
    return str(value)


def _duration(value: timedelta) -> str:
    minutes = value / timedelta(minutes=1)
    if value >= timedelta(days=2):
        return f"{value.days} days"
    return f"{minutes:g} minutes" if minutes < 120 else f"{minutes / 60:g} hours"


def events_table() -> str:
    """Every event of the log, worst first."""
    found = sorted(
        (event for event in vars(events).values() if isinstance(event, events.Event)),
        key=lambda event: (-event.level, event.name),
    )
    lines = ["| event | level | what it means | fields |", "|---|---|---|---|"]
    for event in found:
        means = event.means.replace("``", "`").replace("|", "\\|")
        fields = ", ".join(f"`{field}`" for field in event.fields)
        lines.append(f"| `{event.name}` | {logging.getLevelName(event.level).lower()} | {means} | {fields} |")
    return "\n".join(lines)


def errors_tree() -> str:
    """The tree at the top of errors.py."""
    lines = (errors.__doc__ or "").splitlines()
    tree = [_narrow(line[4:].replace("``", "")) for line in lines if line.startswith("    ")]
    return "\n".join(["<!-- docs: generated=errors -->", "```text", *tree, "```"])


def _narrow(line: str) -> str:
    """With as little room before its comment as the page has."""
    found = re.fullmatch(r"(.*\S) {3,}([a-z].*)", line)
    return f"{found[1]:36}{found[2]}" if found else line


TABLES: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "features": (DOCS / "engines.md", features_table),
    "errors": (DOCS / "errors.md", errors_tree),
    "events": (DOCS / "operate.md", events_table),
}


def rewritten(name: str) -> tuple[Path, str]:
    """The page of a table, and its text with the table as it is now."""
    page, table = TABLES[name]
    mark = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, count = mark.subn(lambda match: f"{match[1]}\n{table()}\n\n{match[2]}", page.read_text())
    if count != 1:
        raise ValueError(f"{page.name} has {count} places for the table {name}, not one")
    return page, text


def with_files(text: str) -> str:
    """The text of a page, with the files that it shows as they are now."""

    def shown(match: re.Match[str]) -> str:
        content = (DOCS.parent / match["file"]).read_text().strip()
        return f"{match['head']}{content}\n```"

    return re.sub(
        r"(?P<head><!-- docs: file=(?P<file>\S+) -->\n```[^\n]*\n).*?^```", shown, text, flags=re.DOTALL | re.M
    )


def main() -> int:
    """Writes every table and every file into its page."""
    for name in TABLES:
        page, text = rewritten(name)
        if page.read_text() != text:
            page.write_text(text)
            print(f"{page.name}: {name} written anew")
    for page in sorted(DOCS.rglob("*.md")):
        text = with_files(page.read_text())
        if page.read_text() != text:
            page.write_text(text)
            print(f"{page.name}: files written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
