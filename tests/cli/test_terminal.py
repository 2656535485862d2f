"""What a person sees: widths, colours, help; and what a pipe gets instead."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator

import pytest

from telex.cli.main import parser
from telex.cli.parser import joined

from .shell import Shell

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def busy(telex: Shell) -> Shell:
    program = telex.folder / "shop.py"
    program.write_text(
        program.read_text()
        + """

@app.subscribe("orders.#", group="a_rather_long_name_of_a_group_for_audit")
async def audit(order: dict) -> None: ...
"""
    )
    telex(
        "send", "emails", "--lines", stdin='"bad one with a body that is longer than eighty columns ' + "x" * 80 + '"\n'
    )
    telex("publish", "orders.placed", '{"note": "' + "long " * 30 + '"}')
    telex("run", "--until-idle")
    telex("publish", "orders.placed", '{"a": 1}')
    return telex


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("dead", "list"),
        ("dead", "list", "--by-cause"),
        ("tail", "orders.placed", "--since", "start", "--no-follow"),
        ("topology", "show"),
        ("engines",),
    ],
    ids=" ".join,
)
def test_nothing_is_wider_than_the_terminal(busy: Shell, words: tuple[str, ...], width: int) -> None:
    with busy.terminal(*words, width=width) as terminal:
        terminal.end()
    results = [ESCAPE.sub("", line) for line in terminal.shown.split("\r\n")]
    advice = [line for line in results if " keeps " in line or "this version of Telex has no engine" in line]
    assert max(len(line) for line in results if line not in advice) <= width
    assert len(results) > 2


def test_a_pipe_gets_everything(busy: Shell) -> None:
    assert "x" * 80 in busy("tail", "emails", "--since", "start", "--no-follow").stdout
    assert "orders.#/a_rather_long_name_of_a_group_for_audit" in busy("status").stdout
    for words in (("status",), ("dead", "list", "--by-cause"), ("doctor",)):
        done = busy(*words, code=1 if words == ("doctor",) else 0)
        assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_by_convention(busy: Shell, environment: dict[str, str], coloured: bool) -> None:
    busy.env |= environment
    with busy.terminal("status", "--max-dead", "0") as terminal:
        assert terminal.end() == 1
    assert ("\x1b[" in terminal.shown) == coloured
    assert "1 dead letter, more than 0" in terminal.shown


def test_colours_can_be_forced(busy: Shell) -> None:
    busy.env["FORCE_COLOR"] = "1"
    assert "\x1b[31m" in busy("status").stdout
    assert "\x1b" not in busy("status", "--json").stdout


def test_what_is_in_a_message_cannot_write_on_the_screen(telex: Shell) -> None:
    telex("send", "emails", '"bad \\u001b[2J\\u0007 \\u202e text"', "--header", "x=\x1b]0;owned\x07")
    telex("run", "--until-idle")
    (row,) = telex("dead", "list").stdout.splitlines()
    id = row.split("  ")[1]
    for words in (("dead", "list"), ("dead", "show", id), ("tail", "emails", "--since", "start", "--no-follow")):
        shown = telex(*words).stdout
        assert not any(sign in shown for sign in ("\x1b", "\x07", "\u202e"))


def test_watching_draws_over_itself(busy: Shell) -> None:
    with busy.terminal("status", "emails", "--watch", "300ms") as terminal:
        terminal.until("embedded, 1 source")
        terminal.shown = ""
        terminal.until("\x1b[H\x1b[2J")
        terminal.type("\x03")
        assert terminal.end() == 130


def commands() -> Iterator[tuple[str, ...]]:
    def walk(one: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if path:
            yield path
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    yield from walk(below, (*path, name))

    yield from walk(parser(), ())


COMMANDS = sorted(commands())


def find(path: tuple[str, ...]) -> argparse.ArgumentParser:
    one = parser()
    for name in path:
        action = next(a for a in one._actions if isinstance(a, argparse._SubParsersAction))
        one = action.choices[name]
    return one


def test_every_command_is_there() -> None:
    top = {path[0] for path in COMMANDS}
    assert top == {
        *("run", "publish", "send", "request", "tail", "status", "topology", "dead", "replay", "doctor"),
        *("engines", "completion"),
    }
    assert {path[1] for path in COMMANDS if len(path) == 2} == {
        *("plan", "apply", "verify", "show", "remove", "list", "redrive", "discard"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_help_has_two_examples_that_parse(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = find(path).format_help()
    examples = [line.strip() for line in text.partition("examples:")[2].splitlines() if line.strip()]
    assert len(examples) >= 2
    for example in examples:
        assert example.startswith("telex ")
        command = re.split(r" [|><]| 2>|    #", example)[0]
        arguments = parser().parse_args(joined(shlex.split(command)[1:]))
        assert arguments.command == path[0]
    for line in text.partition("examples:")[0].splitlines():
        assert len(line) <= 80, line
    assert all(action.help for action in find(path)._actions if action.option_strings)


def test_json_and_the_target_may_stand_on_both_sides() -> None:
    for words in (
        ["--json", "-a", "x:y", "status"],
        ["status", "--json", "-a", "x:y"],
        ["--json", "status", "-a", "x:y"],
    ):
        arguments = parser().parse_args(words)
        assert (arguments.json, arguments.target) == (True, "x:y")
    assert parser().parse_args(["status"]).json is False


def test_a_command_starts_fast() -> None:
    """60 ms over `import telex`, as processor time: a loaded machine stretches the other."""

    def spent(*words: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    extra = [spent("-m", "telex", "--version") - spent("-c", "import telex") for _ in range(9)]
    assert statistics.median(extra) < 0.06


def test_starting_imports_no_engine_and_no_server() -> None:
    program = "import sys, telex.cli.main as m; m.parser(); print([n for n in sys.modules if n in (" + (
        "'apsw', 'http.server', 'uvloop', 'watchfiles', 'shtab', 'importlib.metadata', 'telex.asyncapi')])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
