"""The suite notices: each mutant of the embedded engine breaks one promise, and the test named with it must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from telex.testing.contract import EngineSuite

from .targets import InMemory

EMBEDDED = "telex.engines.embedded."


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong engine.

    Attributes:
        name: What it does wrong.
        where: Module of the embedded engine, and what of it is replaced.
        make: Makes the wrong one from the right one.
        caught_by: The test that must fail.
    """

    name: str
    where: tuple[str, str]
    make: Callable[[Any], Any]
    caught_by: str


class Suite(EngineSuite):
    """Not collected by its name; the tests here call its methods."""

    target = InMemory()


MUTANTS: tuple[Mutant, ...] = ()
