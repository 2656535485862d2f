"""The command line as a person uses it: processes, pipes, exit codes, one line on stderr."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from .shell import Shell


def test_sends_runs_and_shows_the_state(telex: Shell) -> None:
    id = telex("send", "emails", '"ann"', "--header", "tenant=1").stdout.strip()
    assert id
    (row,) = [json.loads(line) for line in telex("--json", "status", "emails").stdout.splitlines()]
    assert row["source"] == "emails"
    assert row["ready"] == 1
    assert "mail to ann" in telex("run", "shop:app", "--until-idle").stdout
    (row,) = [json.loads(line) for line in telex("--json", "status", "emails").stdout.splitlines()]
    assert row["ready"] == 0


def test_each_line_is_a_message(telex: Shell) -> None:
    done = telex("--json", "send", "emails", "--lines", stdin='"a"\n\n"b"\n"c"\n')
    assert len({json.loads(line)["id"] for line in done.stdout.splitlines()}) == 3
    assert telex("run", "shop:app", "--until-idle").stdout.count("mail to") == 3


def test_the_life_of_a_dead_letter(telex: Shell) -> None:
    telex("send", "emails", '"bad"', "--id", "letter-1")
    telex("publish", "orders.placed", '{"id": 1}')
    telex("run", "shop:app", "--until-idle")
    causes = [json.loads(line) for line in telex("--json", "dead", "list", "--by-cause").stdout.splitlines()]
    assert {(c["source"], c["error"], c["reason"]) for c in causes} == {
        ("emails", "TimeoutError", "exhausted"),
        ("orders.placed/billing", "Reject", "rejected"),
    }
    assert "letter-1" in telex("dead", "list", "emails", "--error", "TimeoutError").stdout
    assert telex("dead", "list", "emails", "--error", "KeyError").stdout == ""
    shown = json.loads(telex("--json", "dead", "show", "letter-1").stdout)
    assert shown["body"] == "bad"
    assert shown["attempts"][0]["error"] == "builtins.TimeoutError"
    assert "mail server" in telex("dead", "show", "letter-1").stdout
    telex("status", "--max-dead", "0", code=1)
    tried = telex("dead", "redrive", "emails", "--all", "--dry-run").stdout
    assert "1 dead letter of emails would be redriven" in tried
    telex("dead", "redrive", "emails", "--all", code=2)  # Without a terminal it needs --yes.
    telex("dead", "redrive", "emails", "--all", "--yes")
    assert telex("--json", "dead", "list", "emails").stdout == ""
    telex("run", "shop:app", "--until-idle")
    again = json.loads(telex("--json", "dead", "list", "emails").stdout)
    assert again["redrives"] == 1
    telex("dead", "discard", "--since", "-1h", "--yes")
    assert telex("dead", "list").stdout == ""


def test_a_request_is_answered(telex: Shell) -> None:
    worker = telex.start("run", "shop:app")
    try:
        assert telex("request", "double", "21").stdout.strip() == "42"
        assert "ValueError: negative" in telex("request", "double", "-1", code=1).stderr
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert worker.stdout is not None
        assert worker.stderr is not None
        worker.stdout.close()
        worker.stderr.close()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("send", "emails", "{"), 2, "no JSON"),
        (("send", "nowhere", "1"), 2, "there is no queue 'nowhere'"),
        (("send", "emails", "1"), 1, "this channel takes str"),
        (("send", "emails", '"a"', "--delay", "soon"), 2, "write a duration"),
        (("send", "emails", '"a"', "--header", "x"), 2, "NAME=VALUE"),
        (("send", "emails", '"a"', "--header", "telex-x=1"), 1, "reserved"),
        (("publish", "Orders", "1"), 2, "channel name 'Orders'"),
        (("status", "emailz"), 2, "no source emailz; there are double, emails, orders.placed/billing, slow"),
        (("dead", "list", "emailz"), 2, "there is no source 'emailz'"),
        (("dead", "redrive", "emails"), 2, "give a filter, or --all"),
        (("dead", "show", "none"), 1, "there is no dead letter"),
        (("dead", "list", "--reason", "tired"), 2, "invalid choice"),
        (("dead", "list", "--since", "yesterday"), 2, "write -15m"),
        (("run", "shop"), 2, "write MODULE:APP"),
        (("run", "shopp:app"), 2, "importing it failed"),
        (("run", "shop:bill"), 2, "it has app"),
        (("run", "shop:app", "--only", "emailz", "--until-idle"), 2, "no handler for emailz"),
        (("fly",), 2, "invalid choice"),
    ],
)
def test_bad_input(telex: Shell, words: tuple[str, ...], code: int, says: str) -> None:
    telex("topology", "apply")
    done = telex(*words, code=code)
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_target_and_an_unknown_engine(telex: Shell) -> None:
    del telex.env["TELEX_APP"]
    assert "no application" in telex("status", code=2).stderr
    telex.env["TELEX_URL"] = "kafka://user:verysecret@host/"
    done = telex("status", code=2)
    assert "verysecret" not in done.stdout + done.stderr
    telex.env["TELEX_URL"] = "missing/folder/telex.db"
    assert "does not exist: create it" in telex("status", code=2).stderr


def test_the_reader_of_a_pipe_may_leave(telex: Shell) -> None:
    telex("send", "emails", "--lines", stdin="\n".join(f'"bad {n}"' for n in range(50)))
    command = f"{sys.executable} -m telex --json send emails --lines | head -1"
    lines = "\n".join('"x"' for _ in range(2000))
    done = subprocess.run(
        ["sh", "-c", command], cwd=telex.folder, env=telex.env, input=lines, capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr in ("", "2000 messages stored\n")


@pytest.mark.parametrize("command", ["run", "publish", "send", "request", "status", "dead list", "dead redrive"])
def test_each_help_has_two_examples(telex: Shell, command: str) -> None:
    text = telex(*command.split(), "--help").stdout
    assert text.partition("examples:")[2].count("telex ") >= 2
