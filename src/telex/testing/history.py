"""Histories: what every process of a fault run did, one JSON line before and one after each operation."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, Self

import msgspec

Op = Literal["publish", "deliver", "settle", "letter", "queued", "lost", "redrive", "fault", "heal", "resources"]
Phase = Literal["begin", "end"]
Outcome = Literal["", "ok", "fail", "unknown", "retry", "dead", "discard", "crash"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a history.

    Attributes:
        t: Seconds, from a clock that all processes of the run share (``time.monotonic`` on one host).
        proc: Which process.
        op: What it did. ``publish``, ``deliver`` (a run of a handler) and ``settle`` have a begin and an end. The
            others are one line, an ``end``: ``letter`` a dead letter found at last, ``queued`` how many messages a
            source still holds (``value``), ``lost`` a lease was reported lost, ``redrive`` a dead letter was sent
            back, ``fault`` and ``heal`` what was done to the run (``value``: operations under way then),
            ``resources`` a measurement (``name``).
        phase: Before or after.
        number: Joins the two lines of one operation of one process.
        id: The message's.
        source: Where it was delivered, or died.
        channel: Where it was published.
        key: The message's.
        seq: Rises for each key in the order of publishing.
        digest: Of the body.
        attempt: From 1.
        outcome: ``end`` only. Of a publish: ok, fail, unknown. Of a delivery: ok, retry, dead, discard, crash.
            Of a settlement: ok, fail (lost), unknown.
        due: A retry: not before this time, in the same clock.
        name: Of a fault or a measurement.
        value: Of a measurement.
        last: A measurement or count taken at the end, not at the beginning.
    """

    t: float
    proc: str
    op: Op
    phase: Phase = "end"
    number: int = 0
    id: str = ""
    source: str = ""
    channel: str = ""
    key: str | None = None
    seq: int = 0
    digest: str = ""
    attempt: int = 0
    outcome: Outcome = ""
    due: float | None = None
    name: str = ""
    value: float = 0
    last: bool = False


def digest(body: bytes) -> str:
    """What bodies are compared by."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


class Recorder:
    """Writes one process's part of a history. Each line is written at once, whole, so that a kill tears none.

    Args:
        path: The file; every process has its own.
        proc: The process's name in the history; its id if empty.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], proc: str = "") -> None:
        self.proc = proc or str(os.getpid())
        self._file: IO[bytes] = Path(path).open("ab", buffering=0)  # noqa: SIM115 (closed by `__exit__`)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def begin(self, op: Op, **fields: object) -> Event:
        """Before an operation; give the result to `end`."""
        self._number += 1
        event = msgspec.convert(
            {"t": time.monotonic(), "proc": self.proc, "op": op, "phase": "begin", "number": self._number, **fields},
            Event,
        )
        self._write(event)
        return event

    def end(self, begun: Event, outcome: Outcome, *, due: float | None = None) -> None:
        """After it."""
        self._write(msgspec.structs.replace(begun, t=time.monotonic(), phase="end", outcome=outcome, due=due))

    def note(self, op: Op, **fields: object) -> None:
        """An operation of one line."""
        self._write(msgspec.convert({"t": time.monotonic(), "proc": self.proc, "op": op, **fields}, Event))

    def _write(self, event: Event) -> None:
        self._file.write(msgspec.json.encode(event) + b"\n")


def read(paths: Iterable[str | os.PathLike[str]]) -> list[Event]:
    """The histories of all processes, as one, by time. A last line that a kill tore is left out.

    Raises:
        msgspec.DecodeError: A line within a history is no event.
    """
    events = [event for path in paths for event in _lines(Path(path))]
    return sorted(events, key=lambda event: event.t)


def _lines(path: Path) -> Iterator[Event]:
    lines: Sequence[bytes] = path.read_bytes().split(b"\n")
    for line in lines[:-1]:
        yield msgspec.json.decode(line, type=Event)
