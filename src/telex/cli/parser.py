"""How every command's parser is made: the same options everywhere, and two examples in each help."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .output import Exit, Output

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any

Run = Callable[[argparse.Namespace, Output], Exit]
OPTIONS = ("--since", "--until")
"""Options whose values may begin with a minus."""


class _Formatter(argparse.HelpFormatter):
    """Fills each paragraph to the width of the terminal, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        paragraphs = text.split("\n\n")
        return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in paragraphs)


class _Parser(argparse.ArgumentParser):
    """Where a command or verb is missing, all of them are shown; otherwise the mistake in one line."""

    def error(self, message: str) -> NoReturn:
        if message.endswith(("required: COMMAND", "required: VERB")):
            self.print_help(sys.stderr)
            self.exit(2)
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def root(version: str) -> argparse.ArgumentParser:
    """The parser of `telex` itself."""
    parser = _Parser(
        prog="telex",
        description="Reliable messaging: run handlers, look at sources, send dead letters again.",
        epilog="Exit codes: 0 all is well, 1 a problem was found, 2 wrong usage, 3 cannot connect, "
        "4 the engine refuses, 130 interrupted.\n\n`telex COMMAND --help` shows examples.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"telex {version}")
    _common(parser, None)
    parser.set_defaults(json=False, target=None, profile=None)
    return parser


def add(
    commands: Commands, name: str, help: str, *examples: str, run: Run | None = None, more: str = ""
) -> argparse.ArgumentParser:
    """A command, or a verb of one.

    Args:
        commands: Where it belongs.
        name: What it is called by.
        help: One line; the description begins with it.
        examples: At least two.
        run: What it does.
        more: The rest of the description.
    """
    text = help[0].upper() + help[1:] + "." + (f"\n\n{more}" if more else "")
    one = commands.add_parser(
        name,
        help=help,
        description=text,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    _common(one, argparse.SUPPRESS)
    if run is not None:
        one.set_defaults(run=run)
    return one


def _common(parser: argparse.ArgumentParser, default: Any) -> None:
    """May stand before the command or behind it; behind, an absent one must not hide what was said before."""
    group = parser.add_argument_group("target and output")
    group.add_argument(
        "-a",
        dest="target",
        metavar="MODULE:APP",
        default=default,
        help="the application; otherwise TELEX_APP, TELEX_URL or the default profile",
    )
    group.add_argument("-p", dest="profile", metavar="PROFILE", default=default, help="a profile of telex.toml")
    group.add_argument("--json", action="store_true", default=default, help="results as JSON, one object a line")


def joined(argv: Sequence[str]) -> list[str]:
    """``--since -2h`` as ``--since=-2h``: the parser would take -2h for an option."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in OPTIONS and word.startswith("-") and word[1:2].isdigit():
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words
