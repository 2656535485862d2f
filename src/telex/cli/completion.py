"""`telex completion`: a script that makes the shell complete commands and options."""

from __future__ import annotations

from argparse import Namespace

from . import parser
from .output import Exit, Failure, Output
from .parser import Commands

SHELLS = ("bash", "zsh", "fish")


def add(commands: Commands) -> None:
    """Adds the command."""
    one = parser.add(
        commands,
        "completion",
        "print a script that completes commands in your shell",
        "telex completion bash > ~/.local/share/bash-completion/completions/telex",
        "telex completion zsh > ~/.zfunc/_telex    # with fpath+=(~/.zfunc) before compinit",
        run=_completion,
        more="Needs the extra: pip install 'telex[completion]'.",
    )
    one.add_argument("shell", choices=SHELLS)


def _completion(arguments: Namespace, output: Output) -> Exit:
    try:
        import shtab  # An extra, and only here.
    except ImportError as error:
        raise Failure(Exit.PROBLEM, "completion needs shtab: pip install 'telex[completion]'") from error
    if arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise Failure(Exit.PROBLEM, f"this version of shtab does not know {arguments.shell}: pip install -U shtab")
    script = shtab.complete(arguments.whole, shell=arguments.shell)
    output.record({"script": script}, script)
    return Exit.OK
