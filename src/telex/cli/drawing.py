"""`telex topology show`: channels, groups and handlers as a table, a Mermaid picture or an AsyncAPI document."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ..app import Telex
from ..binding import bind
from ..engine import Channel, SourceKind
from ..names import is_pattern, matches
from . import parser
from .interrupts import run
from .output import Exit, Failure, Output
from .parser import Commands
from .target import find_app

COLUMNS = ("kind", "channel", "order", "group", "handler")


class _Edge(NamedTuple):
    """One source, as it is drawn."""

    kind: str
    channel: str
    order: str
    group: str | None
    handler: str | None
    attempts: int | None

    def row(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))


def add(verbs: Commands) -> None:
    """Adds the verb."""
    one = parser.add(
        verbs,
        "show",
        "show channels, groups and handlers",
        "telex topology show",
        "telex topology show --mermaid > topology.mmd",
        "telex topology show --asyncapi > asyncapi.json",
        run=_show,
        more="Of an application: what it declares, without connecting. Of a URL alone: what is there.",
    )
    form = one.add_mutually_exclusive_group()
    form.add_argument("--mermaid", action="store_true", help="as a Mermaid flowchart")
    form.add_argument("--asyncapi", action="store_true", help="as an AsyncAPI 3 document")


def _show(arguments: Namespace, output: Output) -> Exit:
    app = find_app(arguments)
    if arguments.asyncapi:
        return _document(app, output)
    if not app.registrations:
        return run(lambda stop: _there(app, arguments, output))
    return _print(_declared(app), arguments, output)


def _document(app: Telex, output: Output) -> Exit:
    from ..asyncapi import document  # Schemas of every kind of type: only where they are wanted.

    if not app.registrations:
        raise Failure(Exit.USAGE, "an AsyncAPI document describes an application: name one with -a MODULE:APP")
    written = document(app)
    text = msgspec.json.format(msgspec.json.encode(written), indent=2).decode()
    output.record(written, text)
    return Exit.OK


def _declared(app: Telex) -> list[_Edge]:
    plan = bind(app.registrations, app.name, {})
    found = []
    for bound in plan.bounds:
        channel, source = plan.channels.get(bound.source.channel), bound.source
        group = "(every instance)" if source.kind is SourceKind.BROADCAST else source.group
        attempts = None if bound.answers or source.kind is SourceKind.BROADCAST else bound.retry.attempts
        handler = f"{bound.function.__module__}.{getattr(bound.function, '__qualname__', bound.function)}"
        found.append(_Edge(_kind(channel), source.channel, _order(channel), group, handler, attempts))
    return sorted(found, key=lambda edge: (edge.channel, edge.group or ""))


async def _there(app: Telex, arguments: Namespace, output: Output) -> Exit:
    async with app.looking():
        sources = await app.admin.sources()
        names = [source.channel for source in sources]
        plain = [name for name in dict.fromkeys(names) if not is_pattern(name)]
        known = dict(zip(plain, await app.lookup(plain), strict=True)) if plain else {}
    edges = [
        _Edge(_kind(known.get(s.channel)), s.channel, _order(known.get(s.channel)), s.group, None, None)
        for s in sources
    ]
    return _print(sorted(edges, key=lambda edge: (edge.channel, edge.group or "")), arguments, output)


def _kind(channel: Channel | None) -> str:
    return "pattern" if channel is None else channel.kind.value


def _order(channel: Channel | None) -> str:
    return f"per key, {channel.lanes} lanes" if channel is not None and channel.ordered else "-"


def _print(edges: Sequence[_Edge], arguments: Namespace, output: Output) -> Exit:
    if arguments.mermaid:
        text = "\n".join(_mermaid(edges))
        output.record({"mermaid": text}, text)
    elif edges or output.as_json:
        output.table(COLUMNS, [edge.row() for edge in edges], lambda column, _: None)
    else:
        output.note("there are no sources yet: they appear when an application that declares them opens")
    return Exit.OK


SHAPES = {"topic": ('[/"', '"/]'), "pattern": ('[/"', '"/]'), "queue": ('[["', '"]]'), "procedure": ('{{"', '"}}')}


def _mermaid(edges: Sequence[_Edge]) -> list[str]:
    """https://mermaid.js.org/syntax/flowchart.html"""
    channels = {channel: f"c{i}" for i, channel in enumerate(dict.fromkeys(edge.channel for edge in edges))}
    kinds = {edge.channel: edge.kind for edge in edges}
    lines = ["flowchart LR"]
    for channel, node in channels.items():
        before, after = SHAPES[kinds[channel]]
        lines.append(f"    {node}{before}{_label(channel)}{after}")
    for pattern in channels:
        if kinds[pattern] == "pattern":
            topics = [name for name in channels if kinds[name] == "topic" and matches(pattern, name)]
            lines += [f"    {channels[name]} -.-> {channels[pattern]}" for name in topics]
    dead = False
    for i, edge in enumerate(edges):
        label = "<br/>".join(_label(part) for part in (edge.group, edge.handler) if part) or "worker"
        lines.append(f'    {channels[edge.channel]} --> s{i}("{label}")')
        if edge.attempts is not None:
            tries = "1 attempt" if edge.attempts == 1 else f"{edge.attempts} attempts"
            lines.append(f'    s{i} -. "{tries}" .-> dead')
            dead = True
    if dead:
        lines.append('    dead[("dead letters")]')
    return lines


def _label(text: str) -> str:
    """Signs that mean something to Mermaid, as its entities."""
    return "".join(c if c.isalnum() or c in "._- ()," else f"#{ord(c)};" for c in text)
