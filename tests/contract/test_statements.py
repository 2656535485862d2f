"""Each statement of claim, settle and expire is there for a reason that a test knows, on both forms of the engine.

A walk over all of them takes minutes. A part of it: ``pytest tests/contract/test_statements.py -k "settle and _bury"``.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .deletion import BY_CHANCE, CAUGHT, FORMS, MODULES, NOTICED_BY, UNNOTICED, Statement, statements

ROOT = Path(__file__).parents[2]
STATEMENTS = statements()
PATIENCE = 180.0
"""Seconds for one run; most take two."""


def start(place: str, form: str) -> subprocess.Popen[str]:
    """An engine with a statement missing, under test in a process of its own."""
    command = [sys.executable, "-m", "tests.contract.deletion", place, form]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcomes(place: str) -> dict[str, tuple[int, str]]:
    """What became of it on each form: the exit status, and what was said."""
    runs = {form: start(place, form) for form in FORMS}
    found = {}
    try:
        for form, run in runs.items():
            said, _ = run.communicate(timeout=PATIENCE)
            found[form] = run.returncode, said
    finally:
        for run in runs.values():
            run.kill()
            run.communicate()
    return found


def test_the_walk_knows_its_statements() -> None:
    """What is walked is what is there: each place once, all modules, and every function that is named in advance."""
    assert len({statement.place for statement in STATEMENTS}) == len(STATEMENTS) > 100
    assert set(Counter(statement.module for statement in STATEMENTS)) == set(MODULES)
    assert NOTICED_BY.keys() == {f"{statement.module}.{statement.function}" for statement in STATEMENTS}


@pytest.mark.slow
def test_nothing_is_caught_where_nothing_is_missing() -> None:
    for form, (status, said) in outcomes("").items():
        assert status == UNNOTICED, f"{form}: {said}"


@pytest.mark.slow
@pytest.mark.parametrize("statement", STATEMENTS, ids=str)
def test_is_missed_when_it_is_gone(statement: Statement) -> None:
    for form, (status, said) in outcomes(statement.place).items():
        assert status != UNNOTICED, f"{form}: no test notices that {statement} is gone"
        assert status != BY_CHANCE, f"{form}: if this is no chance, name it in NOTICED_BY: {said}"
        assert status == CAUGHT, said
        print(form, said)
