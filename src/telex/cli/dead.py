"""`telex dead`: its verbs are in letters.py (list, show) and moving.py (redrive, discard)."""

from __future__ import annotations

from . import letters, moving, parser
from .parser import Commands


def add(commands: Commands) -> None:
    """Adds the command and its verbs."""
    one = parser.add(
        commands,
        "dead",
        "list, show, redrive and discard dead letters",
        "telex dead list --by-cause",
        "telex dead redrive emails --error TimeoutError --rate 50",
        more="A dead letter is a message that will not be tried again by itself; it is kept with its history.",
    )
    verbs = one.add_subparsers(dest="verb", required=True, metavar="VERB")
    letters.add(verbs)
    moving.add(verbs)
