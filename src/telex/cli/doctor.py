"""`telex doctor`: what is wrong with an application, its engine and its configuration; what another engine refuses."""

from __future__ import annotations

import platform
import stat
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from .. import __version__
from ..app import Telex
from ..engine import SourceStats, Status
from ..errors import Unsupported
from ..features import Features, Refusal
from . import engines, parser
from .interrupts import run
from .output import Exit, Failure, Output, Style
from .parser import Commands
from .profiles import config_path, find_profile, profile_names
from .target import find_app, of_profile
from .texts import plural, size, span

NEARLY = 0.8
"""Share of the engine's retention after which unsettled messages are in danger."""


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What.
        wrong: Exit code it asks for; OK if all is well.
        text: What was found.
        hint: What to do about it.
    """

    name: str
    wrong: Exit
    text: str
    hint: str = ""


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "doctor",
        "check an application and its engine",
        "telex doctor",
        "telex doctor --against kafka",
        "telex doctor --backup /backups/telex-2026-11-25.db",
        run=_doctor,
        more="Changes nothing. With --against it says what another engine would refuse, why, and what to do instead "
        "(exit code 4). A profile is connected to; an engine's name or scheme is not. No password is ever printed.",
    )
    one.add_argument("--against", metavar="PROFILE|ENGINE", help="would this application run there?")
    one.add_argument("--backup", metavar="FILE", help="write a consistent copy of the store to a new file")


def _doctor(arguments: Namespace, output: Output) -> Exit:
    if arguments.against is not None and arguments.backup is not None:
        raise Failure(Exit.USAGE, "--against and --backup are two different things: give one")
    app = find_app(arguments)
    if arguments.backup is not None:
        return run(lambda stop: _backup(app, arguments.backup, output))
    if arguments.against is not None:
        return run(lambda stop: _against(app, arguments.against, output))
    return run(lambda stop: _check(app, output))


async def _backup(app: Telex, path: str, output: Output) -> Exit:
    async with app.looking():
        count = await app.backup(path)
    output.record({"file": path, "size": count}, f"{path} written: {size(count)}, checked")
    return Exit.OK


# -- the state of things ---------------------------------------------------------------------------------------------


async def _check(app: Telex, output: Output) -> Exit:
    checks = [_versions(), *_config()]
    begun = time.monotonic()
    async with app.looking():
        took = span(time.monotonic() - begun)
        checks.append(Check("engine", Exit.OK, f"{app.features.engine}, opened in {took}"))
        checks += _refused(app.refusals())
        checks += await _topology(app)
        stats = await app.stats()
        checks += [Check("engine", Exit.PROBLEM, problem) for problem in stats.problems]
        checks += _sources(stats.sources, app.features.retention)
    worst = Exit.OK
    for check in checks:
        _print(check, output)
        if check.wrong is not Exit.OK and worst is not Exit.REFUSED:
            worst = check.wrong
    return worst


def _print(check: Check, output: Output) -> None:
    fine = check.wrong is Exit.OK
    mark = output.paint("ok ", Style.GOOD) if fine else output.paint("bad", Style.BAD)
    values = {"check": check.name, "ok": fine, "text": check.text, "hint": check.hint}
    hint = f"\n{'':15}{check.hint}" if check.hint else ""
    output.record(values, f"{mark} {check.name:<10} {check.text}{hint}")


def _versions() -> Check:
    return Check("versions", Exit.OK, f"telex {__version__}, Python {platform.python_version()}, {platform.system()}")


def _config() -> Iterator[Check]:
    path = config_path()
    if path is None:
        return
    find_profile(None)
    secret = any(word in path.read_text("utf-8") for word in ("://", "url_file"))
    if secret and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Check(
            "profiles",
            Exit.OK,
            f"{path} can be read by others",
            "if a URL in it holds a password, move that to url_env or url_file, or: chmod 600",
        )
    else:
        yield Check("profiles", Exit.OK, f"{path}")


def _refused(refusals: Sequence[Unsupported]) -> Iterator[Check]:
    for refusal in refusals:
        yield Check("refused", Exit.REFUSED, f"{refusal.feature}: {refusal.because}", f"instead: {refusal.instead}")


async def _topology(app: Telex) -> list[Check]:
    if not app.registrations:
        return [Check("topology", Exit.OK, "the target is a URL alone, so there are no declarations to compare")]
    changes = await app.plan()
    checks = []
    missing = [change.what for change in changes if change.status is Status.CREATE]
    if missing:
        text = f"{plural(len(missing), 'thing is', 'things are')} missing: {', '.join(missing[:5])}"
        checks.append(Check("topology", Exit.PROBLEM, text, "create it with: telex topology apply"))
    for change in changes:
        if change.status is Status.DIFFERS:
            text = f"{change.what} exists and differs: {change.because}"
            checks.append(Check("topology", Exit.PROBLEM, text, "declare it as it is, or under another name"))
        elif change.status is Status.UNKNOWN:
            checks.append(Check("topology", Exit.OK, f"{change.what} cannot be checked: {change.because}"))
    if not checks:
        checks.append(Check("topology", Exit.OK, f"{plural(len(app.bound.bounds), 'source')} as declared"))
    return checks


def _sources(sources: Sequence[SourceStats], retention: timedelta | None) -> list[Check]:
    checks = []
    for source in sources:
        waiting = sum(n or 0 for n in (source.ready, source.retrying))
        if waiting and source.consumers == 0:
            text = f"{source.source}: {plural(waiting, 'message')} and no consumer"
            checks.append(Check("consumers", Exit.PROBLEM, text, "start a worker: telex run MODULE:APP"))
        if source.dead:
            hint = f"look at them with: telex dead list {source.source} --by-cause"
            checks.append(Check("dead", Exit.PROBLEM, f"{source.source}: {plural(source.dead, 'dead letter')}", hint))
        if retention is not None and source.oldest is not None and source.oldest > retention * NEARLY:
            text = f"{source.source}: the oldest message waits for {span(source.oldest.total_seconds())}"
            hint = f"the engine forgets after {span(retention.total_seconds())}: consume it before"
            checks.append(Check("retention", Exit.PROBLEM, text, hint))
    return checks or [Check("sources", Exit.OK, f"{plural(len(sources), 'source')}, nothing waits in vain")]


# -- another engine --------------------------------------------------------------------------------------------------


async def _against(app: Telex, name: str, output: Output) -> Exit:
    if not app.registrations:
        raise Failure(Exit.USAGE, "--against compares an application with an engine: name one with -a MODULE:APP")
    features = await _features(app, name)
    async with app.looking():
        asked = [*app.refusals(features), *_limits(app, features)]
        own = app.features
    named = {refusal.feature for refusal in asked}
    for refusal in asked:
        _tell(refusal, output, asked=True)
    for field, _ in engines.CAPABILITIES:
        value = getattr(features, field)
        if isinstance(value, Refusal) and field not in named:
            _tell(Unsupported(field, features.engine, value.because, value.instead), output, asked=False)
    for text in _weaker(own, features):
        output.record({"note": text}, f"{output.paint('note   ', Style.WARN)} {text}")
    output.flush()
    if asked:
        output.note(f"{app.name} cannot run on {features.engine} as it is: {plural(len(asked), 'refusal')}")
        return Exit.REFUSED
    output.note(f"{app.name} can run on {features.engine}")
    return Exit.OK


async def _features(app: Telex, name: str) -> Features:
    if name in profile_names() and (profile := find_profile(name)) is not None:
        other = Telex(profile.url, name=app.name, engines=app.engines) if profile.url else of_profile(profile)
        async with other.looking():
            return other.features
    engine = engines.find(name)
    if engine.features is None:
        raise Failure(Exit.REFUSED, engine.missing)
    return engine.features


def _tell(refusal: Unsupported, output: Output, *, asked: bool) -> None:
    values = {
        "feature": refusal.feature,
        "engine": refusal.engine,
        "asked": asked,
        "because": refusal.because,
        "instead": refusal.instead,
    }
    word = output.paint("refused", Style.BAD) if asked else output.paint("absent ", Style.WARN)
    use = "" if asked else " (no handler asks for it)"
    lines = [
        f"{word} {refusal.feature}{use}",
        f"        because {refusal.because}",
        f"        instead {refusal.instead}",
    ]
    output.record(values, "\n".join(lines))


def _limits(app: Telex, features: Features) -> Iterator[Unsupported]:
    """Handlers that may run longer than the engine lets them hold a message."""
    if features.max_hold is None:
        return
    most = features.max_hold.total_seconds()
    for bound in app.bound.bounds:
        if bound.timeout is None or bound.timeout > most:
            limit = "no timeout" if bound.timeout is None else f"a timeout of {span(bound.timeout)}"
            yield Unsupported(
                "max_hold",
                features.engine,
                f"the handler of {bound.name} has {limit}, and a message may be in hand for {span(most)}",
                f"give it a timeout of at most {span(most)}",
            )


def _weaker(own: Features, other: Features) -> Iterator[str]:
    for field, text in engines.PROMISES:
        if getattr(own, field) and not getattr(other, field):
            yield f"{other.engine} does not promise that {text}"
    if other.max_body < own.max_body:
        yield f"bodies may have {size(other.max_body)}, here {size(own.max_body)}"
    if other.max_delay < own.max_delay:
        longest = [span(features.max_delay.total_seconds()) for features in (other, own)]
        yield f"sends may be delayed by {longest[0]}, here {longest[1]}"
    if other.retention is not None and (own.retention is None or other.retention < own.retention):
        yield f"unsettled messages may be forgotten after {span(other.retention.total_seconds())}"
    if other.hold_window is not None:
        yield f"a key that waits for its retry holds its lane back after {plural(other.hold_window, 'message')}"
