"""`telex engines`: what each engine can do."""

from __future__ import annotations

from argparse import Namespace
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

from ..clock import SystemClock
from ..engines import BUILT_IN, find_settings
from ..errors import ConfigError
from ..features import Features, Refusal, Support
from . import parser
from .output import Exit, Failure, Output, Style
from .parser import Commands
from .texts import size, words

CAPABILITIES = (
    ("groups", "topics with durable groups"),
    ("patterns", "groups on patterns of topics"),
    ("broadcast", "every running instance gets every message"),
    ("ordered", "order per key"),
    ("delay", "delayed sends"),
    ("requests", "request-reply"),
    ("replay", "handing past messages to a group again"),
    ("start_all", "new groups that begin with all that is kept"),
    ("browse", "looking at kept messages without taking them"),
)
PROMISES = (
    ("durable", "messages outlive the process"),
    ("settle_confirmed", "the broker confirms settlements"),
    ("atomic", "what a handler sends and its settlement are one step"),
)
LIMITS = (
    ("max_body", "largest body"),
    ("max_delay", "longest delay"),
    ("max_hold", "longest time in hand"),
    ("hold_window", "unsettled messages per lane while a key waits"),
    ("retention", "after which unsettled messages may go"),
)


class Known(NamedTuple):
    """An engine by its scheme.

    Attributes:
        scheme: For example ``kafka``.
        features: What it can do, as far as that is known without connecting; None: this version has no such engine.
        missing: Why it is not there.
    """

    scheme: str
    features: Features | None
    missing: str


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "engines",
        "show what each engine can do",
        "telex engines",
        "telex engines file",
        run=_engines,
    )
    one.add_argument("name", nargs="?", metavar="NAME", help="one engine, by its name or the scheme of its URL")


def _engines(arguments: Namespace, output: Output) -> Exit:
    if arguments.name is not None:
        return _one(find(arguments.name), output)
    engines = known()
    if output.as_json:
        for engine in engines:
            output.record(record(engine), "")
        return Exit.OK
    there = list({engine.features: engine for engine in reversed(engines) if engine.features is not None}.values())
    there.reverse()
    rows = [
        {"feature": text, **{engine.scheme: _cell(getattr(engine.features, field), field) for engine in there}}
        for field, text in (*CAPABILITIES, *PROMISES, *LIMITS)
    ]
    output.table(("feature", *(e.scheme for e in there)), rows, _style)
    output.flush()
    for text in dict.fromkeys(engine.missing for engine in engines if engine.features is None):
        schemes = ", ".join(f"{engine.scheme}://" for engine in engines if engine.missing == text)
        output.note(f"{schemes}: {text}")
    return Exit.OK


def _one(engine: Known, output: Output) -> Exit:
    if engine.features is None:
        raise Failure(Exit.REFUSED, engine.missing)
    if output.as_json:
        output.record(record(engine), "")
        return Exit.OK
    features = engine.features
    output.record({}, output.paint(f"{features.engine} ({engine.scheme}://)", Style.HEAD))
    for field, text in (*CAPABILITIES, *PROMISES, *LIMITS):
        value = getattr(features, field)
        shown = _cell(value, field)
        output.record({}, f"  {text:<52} {output.paint(shown, _style(engine.scheme, shown))}")
        if isinstance(value, Refusal):
            output.record({}, f"      because {value.because}")
            output.record({}, f"      instead {value.instead}")
    return Exit.OK


def known() -> list[Known]:
    """Every engine of this version, and those that other packages installed; one for each scheme."""
    from importlib.metadata import entry_points  # 16 ms: only where engines are listed.

    schemes = [scheme for settings in BUILT_IN for scheme in settings.schemes]
    schemes += [point.name for point in entry_points(group="telex.engines")]
    found = [look(scheme) for scheme in dict.fromkeys(schemes)]
    return sorted(found, key=lambda engine: engine.features is None)


def look(scheme: str) -> Known:
    """The features of an engine, without connecting to anything."""
    clock = SystemClock()
    try:
        settings, url = find_settings(f"{scheme}://localhost", ())
        engine = settings.engine(url, app="telex", clock=clock, random=Random())
        return Known(scheme, engine.features, "")
    except ConfigError as error:
        return Known(scheme, None, str(error).removeprefix(f"{scheme}://localhost: "))


def find(name: str) -> Known:
    """An engine by its scheme or by its own name.

    Raises:
        Failure: There is none.
    """
    engines = known()
    for engine in engines:
        if name in (engine.scheme, engine.features and engine.features.engine):
            return engine
    raise Failure(Exit.USAGE, f"no engine {name!r}: there are {', '.join(engine.scheme for engine in engines)}")


def record(engine: Known) -> dict[str, Any]:
    """An engine as JSON has it."""
    if engine.features is None:
        return {"scheme": engine.scheme, "engine": None, "missing": engine.missing}
    found: dict[str, Any] = {"scheme": engine.scheme, "engine": engine.features.engine}
    for field, _ in (*CAPABILITIES, *PROMISES, *LIMITS):
        value = getattr(engine.features, field)
        if isinstance(value, Refusal):
            value = {"because": value.because, "instead": value.instead}
        found[field] = value
    return found


def _cell(value: Any, field: str = "") -> str:
    if isinstance(value, Refusal):
        return "no"
    if isinstance(value, Support | bool):
        return words(value)
    if value is None:
        return "never" if field == "retention" else "no limit"
    if isinstance(value, timedelta) and value >= timedelta(days=1):
        return f"{value.days} days"
    return size(value) if field == "max_body" else words(value)


def _style(column: str, value: Any) -> Style | None:
    if column == "feature":
        return None
    return {"native": Style.GOOD, "yes": Style.GOOD, "emulated": Style.WARN, "no": Style.BAD}.get(value)
