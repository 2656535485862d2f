"""The one place where errors become exit codes."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from .. import __version__
from ..errors import ConfigError, Disconnected, PublishFailed, StoreDamaged, TelexError, UnknownChannel, Unsupported
from . import completion, dead, doctor, engines, publish, replay, request, run, status, tail, topology
from .output import Exit, Failure, Gone, Output
from .parser import joined, root

COMMANDS = (run, publish, request, tail, status, topology, dead, replay, doctor, engines, completion)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code."""
    try:
        return _main(argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drop_unwritable(stream)


def _main(argv: Sequence[str] | None) -> int:
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Whatever a message holds, it can be printed.
    arguments = parser().parse_args(joined(sys.argv[1:] if argv is None else argv))
    output = Output(as_json=arguments.json)
    try:
        code: Exit = arguments.run(arguments, output)
        output.flush()
    except Gone:
        # The reader has seen enough (telex … | head). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        output.problem("interrupted")
        return Exit.INTERRUPTED
    except Exception as error:
        _flush(output)
        told = [explain(one) for one in leaves(error)]
        for _, text in told:
            output.problem(text)
        return told[0][0]
    return code


def parser() -> argparse.ArgumentParser:
    """The whole parser."""
    top = root(__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    top.set_defaults(whole=top)
    return top


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, and in groups in it; the first decides on the exit code."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]


def explain(error: BaseException) -> tuple[Exit, str]:
    """The exit code and the one line for an error."""
    match error:
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


def _open_missing_streams() -> None:
    """A stream that is closed (``2>&-``) goes nowhere. Its number must not be given to a file that is opened later."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            while (fd := os.open(os.devnull, os.O_RDWR)) < number:
                pass
            if fd > number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _drop_unwritable(stream: TextIO) -> None:
    """What a terminal that went away does not take goes nowhere: Python would try again at exit, and end with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except ValueError:
        return  # It is closed.


def _flush(output: Output) -> None:
    """Results that were found before an error come before it."""
    try:
        output.flush()
    except Gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
