"""Commands that are only mentioned on a page exist, with the options they are mentioned with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from telex.cli.main import COMMANDS, parser

from .blocks import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MENTIONED = sorted(
    {
        (page, command)
        for page in PAGES
        for command in re.findall(r"`telex ([^`]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M))
    }
)


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What ``telex WORDS --help`` prints; empty if there is no such command."""
    try:
        parser().parse_args([*words, "--help"])
    except SystemExit as end:
        printed = capsys.readouterr().out
        return printed if end.code == 0 else ""
    return ""


@pytest.mark.parametrize(("page", "command"), MENTIONED, ids=[f"{p.name}: telex {c}" for p, c in MENTIONED])
def test_it_exists(page: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.replace("…", "").split()
    first = words[0]
    path = words[:2] if first in ("dead", "topology") and len(words) > 1 else [first]
    text = help_of(path, capsys)
    assert text, f"{page.name}: there is no telex {' '.join(path)}"
    for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", command):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{page.name}: telex {' '.join(path)} has no {option}"


def test_a_command_that_is_none_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(["status"], capsys)
    assert not help_of(["nonsense"], capsys)
    assert not help_of(["dead", "nonsense"], capsys)


def test_every_command_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"\{([a-z,]+)\}|^    ([a-z]+)  ", parser().format_help(), re.MULTILINE))
    commands = {name for pair in names for part in pair if part for name in part.split(",")}
    assert len(commands) >= len(COMMANDS)
    assert [name for name in sorted(commands) if not re.search(rf"telex (-\S+ \S+ )*{name}\b", text)] == []
