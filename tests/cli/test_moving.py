"""Redriving and discarding, interrupted and together: nothing is lost, and what is printed is what was done."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import APP
from .shell import Shell

LETTERS = 3000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with dead letters, of which each body is there once."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "shop.py").write_text(APP)
    telex = Shell(folder)
    telex("send", "emails", "--lines", stdin="\n".join(f'"bad {n}"' for n in range(LETTERS)))
    telex("run", "--until-idle")
    telex("doctor", "--backup", "copy.db")
    return folder / "copy.db"


@pytest.fixture
def letters(telex: Shell, store: Path) -> Shell:
    """A shop of this test's own, with the dead letters in it."""
    shutil.copyfile(store, telex.folder / "shop.db")
    (telex.folder / "shop.db").chmod(0o600)
    assert state(telex) == (0, LETTERS)
    return telex


def state(telex: Shell) -> tuple[int, int]:
    """Messages that are ready, and dead letters."""
    row = json.loads(telex("status", "emails", "--json").stdout)
    return row["ready"] + row["retrying"] + row["leased"], row["dead"]


def told(text: str) -> int:
    found = re.search(r"([\d,]+) of [\d,]+ dead letters (?:redriven|discarded)", text)
    assert found, text
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_says_what_was_done_and_how_to_go_on(letters: Shell, number: signal.Signals) -> None:
    with letters.running("dead", "redrive", "emails", "--error", "TimeoutError", "--rate", "100", "--yes") as process:
        while state(letters)[1] == LETTERS:
            assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130, said
    done = told(said)
    assert 0 < done < LETTERS
    assert state(letters) == (done, LETTERS - done)
    assert "go on with: telex dead redrive emails --error TimeoutError --rate 100" in said
    assert (
        f"{LETTERS - done:,} dead letters of emails redriven"
        in letters("dead", "redrive", "emails", "--error", "TimeoutError", "--yes").stdout
    )
    assert state(letters) == (LETTERS, 0)


SLOW = """
import asyncio
from telex import deadletters
from telex.engines.embedded import admin
from shop import app

deadletters.PASS = 100  # Many steps, each followed by a pause, so that there is a middle.
sweep = admin.EmbeddedAdmin.sweep


async def slow(*args, **kwargs):
    swept = await sweep(*args, **kwargs)
    if swept.moved:
        await asyncio.sleep(0.3)
    return swept


admin.EmbeddedAdmin.sweep = slow
"""


def test_an_interrupted_discard_keeps_the_rest(letters: Shell) -> None:
    (letters.folder / "slow.py").write_text(SLOW)
    with letters.running("-a", "slow:app", "dead", "discard", "--all", "--yes") as process:
        while state(letters)[1] == LETTERS:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    done = told(said)
    assert 0 < done < LETTERS
    assert done + state(letters)[1] == LETTERS


def test_killed_it_loses_nothing(letters: Shell) -> None:
    for pause in (0.3, 0.6, 0.9):
        with letters.running("dead", "redrive", "--all", "--rate", "1000", "--yes") as process:
            time.sleep(pause)
            process.kill()
            process.wait(30)
        assert sum(state(letters)) == LETTERS
    letters("dead", "redrive", "--all", "--yes")
    assert state(letters) == (LETTERS, 0)
    seen = [
        json.loads(line)["body"]
        for line in letters("tail", "emails", "--since", "start", "--no-follow", "--json").stdout.splitlines()
    ]
    assert sorted(seen) == sorted(f"bad {n}" for n in range(LETTERS))


def test_two_operators_send_each_letter_once(letters: Shell) -> None:
    words = ("dead", "redrive", "emails", "--all", "--rate", "2000", "--yes", "--json")
    with letters.running(*words) as one, letters.running(*words) as other:
        counts = [json.loads(process.communicate(timeout=60)[0])["count"] for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0)
    assert sum(counts) == LETTERS
    assert state(letters) == (LETTERS, 0)


def test_a_terminal_that_goes_away_leaves_the_rest(letters: Shell) -> None:
    with letters.terminal("dead", "redrive", "emails", "--all", "--rate", "500") as terminal:
        terminal.until("Go on? [y/N]")
        terminal.type("y\n")
        terminal.until("redriven, ")
        terminal.hang_up()
        assert terminal.process.wait(30) == 130
    moved, left = state(letters)
    assert 0 < moved < LETTERS
    assert moved + left == LETTERS


def test_a_reader_that_leaves_ends_the_list(letters: Shell) -> None:
    with letters.running("dead", "list") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "bad" not in process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_limit_and_a_dry_run_are_kept(letters: Shell) -> None:
    assert (
        "7 dead letters of emails would be redriven"
        in letters("dead", "redrive", "emails", "--all", "--limit", "7", "--dry-run").stdout
    )
    assert json.loads(letters("dead", "redrive", "--all", "--limit", "7", "--yes", "--json").stdout) == {
        "count": 7,
        "done": True,
    }
    assert state(letters) == (7, LETTERS - 7)
    assert len(letters("dead", "list", "--limit", "3").stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--reason", "tired"), 2, "invalid choice: 'tired'"),
        (("--since", "yesterday"), 2, "write -15m"),
        (("--since", "-1h", "--until", "-2h"), 2, "no dead letter can lie between"),
        (("--limit", "-1"), 2, "whole number from 0"),
        (("--rate", "0"), 2, "messages a second, above 0"),
        (("--rate", "nan"), 2, "messages a second, above 0"),
        (("Emails!", "--all"), 2, "channel name 'Emails!'"),
        (("nowhere", "--all"), 2, "there is no source 'nowhere'"),
        (("orders.placed", "--all"), 2, "there are orders.placed/billing"),
        (("--error", "NoSuchError", "--yes"), 0, ""),
        (("--id", "no-such-id", "--yes"), 0, ""),
    ],
)
def test_unknown_filter_values(telex: Shell, words: tuple[str, ...], code: int, says: str) -> None:
    telex("topology", "apply")
    done = telex("dead", "redrive", *words, code=code)
    assert says in done.stderr
    if code == 0:
        assert done.stdout == "no dead letters that fit the filter\n"


def test_nothing_is_moved_without_a_word(letters: Shell) -> None:
    assert "say --yes" in letters("dead", "discard", "emails", "--all", code=2).stderr
    assert "give a filter, or --all" in letters("dead", "discard", "emails", "--yes", code=2).stderr
    for answer, code in (("n\n", 1), ("\n", 1), ("\x04", 1), ("\x03", 130)):
        with letters.terminal("dead", "discard", "emails", "--all") as terminal:
            terminal.until(f"{LETTERS:,} dead letters of emails will be discarded. Go on? [y/N]")
            terminal.type(answer)
            assert terminal.end() == code
            assert "nothing was done" in terminal.shown
    assert state(letters) == (0, LETTERS)


def test_the_bar_is_for_terminals_only(letters: Shell) -> None:
    with letters.terminal("dead", "redrive", "emails", "--all", "--yes", "--rate", "2000") as terminal:
        shown = terminal.until(" left")
        assert terminal.end() == 0
    assert re.search(r"\[#*\.+\] [\d,]+/3,000 redriven", shown)
    assert "3,000 dead letters of emails redriven" in terminal.shown
    letters("run", "--until-idle")
    done = letters("dead", "redrive", "emails", "--all", "--yes")
    assert done.stderr == ""
    assert done.stdout == "3,000 dead letters of emails redriven\n"


def test_a_pipe_of_ids_can_be_redriven(letters: Shell) -> None:
    listed = letters("dead", "list", "--limit", "2", "--json").stdout.splitlines()
    words = [word for line in listed for word in ("--id", json.loads(line)["id"])]
    assert "2 dead letters of all sources redriven" in letters("dead", "redrive", *words, "--yes").stdout


def test_quiet_about_a_broken_pipe_on_stderr(letters: Shell) -> None:
    """Results count, even when nobody hears the advice."""
    command = subprocess.Popen(
        ["sh", "-c", f"{sys.executable} -m telex dead list --limit 1 2>&-"],
        cwd=letters.folder,
        env=letters.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = command.communicate(timeout=30)
    assert len(out.splitlines()) == 1
    assert command.returncode == 0


def test_the_second_interrupt_ends_in_the_middle_of_a_step_and_says_so(narrow: Shell) -> None:
    """The step under way is done or not: at least what is printed."""
    narrow.env |= {"TELEX_APP": "narrow:simple"}
    narrow("publish", "parcels.lost", "--lines", stdin="{}\n" * 5)
    narrow("run", "--until-idle")
    words = ("dead", "redrive", "--all", "--yes")
    narrow.env["SLOW"] = "30"
    with narrow.running(*words) as process:
        while json.loads(narrow("status", "--json").stdout)["dead"]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)  # Not the same again: two of a kind could be heard as one.
        assert process.wait(20) == 130
        assert process.stderr is not None
        said = process.stderr.read()
    assert "in the middle of a step of at most 1,000: at least 0 of 5 dead letters redriven" in said
    assert "go on with: telex dead redrive --all" in said


def test_a_slow_rate_does_not_keep_an_interrupt_waiting(letters: Shell) -> None:
    with letters.running("dead", "redrive", "emails", "--all", "--rate", "0.02", "--yes") as process:
        while state(letters)[1] == LETTERS:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert told(process.stderr.read()) == 1
