"""`telex run`: the handlers of an application, in one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from argparse import SUPPRESS, Namespace
from collections.abc import Coroutine, Iterator
from typing import Any

from ..app import Telex
from ..events import HEALTH
from . import logs, parser, values
from .output import Exit, Failure, Output
from .parser import Commands
from .supervisor import supervise
from .target import find_app

log = logging.getLogger("telex.run")


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "run",
        "run the handlers of an application",
        "telex run shop:app",
        "telex run shop:app --processes 4 --health 9000",
        "telex run shop:app --only emails,orders.placed/billing --until-idle",
        run=_run,
        more="SIGTERM, Ctrl-C and a terminal that goes away drain: nothing new is taken, what runs is finished, the "
        "rest goes back. The second time it ends at once. Killed, its messages are delivered to others. "
        "The log goes to stderr; --json makes each record one JSON object.",
    )
    one.add_argument("app", nargs="?", metavar="MODULE:APP", help="the application; as -a")
    one.add_argument("--only", action="append", default=[], metavar="SOURCE,…", help="these sources only")
    one.add_argument("--processes", type=values.positive, default=1, metavar="N", help="how many processes (1)")
    one.add_argument("--until-idle", action="store_true", help="end when there is nothing left to do")
    one.add_argument("--grace", type=values.duration, metavar="25s", help="how long handlers may go on after a stop")
    one.add_argument(
        "--health",
        type=values.address,
        metavar="[HOST:]PORT",
        help="answer /live, /ready and /metrics (Prometheus) there; on loopback unless a host is given",
    )
    one.add_argument("--reload", action="store_true", help="start again when a source file here changes")
    one.add_argument("--report", type=int, metavar="FD", help=SUPPRESS)
    one.add_argument("--worker", type=int, default=0, help=SUPPRESS)


def _run(arguments: Namespace, output: Output) -> Exit:
    if arguments.app is not None:
        if arguments.target is not None:
            raise Failure(Exit.USAGE, f"-a {arguments.target} and {arguments.app}: name the application once")
        arguments.target = arguments.app
    if arguments.reload and arguments.until_idle:
        raise Failure(Exit.USAGE, "--reload goes on for ever, --until-idle does not: leave one out")
    logs.write(as_json=output.as_json)
    if arguments.processes > 1 or arguments.reload:
        return supervise(arguments)
    app = find_app(arguments)
    if not app.registrations:
        raise Failure(Exit.USAGE, f"{app!r} has no handlers, so there is nothing to run: name one with MODULE:APP")
    if arguments.grace is not None:
        app.grace = arguments.grace
    with _reporting(app, arguments) as reports:
        code: Exit = _go(_work(app, arguments, reports))
        return code


def _go(main: Coroutine[Any, Any, Any]) -> Any:
    """Runs on uvloop where it is installed."""
    try:
        import uvloop  # An extra, and only here.
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


@contextlib.contextmanager
def _reporting(app: Telex, arguments: Namespace) -> Iterator[Any]:
    """Who hears how this process is: the one that started it, an endpoint of its own, or nobody (None)."""
    if arguments.report is None and arguments.health is None:
        yield None
        return
    from . import health, vitals  # A web server costs 20 ms: only where somebody asks.
    from .board import Board

    if arguments.report is not None:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # In the background of a terminal with `stty tostop`.
        pipe = vitals.Pipe(arguments.report, _terminate)
        yield vitals.Vitals(app, pipe, looks=arguments.worker == 0)
        return
    board = Board(1)
    with health.serving(arguments.health, board) as (host, port):
        where = f"[{host}]" if ":" in host else host
        HEALTH.log(log, "health and metrics on http://%s:%d", where, port, host=host, port=port)
        yield vitals.Vitals(app, lambda report: board.put(0, report), looks=True)


async def _work(app: Telex, arguments: Namespace, vitals: Any) -> Exit:
    only = [name for part in arguments.only for name in part.split(",") if name]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _terminate)
    async with app:
        reporter = None if vitals is None else asyncio.ensure_future(vitals.report())
        try:
            await app.run(only=only, until_idle=arguments.until_idle)
        finally:
            if reporter is not None:
                reporter.cancel()
    return Exit.OK


def _terminate() -> None:
    """Drains as after SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)
