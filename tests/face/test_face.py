"""The public face: what is exported, what type checkers accept and refuse, and that the programs run."""

from __future__ import annotations

import csv
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import telex
import telex.sync

PROGRAMS = Path(__file__).parent / "programs"
STANDARD = '{"typeCheckingMode": "standard", "reportUnusedCoroutine": "error"}'
"""basedpyright's own default reports style as errors; the standard mode is what users of pyright have."""
MISTAKES = PROGRAMS / "mistakes.py"
CORRECT = sorted(p.name for p in PROGRAMS.glob("*.py") if p != MISTAKES)
MARKED = {n for n, line in enumerate(MISTAKES.read_text().splitlines(), 1) if "# error:" in line}

EXPORTED = [
    "AccessDenied",
    "Attempt",
    "Batch",
    "Cause",
    "Closed",
    "ConfigError",
    "DeadLetter",
    "DeadLetters",
    "DeadReason",
    "Delivery",
    "Discard",
    "Disconnected",
    "EngineSettings",
    "Features",
    "HandlerTimeout",
    "Handlers",
    "IdempotencyStore",
    "InvalidMessage",
    "LeaseLost",
    "Message",
    "MessageTooLarge",
    "Middleware",
    "Procedure",
    "PublishFailed",
    "PublishMiddleware",
    "PublishUncertain",
    "Queue",
    "Reject",
    "RemoteError",
    "RequestTimeout",
    "Retry",
    "RetryAfter",
    "SourceStats",
    "Stats",
    "StoreDamaged",
    "Telex",
    "TelexError",
    "Topic",
    "Undecodable",
    "UnknownChannel",
    "Unsupported",
    "Verdict",
    "idempotent",
]


def test_exactly_these_names_are_public() -> None:
    assert telex.__all__ == sorted(EXPORTED)
    assert all(hasattr(telex, name) for name in EXPORTED)


def test_there_is_something_to_refuse() -> None:
    assert len(MARKED) == 8
    assert len(CORRECT) == 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in a folder of their own, as a user has them."""
    folder = tmp_path_factory.mktemp("programs")
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, folder)
    (folder / "pyrightconfig.json").write_text(STANDARD)
    return folder


def mypy(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", os.devnull, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout


def test_mypy_accepts_the_programs_as_they_stand(folder: Path) -> None:
    # One program ignores a library without types, for which types are installed here.
    out = mypy(folder, "--no-warn-unused-ignores", *CORRECT)
    assert [line for line in out.splitlines() if ": error:" in line] == []


def test_mypy_refuses_the_mistakes_on_their_lines(folder: Path) -> None:
    out = mypy(
        folder, "--enable-error-code", "unused-awaitable", "--enable-error-code", "unused-coroutine", MISTAKES.name
    )
    refused = {int(n) for n in re.findall(r"^mistakes\.py:(\d+): error:", out, re.MULTILINE)}
    assert refused == MARKED, out


def basedpyright(folder: Path, *names: str) -> dict[str, set[int]]:
    command = [sys.executable, "-m", "basedpyright", "--level", "error", "--pythonpath", sys.executable, *names]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout
    assert "error" in out, out  # The last line counts them, also when there are none.
    found: dict[str, set[int]] = {}
    for name, line in re.findall(r"(\w+\.py):(\d+):\d+ - error", out):
        found.setdefault(name, set()).add(int(line))
    return found


def test_pyright_accepts_the_programs_as_they_stand(folder: Path) -> None:
    assert basedpyright(folder, *CORRECT) == {}


def test_pyright_refuses_the_mistakes_on_their_lines(folder: Path) -> None:
    assert basedpyright(folder, MISTAKES.name) == {MISTAKES.name: MARKED}


def run(name: str, folder: Path) -> str:
    for file in ("contracts.py", name):
        shutil.copy(PROGRAMS / file, folder / file)
    done = subprocess.run([sys.executable, name], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hello_says_hello(tmp_path: Path) -> None:
    assert run("p1_hello.py", tmp_path) == "hello world\n"


def test_fanout_shows_its_causes(tmp_path: Path) -> None:
    out = run("p5_fanout.py", tmp_path).splitlines()
    assert out[0].startswith("1 TimeoutError __main__.bill:")
    assert out[1].endswith(" bank")
    assert out[2] == "1"


def test_moving_needs_only_settings(tmp_path: Path) -> None:
    assert run("p7_move.py", tmp_path) == ""


def test_a_batch_is_loaded(tmp_path: Path) -> None:
    with open(tmp_path / "rows.csv", "w") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "name"])
        writer.writerows([str(n), f"row {n}"] for n in range(3000))
    run("p8_batch.py", tmp_path)


def test_the_unit_tests_of_a_user_pass(tmp_path: Path) -> None:
    for file in ("contracts.py", "p2_handlers.py", "p2_app.py", "p4_test.py"):
        shutil.copy(PROGRAMS / file, tmp_path / file)
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "p4_test"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 3 tests" in done.stderr


def signature(function: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults; annotations differ where the async face takes async iterables as well."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]  # any callable
    return [(p.name, p.kind, p.default) for p in parameters]


def answers(function: object) -> tuple[str, dict[str, str]]:
    """What it returns, and the types of what it takes, but for ``bodies``, which may be asynchronous there."""
    written = dict(inspect.get_annotations(function))  # type: ignore[arg-type]  # any callable
    written.pop("bodies", None)
    return written.pop("return"), written


def test_the_blocking_face_has_nothing_of_its_own() -> None:
    own = {name for name in vars(telex.sync.Client) if not name.startswith("_")} - {"close"}
    assert own == {"publish", "send", "request", "publish_many", "send_many", "dead_letters", "replay", "stats"}
    assert all(hasattr(telex.Telex, name) for name in own)
    letters = {name for name in vars(telex.sync.DeadLetters) if not name.startswith("_")}
    assert letters == {name for name in vars(telex.DeadLetters) if not name.startswith("_")}


@pytest.mark.parametrize(
    "name", ["publish", "send", "request", "publish_many", "send_many", "dead_letters", "replay", "stats"]
)
def test_both_faces_take_the_same(name: str) -> None:
    assert signature(getattr(telex.sync.Client, name)) == signature(getattr(telex.Telex, name))
    assert answers(getattr(telex.sync.Client, name)) == answers(getattr(telex.Telex, name))


@pytest.mark.parametrize("name", ["where", "count", "causes", "redrive", "discard"])
def test_both_faces_take_the_same_for_dead_letters(name: str) -> None:
    assert signature(getattr(telex.sync.DeadLetters, name)) == signature(getattr(telex.DeadLetters, name))
