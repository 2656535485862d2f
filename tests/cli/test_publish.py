"""Publishing from the command line: many lines, slow pipes, mistakes in the middle, interrupts."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from .shell import Shell


def bodies(telex: Shell, channel: str = "emails") -> list[object]:
    shown = telex("tail", channel, "--since", "start", "--no-follow", "--json").stdout
    return [json.loads(line)["body"] for line in shown.splitlines()]


def test_many_lines_keep_their_order(telex: Shell) -> None:
    begun = time.monotonic()
    done = telex("send", "emails", "--lines", "--header", "batch=7", stdin="".join(f'"{n}"\n' for n in range(20_000)))
    assert time.monotonic() - begun < 30
    assert done.stderr == "20,000 messages stored\n"
    ids = done.stdout.split()
    assert len(set(ids)) == 20_000
    shown = telex("tail", "emails", "--since", "start", "--no-follow", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in shown]
    assert [row["body"] for row in rows] == [str(n) for n in range(20_000)]
    assert [row["id"] for row in rows] == ids
    assert rows[0]["headers"] == {"batch": "7"}


def test_a_line_is_stored_before_the_pipe_ends(telex: Shell) -> None:
    with telex.running("send", "emails", "--lines", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for body in ("a", "b"):
            process.stdin.write(f'"{body}"\n')
            process.stdin.flush()
            assert process.stdout.readline().strip()
            assert bodies(telex)[-1] == body
        process.stdin.write('"c"')  # No line end.
        process.stdin.close()
        process.stdin = None
        assert process.wait(20) == 0
    assert bodies(telex) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("wrong", "code", "says"), [("{", 2, "line 4 is no JSON"), ("4", 1, "line 4 cannot be sent to emails")]
)
def test_what_stands_before_a_mistake_is_stored_and_printed(telex: Shell, wrong: str, code: int, says: str) -> None:
    done = telex("send", "emails", "--lines", stdin=f'"a"\n\n"b"\n{wrong}\n"d"\n', code=code)
    assert says in done.stderr
    assert len(done.stdout.split()) == 2
    assert bodies(telex) == ["a", "b"]


def test_interrupted_it_says_how_far_it_came(telex: Shell) -> None:
    with telex.running("send", "emails", "--lines", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('"a"\n\n"b"\n')
        process.stdin.flush()
        assert process.stdout.readline().strip()
        assert process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        said = process.stderr.read()
    assert "interrupted: 2 messages stored; go on with: tail -n +4 FILE | telex …" in said
    assert bodies(telex) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("send", "emails", '"a"', "--lines"), "leave the body out"),
        (("send", "emails", "--lines", "--id", "x"), "--id names one message"),
        (("publish", "orders.placed", ""), "no JSON"),
    ],
)
def test_wrong_use(telex: Shell, words: tuple[str, ...], says: str) -> None:
    assert says in telex(*words, code=2).stderr


def test_without_a_body_on_a_terminal(telex: Shell) -> None:
    with telex.terminal("send", "emails") as terminal:
        assert terminal.end() == 2
        assert "no body: give it as an argument, or pipe it in" in terminal.shown


def test_who_asks_can_be_interrupted(telex: Shell) -> None:
    telex("topology", "apply")
    with telex.running("request", "double", "4") as process:
        while not json.loads(telex("status", "double", "--json").stdout)["ready"]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_what_is_stored_counts_though_nobody_reads_the_ids(telex: Shell) -> None:
    with telex.running("send", "emails", "--lines", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write('"a"\n')
        process.stdin.flush()
        assert process.stdout.readline().strip()
        process.stdout.close()
        process.stdin.write('"b"\n')
        process.stdin.close()
        process.stdin = None
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    assert bodies(telex) == ["a", "b"]
