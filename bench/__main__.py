"""``python -m bench [FIGURES]``: measures Telex beside its peers and prints one table.

Every measurement runs in a process and a folder of its own. Rounds go through all of them in turn, so that whatever
else the machine does falls on all alike, and ratios are made within a round. Exits with 1 if a figure misses its must.

The figures of brokers are measured only when they are named (``python -m bench rabbitmq``): on a node of their own,
each measurement in a virtual host where nothing was before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.brokers.rabbitmq import shared

from .figure import Figure, Round
from .figures import FIGURES, MEASUREMENTS
from .machine import describe
from .measure import Measured
from .processes import ROOT
from .rabbitmq import figures as rabbitmq
from .table import HEAD, line, missed

PATIENCE = 1800.0
ALL = (*FIGURES, *rabbitmq.FIGURES)
NAMES = (*MEASUREMENTS, *rabbitmq.MEASUREMENTS)


def main() -> int:
    """Measures and prints."""
    options = _options()
    usual = {figure.group for figure in FIGURES}
    figures = [figure for figure in ALL if figure.group in (options.figures or usual)]
    options.folder.mkdir(parents=True, exist_ok=True)
    head = [describe(options.folder), f"{options.rounds} rounds; bodies of 200 bytes; synchronous=FULL"]
    if any(figure.group == rabbitmq.GROUP for figure in figures):
        about = shared().management.call("GET", "/overview")
        head.append(
            f"RabbitMQ {about['rabbitmq_version']} on Erlang {about['erlang_version']}; quorum queues, one node"
        )
    print(*head, sep="\n", flush=True)
    rounds = _measure(figures, options)
    lines = [HEAD, *(line(figure, rounds) for figure in figures)]
    print("", *lines, sep="\n")
    if options.save:
        options.save.write_text("\n".join([*head, "", *lines]) + "\n", encoding="utf-8")
    return int(any(missed(figure, rounds) for figure in figures))


def _measure(figures: Sequence[Figure], options: argparse.Namespace) -> list[Round]:
    names = [name for name in NAMES if any(name in figure.needs for figure in figures)]
    rounds: list[Round] = []
    for number in range(1, options.rounds + 1):
        round: dict[str, Measured] = {}
        for name in names:
            measured = _child(name, options)
            if measured is not None:
                round[name] = measured
            print(f"round {number}: {name}: {_short(measured)}", file=sys.stderr, flush=True)
        rounds.append(round)
    return rounds


def _child(name: str, options: argparse.Namespace) -> Measured | None:
    """One measurement; None if it failed, which is reported and disturbs no other."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        command = [sys.executable, "-m", "bench.child", name, folder, str(options.scale), str(options.backlog)]
        if name in rabbitmq.MEASUREMENTS:
            command.append(stack.enter_context(shared().place()))
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            print(f"{name} took longer than {PATIENCE:g} s", file=sys.stderr)
            return None
    if done.returncode != 0:
        print(f"{name} ended with code {done.returncode}", file=sys.stderr)
        return None
    measured: Measured = json.loads(done.stdout)
    return measured


def _short(measured: Measured | None) -> str:
    if measured is None:
        return "failed"
    return ", ".join(f"{name} {value:,.4g}" for name, value in measured.items())


def _options() -> argparse.Namespace:
    groups = list(dict.fromkeys(figure.group for figure in ALL))
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", choices=[*groups, []], metavar="FIGURES", help=", ".join(groups))
    parser.add_argument("--rounds", type=int, default=3, help="of everything; %(default)s")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of messages; %(default)s")
    parser.add_argument("--backlog", type=int, default=300_000, help="messages that wait; %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="on the disk to measure; %(default)s")
    parser.add_argument("--save", type=Path, help="writes the table to this file too")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
