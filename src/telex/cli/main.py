"""The parser, and the one place where errors become exit codes."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..deadreason import DeadReason
from ..errors import ConfigError, Disconnected, PublishFailed, StoreDamaged, TelexError, UnknownChannel, Unsupported
from . import dead, publish, run, status
from .output import Exit, Failure, Output
from .target import find_app, load
from .values import count, duration, header, instant, positive, rate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code."""
    arguments = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    output = Output(as_json=arguments.json)
    try:
        code = _command(arguments, output)
        output.flush()
    except BrokenPipeError:
        # The reader has seen enough (telex … | head). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        output.problem("interrupted")
        return Exit.INTERRUPTED
    except Exception as error:
        code, text = explain(error)
        output.problem(text)
    return code


def _joined(argv: Sequence[str]) -> list[str]:
    """``--since -2h`` as ``--since=-2h``: the parser would take -2h for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--since", "--until") and word.startswith("-") and word[1:2].isdigit():
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def explain(error: BaseException) -> tuple[Exit, str]:
    """The exit code and the one line for an error."""
    match error:
        case BaseExceptionGroup():
            told = [explain(one) for one in error.exceptions]
            return told[0][0], "; ".join(text for _, text in told)
        case Failure():
            return error.code, str(error)
        case Unsupported():
            return Exit.REFUSED, str(error)
        case Disconnected() | StoreDamaged():
            return Exit.UNREACHABLE, str(error)
        case ConfigError() | UnknownChannel():
            return Exit.USAGE, str(error)
        case PublishFailed() | TelexError():
            return Exit.PROBLEM, f"{type(error).__name__}: {error}"
        case _:
            return Exit.PROBLEM, f"unexpected {type(error).__name__}: {error}"


def _command(arguments: argparse.Namespace, output: Output) -> Exit:
    match arguments.command:
        case "run":
            if arguments.processes > 1:
                return run.supervise(arguments, output)
            code: Exit = run.go(run.run(load(arguments.app), arguments, output))
            return code
        case "publish" | "send":
            return asyncio.run(publish.publish(find_app(arguments.target), arguments, output))
        case "request":
            return asyncio.run(publish.request(find_app(arguments.target), arguments, output))
        case "status":
            return asyncio.run(status.status(find_app(arguments.target), arguments, output))
        case _:
            return asyncio.run(dead.dead(find_app(arguments.target), arguments, output))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="telex", description="Reliable messaging.", allow_abbrev=False)
    parser.add_argument("-a", dest="target", metavar="MODULE:APP", help="the application (else TELEX_APP, TELEX_URL)")
    parser.add_argument("--json", action="store_true", help="results as JSON, one object a line")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_publish(commands, "publish", "TOPIC", "publish to a topic")
    _add_publish(commands, "send", "QUEUE", "send to a queue")
    _add_request(commands)
    _add_status(commands)
    _add_dead(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add(commands: Commands, name: str, help: str, *examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_run(commands: Commands) -> None:
    one = _add(
        commands,
        "run",
        "run the handlers of an application; SIGTERM and Ctrl-C drain, twice ends at once",
        "telex run shop:app",
        "telex run shop:app --only emails,orders.placed/billing --processes 2",
    )
    one.add_argument("app", metavar="MODULE:APP")
    one.add_argument("--only", action="append", default=[], metavar="SOURCE,…", help="these sources only")
    one.add_argument("--processes", type=positive, default=1, metavar="N", help="how many processes (1)")
    one.add_argument("--until-idle", action="store_true", help="end when there is nothing left to do")
    one.add_argument("--grace", type=duration, metavar="25s", help="how long running handlers may go on after a stop")


def _add_publish(commands: Commands, name: str, channel: str, help: str) -> None:
    where = "orders.placed" if name == "publish" else "emails"
    one = _add(
        commands,
        name,
        help + "; the body is JSON",
        f"""telex {name} {where} '{{"id": "1"}}'""",
        f"telex -a shop:app {name} {where} --lines < bodies.jsonl",
    )
    one.add_argument("channel", metavar=channel)
    one.add_argument("body", nargs="?", metavar="BODY", help="JSON; - or nothing reads stdin")
    one.add_argument("--key", help="what order is kept by")
    one.add_argument("--header", action="append", default=[], type=header, metavar="NAME=VALUE")
    one.add_argument("--id", help="message id; made if not given")
    one.add_argument("--lines", action="store_true", help="each line of stdin is a body")
    if name == "send":
        one.add_argument("--delay", type=duration, default=0.0, metavar="10m", help="deliver no earlier")


def _add_request(commands: Commands) -> None:
    one = _add(
        commands,
        "request",
        "ask a procedure and print its answer",
        """telex request quotes.price '{"sku": "x"}'""",
        """telex -a shop:app request quotes.price - --timeout 2s < request.json""",
    )
    one.add_argument("channel", metavar="PROCEDURE")
    one.add_argument("body", nargs="?", metavar="BODY", help="JSON; - or nothing reads stdin")
    one.add_argument("--header", action="append", default=[], type=header, metavar="NAME=VALUE")
    one.add_argument("--timeout", type=duration, default=30.0, metavar="30s")


def _add_status(commands: Commands) -> None:
    one = _add(
        commands,
        "status",
        "show how every source stands; exit code 1 if there are problems or a limit is passed",
        "telex status",
        "telex status emails --max-age 5m --max-dead 0",
    )
    one.add_argument("source", nargs="*", metavar="SOURCE")
    one.add_argument("--watch", type=duration, metavar="2s", help="again and again")
    one.add_argument("--max-ready", type=count, metavar="N")
    one.add_argument("--max-age", type=duration, metavar="5m")
    one.add_argument("--max-dead", type=count, metavar="N")


def _add_dead(commands: Commands) -> None:
    one = _add(commands, "dead", "dead letters", "telex dead list --by-cause", "telex dead redrive emails --all")
    verbs = one.add_subparsers(dest="verb", required=True, metavar="VERB")
    lister = _add(
        verbs, "list", "list dead letters", "telex dead list --by-cause", "telex dead list emails --error TimeoutError"
    )
    _add_filter(lister)
    lister.add_argument("--by-cause", action="store_true", help="grouped by what they died of")
    shower = _add(
        verbs, "show", "show one dead letter whole", "telex dead show 01a2-1", "telex --json dead show 01a2-1"
    )
    shower.add_argument("letter", metavar="ID")
    for name, help in (("redrive", "send dead letters back to their source"), ("discard", "delete dead letters")):
        mover = _add(
            verbs, name, help, f"telex dead {name} emails --all", f"telex dead {name} --error TimeoutError --yes"
        )
        _add_filter(mover)
        mover.add_argument("--all", action="store_true", help="without a filter")
        mover.add_argument("--dry-run", action="store_true", help="only count")
        mover.add_argument("--yes", action="store_true", help="do not ask")
        if name == "redrive":
            mover.add_argument("--rate", type=rate, metavar="N", help="at most N a second")


def _add_filter(one: argparse.ArgumentParser) -> None:
    one.add_argument("source", nargs="?", metavar="SOURCE", help="for example emails or orders.placed/billing")
    one.add_argument("--id", action="append", default=[], metavar="ID")
    one.add_argument("--reason", choices=[reason.value for reason in DeadReason])
    one.add_argument("--error", metavar="CLASS", help="class of the last error")
    one.add_argument("--key", metavar="KEY")
    one.add_argument("--since", type=instant, metavar="-2h|ISO", help="died at or after")
    one.add_argument("--until", type=instant, metavar="-1h|ISO", help="died before")
    one.add_argument("--limit", type=count, metavar="N", help="at most N")


if __name__ == "__main__":
    sys.exit(main())
