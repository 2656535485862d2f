"""Targets: `-a`, `-p`, the environment, and telex.toml with every kind of mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telex.cli.output import Failure
from telex.cli.profiles import find_profile

from .shell import Shell

GOOD = """
default = "local"

[profiles.local]
app = "shop:app"

[profiles.staging]
app = "shop:app"
url = "staging.db"

[profiles.production]
url_env = "SHOP_URL"

[profiles.filed]
url_file = "url.txt"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path


def test_profiles_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_profile(None) is None
    (folder / "telex.toml").write_text(GOOD)
    monkeypatch.setenv("SHOP_URL", "shop.db")
    (folder / "url.txt").write_text("filed.db\n")
    found = {name: find_profile(name) for name in ("local", "staging", "production", "filed")}
    assert {name: (p.app, p.url) for name, p in found.items() if p} == {
        "local": ("shop:app", None),
        "staging": ("shop:app", "staging.db"),
        "production": (None, "shop.db"),
        "filed": (None, "filed.db"),
    }
    default = find_profile(None)
    assert default is not None
    assert default.name == "local"


def test_the_users_own_file_counts_where_there_is_none_here(folder: Path) -> None:
    home = folder / "home" / "telex"
    home.mkdir(parents=True)
    (home / "telex.toml").write_text('[profiles.mine]\nurl = "mine.db"\n')
    mine = find_profile("mine")
    assert mine is not None
    assert mine.url == "mine.db"
    (folder / "telex.toml").write_text(GOOD)
    with pytest.raises(Failure, match="profile 'mine': there are local, staging"):
        find_profile("mine")


@pytest.mark.parametrize(
    ("text", "name", "line", "column", "says"),
    [
        ("[profiles.a\nurl = 1", "a", 1, 12, "Expected ']'"),
        ('[profiles.a]\nurl = "x', "a", 2, None, "Unterminated|Illegal|Expected"),
        ('[profiles.a]\nurl = "x"\nurl = "y"\n', "a", 3, None, "Cannot overwrite a value"),
        ('[profiles.a]\nurl = "x"\n  typo = "y"\n', "a", 3, 3, "unknown key 'typo'; known are app, url"),
        ("[profiles.a]\nurl = 5\n", "a", 2, 1, "url must be a text"),
        ('[profiles.a]\nurl = ""\n', "a", 2, 1, "url must be a text"),
        ('[profiles.a]\nurl = "x"\nurl_env = "Y"\n', "a", 3, 1, "say the same thing"),
        ("[profiles.b]\napp = 'x:y'\n[profiles.a]\n", "a", 3, 1, "is empty"),
        ("[profiles]\na = 3\n", "a", 2, 1, "is no table"),
        ("profiles = 3\n", "a", 1, 1, "profiles is no table"),
        ("\n\n[profile.a]\nurl = 'x'\n", "a", 3, 1, "unknown key 'profile'; known are default and profiles"),
        ("default = 'b'\n[profiles.a]\nurl = 'x'\n", None, 1, 1, "default = 'b': there are a"),
        ("default = 3\n[profiles.a]\nurl = 'x'\n", None, 1, 1, "default = 3"),
        ("[profiles.a]\nurl_env = 'NOT_SET_AT_ALL'\n", "a", 2, 1, "NOT_SET_AT_ALL is not set"),
        ("[profiles.a]\nurl_file = 'nothing.txt'\n", "a", 2, 1, "nothing.txt cannot be read"),
        ("", "a", None, None, "there are no profiles in it"),
    ],
)
def test_a_mistake_names_line_and_column(
    folder: Path, text: str, name: str | None, line: int | None, column: int | None, says: str
) -> None:
    (folder / "telex.toml").write_text(text)
    with pytest.raises(Failure, match=says) as caught:
        find_profile(name)
    assert caught.value.code == 2
    if line is not None:
        assert f"telex.toml, line {line}, column " in str(caught.value)
    if column is not None:
        assert f"column {column}: " in str(caught.value)


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "telex.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Failure, match="cannot be read"):
        find_profile("a")


def sources(done: str) -> set[str]:
    return {json.loads(line)["source"] for line in done.splitlines()}


def test_who_wins(telex: Shell) -> None:
    (telex.folder / "telex.toml").write_text(GOOD)
    (telex.folder / "other.py").write_text("from telex import Queue, Telex\napp = Telex(name='other')\n")
    telex("send", "emails", '"here"')
    telex("-p", "staging", "topology", "apply")
    assert json.loads(telex("status", "emails", "--json").stdout)["ready"] == 1
    assert json.loads(telex("-p", "staging", "status", "emails", "--json").stdout)["ready"] == 0
    telex("-a", "shop:app", "-p", "staging", "send", "emails", '"there"')
    assert json.loads(telex("status", "-p", "staging", "emails", "--json").stdout)["ready"] == 1
    telex.env["TELEX_URL"] = "third.db"
    assert "emails" in sources(telex("status", "--json").stdout)  # TELEX_APP comes before TELEX_URL.
    assert telex("-a", "other:app", "status", "--json").stdout == ""
    del telex.env["TELEX_APP"]
    assert telex("status", "--json").stdout == ""
    del telex.env["TELEX_URL"]
    assert "emails" in sources(telex("status", "--json").stdout)  # The default profile.


def test_no_target_at_all(telex: Shell) -> None:
    del telex.env["TELEX_APP"]
    said = telex("status", code=2).stderr
    for way in ("-a MODULE:APP", "-p PROFILE", "TELEX_APP", "TELEX_URL", "telex.toml"):
        assert way in said
    assert "profile 'x': there is no telex.toml here" in telex("-p", "x", "status", code=2).stderr


def test_a_password_is_never_shown(telex: Shell) -> None:
    (telex.folder / "telex.toml").write_text('[profiles.p]\nurl = "nothing://user:verysecret@host/"\n')
    for words in (("status",), ("doctor",), ("doctor", "--against", "p"), ("tail", "x"), ("run",)):
        target = () if "--against" in words else ("-p", "p")
        done = telex(*target, *words, code=2)
        assert "verysecret" not in done.stdout + done.stderr
        assert "***" in done.stderr or "no handlers" in done.stderr
