"""Judges a history: nine invariants, and whether the run was able to break them at all.

I1 nothing acknowledged is lost · I2 nothing is invented or altered · I3 settled stays settled · I4 one owner at a
time · I5 order per key · I6 attempts rise, end and wait · I7 one terminal state · I8 all gets done after the last
heal, by everybody · I9 resources come back. Duplicates are counted; they are a violation only where promised away.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from math import inf

from .history import Event

Place = tuple[str, str]
"""A message in a source: (id, source)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What a run promises, and what it must have done to mean something.

    Attributes:
        sources: The sources that get what is published to each channel.
        ordered: Sources with order per key.
        attempts: Most failures a message may have; None: no limit.
        confirmed: Whether settlements are confirmed, so that none may come back.
        duplicates: Whether messages may be handled twice at all.
        copies: Seconds around a fault within which an engine that is not atomic may leave a second copy, same id, of
            what is being published or settled; None: it never does. What such copies break is no violation: attempts
            that rise, one owner, one end. That nothing is lost or out of order is judged for them too.
        liveness: Seconds after the last heal within which all must be handled.
        workers: Processes that must each handle something.
        growth: The share by which each measured resource may have grown at the end.
        acknowledged: Fewest acknowledged publishes.
        faults: Names of faults, each of which must have fired while something was under way.
        redelivered: Fewest redeliveries: without one, a kill hit nobody.
    """

    sources: Mapping[str, Sequence[str]]
    ordered: frozenset[str] = frozenset()
    attempts: int | None = None
    confirmed: bool = True
    duplicates: bool = True
    copies: float | None = None
    liveness: float = 30.0
    workers: frozenset[str] = frozenset()
    growth: float = 0.1
    acknowledged: int = 1000
    faults: frozenset[str] = frozenset()
    redelivered: int = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise.

    Attributes:
        check: ``I1`` to ``I9``, or ``vacuous``: the run proves nothing.
        text: What happened, with ids.
    """

    check: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a history says.

    Attributes:
        violations: None if all is well.
        acknowledged: Publishes confirmed.
        uncertain: Publishes of which nobody knows.
        handled: Deliveries that ended well.
        duplicates: Deliveries that ended well beyond the first of their message and source.
        dead: Dead letters.
    """

    violations: tuple[Violation, ...]
    acknowledged: int
    uncertain: int
    handled: int
    duplicates: int
    dead: int

    def __str__(self) -> str:
        lines = [
            f"{self.acknowledged} acknowledged, {self.uncertain} uncertain, {self.handled} handled, "
            f"{self.duplicates} duplicates, {self.dead} dead"
        ]
        shown = [f"{violation.check}: {violation.text}" for violation in self.violations]
        return "\n".join(lines + shown)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler.

    Attributes:
        event: Its begin.
        end: When it ended; None: never, its process died.
        outcome: How; empty if it never ended.
        due: Of a retry, in the history's clock.
    """

    event: Event
    end: float | None
    outcome: str
    due: float | None


@dataclass
class History:
    """Events, joined and indexed."""

    events: Sequence[Event]
    copies: float | None = None
    by_op: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for event in self.events:
            self.by_op[f"{event.op}-{event.phase}"].append(event)

    @cached_property
    def tried(self) -> dict[str, Event]:
        """Every message anybody tried to publish, by id."""
        return {event.id: event for event in self.by_op["publish-begin"]}

    @cached_property
    def acknowledged(self) -> list[Event]:
        return [event for event in self.by_op["publish-end"] if event.outcome == "ok"]

    @cached_property
    def runs(self) -> list[Run]:
        """All runs of handlers, by their begin."""
        ends = {(event.proc, event.number): event for event in self.by_op["deliver-end"]}
        runs = []
        for event in self.by_op["deliver-begin"]:
            end = ends.get((event.proc, event.number))
            runs.append(Run(event, end.t, end.outcome, end.due) if end else Run(event, None, "", None))
        return runs

    @cached_property
    def runs_of(self) -> dict[Place, list[Run]]:
        grouped: dict[Place, list[Run]] = defaultdict(list)
        for run in self.runs:
            grouped[run.event.id, run.event.source].append(run)
        return grouped

    @cached_property
    def letters(self) -> Counter[Place]:
        """Dead letters found at the end."""
        return Counter((event.id, event.source) for event in self.by_op["letter-end"])

    @cached_property
    def settled(self) -> dict[Place, float]:
        """When a settlement that ends a message was first confirmed."""
        found: dict[Place, float] = {}
        for event in self.by_op["settle-end"]:
            if event.outcome == "ok":
                found.setdefault((event.id, event.source), event.t)
        return found

    @cached_property
    def copied(self) -> frozenset[str]:
        """Messages that exist more than once for a good reason: published again, redriven, or near a fault."""
        published = Counter(event.id for event in self.by_op["publish-begin"])
        again = {id for id, number in published.items() if number > 1}
        return frozenset(again | {event.id for event in self.by_op["redrive-end"]} | self._near_faults())

    def _near_faults(self) -> set[str]:
        """Messages that were being published or run near a fault, where that may leave copies."""
        if self.copies is None:
            return set()
        ends = {(event.proc, event.number): event.t for event in self.by_op["publish-end"]}
        spans = [
            (event.t, ends.get((event.proc, event.number), event.t), event.id) for event in self.by_op["publish-begin"]
        ]
        spans += [(run.event.t, run.event.t if run.end is None else run.end, run.event.id) for run in self.runs]
        windows = []
        for fault in self.by_op["fault-end"]:
            heals = [heal.t for heal in self.by_op["heal-end"] if heal.name == fault.name and heal.t >= fault.t]
            windows.append((fault.t - self.copies, min(heals, default=fault.t) + self.copies))
        merged: list[tuple[float, float]] = []
        for begin, end in sorted(windows):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        starts = [begin for begin, _ in merged]
        near = set()
        for begin, end, id in spans:
            index = bisect_right(starts, end) - 1
            if index >= 0 and merged[index][1] >= begin:
                near.add(id)
        return near

    @cached_property
    def once(self) -> dict[Place, list[Run]]:
        """The runs of all other messages."""
        return {place: runs for place, runs in self.runs_of.items() if place[0] not in self.copied}

    @cached_property
    def queued(self) -> float:
        """Messages still in their sources at the end."""
        return sum(event.value for event in self.by_op["queued-end"])


def check(events: Iterable[Event], expected: Expectations) -> Report:
    """Judges a history."""
    history = History(sorted(events, key=lambda event: event.t), expected.copies)
    violations = [violation for judge in CHECKS for violation in judge(history, expected)]
    good = Counter((run.event.id, run.event.source) for run in history.runs if run.outcome == "ok")
    return Report(
        violations=tuple(violations),
        acknowledged=len(history.acknowledged),
        uncertain=sum(event.outcome == "unknown" for event in history.by_op["publish-end"]),
        handled=good.total(),
        duplicates=good.total() - len(good),
        dead=history.letters.total(),
    )


def no_loss(history: History, expected: Expectations) -> Iterator[Violation]:
    """I1: acknowledged ⊆ handled ∪ dead ∪ discarded, and nothing is left in a source."""
    if history.queued:
        yield Violation("I1", f"{history.queued:g} messages are still in their sources: the run did not drain")
    done = {(run.event.id, run.event.source) for run in history.runs if run.outcome in ("ok", "discard")}
    acknowledged = history.acknowledged
    for index, event in enumerate(acknowledged):
        for source in expected.sources.get(event.channel, ()):
            if (event.id, source) not in done and (event.id, source) not in history.letters:
                yield Violation("I1", f"{event.id} is lost in {source} ({_third(index, len(acknowledged))} of the run)")


def nothing_invented(history: History, expected: Expectations) -> Iterator[Violation]:
    """I2: delivered and dead ⊆ tried, bodies equal, and only where they belong."""
    for event in [run.event for run in history.runs] + history.by_op["letter-end"]:
        origin = history.tried.get(event.id)
        if origin is None:
            yield Violation("I2", f"{event.id} came to {event.source} and was never published")
        elif origin.digest != event.digest:
            yield Violation("I2", f"{event.id} came to {event.source} with another body")
        elif event.source not in expected.sources.get(origin.channel, ()):
            yield Violation("I2", f"{event.id} of {origin.channel} came to {event.source}")


def settled_stays(history: History, expected: Expectations) -> Iterator[Violation]:
    """I3: no run begins after a confirmed settlement of its message and source."""
    for place, runs in history.once.items():
        settled = history.settled.get(place)
        if settled is not None and expected.confirmed:
            for run in runs:
                if run.event.t > settled:
                    yield Violation(
                        "I3", f"{place[0]} ran again in {place[1]}, {run.event.t - settled:.3f} s after it was settled"
                    )
        good = sum(run.outcome == "ok" for run in runs)
        if good > 1 and not expected.duplicates:
            yield Violation("I3", f"{place[0]} was handled {good} times in {place[1]}")


def one_owner(history: History, expected: Expectations) -> Iterator[Violation]:
    """I4: runs of one message in one source overlap only where the first one's lease was reported lost, or its
    process died."""
    lost = {(event.id, event.source, event.proc) for event in history.by_op["lost-end"]}
    for place, runs in history.once.items():
        for before, after in pairwise(runs):
            if before.end is None or before.end <= after.event.t:
                continue
            if (*place, before.event.proc) not in lost:
                yield Violation(
                    "I4", f"{place[0]} ran in {before.event.proc} and {after.event.proc} at once ({place[1]})"
                )


def order(history: History, expected: Expectations) -> Iterator[Violation]:
    """I5: of one key in an ordered source, nothing begins before its elders are finished, and none is skipped."""
    elders: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in history.runs:
        if run.event.source in expected.ordered and run.event.key is not None:
            elders[run.event.source, run.event.key].append(run)
    for (source, key), runs in elders.items():
        yield from _key_order(source, key, runs)


def _key_order(source: str, key: str, runs: Sequence[Run]) -> Iterator[Violation]:
    """Once a message has run, no elder one may begin that was not finished; repeats of finished ones are duplicates."""
    ended: dict[int, float] = {}
    """When a message first came to its end."""
    for run in runs:
        if run.outcome in ("ok", "dead", "discard") and run.end is not None:
            ended[run.event.seq] = min(run.end, ended.get(run.event.seq, run.end))
    seqs = sorted({run.event.seq for run in runs})
    ended_up_to = dict(zip(seqs, accumulate((ended.get(seq, inf) for seq in seqs), max), strict=True))
    """When a message and all its elders had come to their ends."""
    elder_of = {younger: elder for elder, younger in pairwise(seqs)}
    highest = -1
    for run in runs:
        seq, begun = run.event.seq, run.event.t
        if seq < highest and ended.get(seq, inf) >= begun:
            yield Violation("I5", f"{source}, key {key}: {seq} ran for the first time after {highest}")
        if seq > highest:
            elder = elder_of.get(seq)
            if elder is not None and ended_up_to[elder] > begun:
                yield Violation("I5", f"{source}, key {key}: {seq} began before all up to {elder} had ended")
            highest = seq


def attempts(history: History, expected: Expectations) -> Iterator[Violation]:
    """I6: attempts rise strictly, failures end, and no retry is early.

    A fault between a failure and its settlement leaves it uncounted: each fault allows one more.
    """
    allowed = None if expected.attempts is None else expected.attempts + len(history.by_op["fault-end"])
    for (id, source), runs in history.once.items():
        failures, last, due = 0, 0, None
        for run in runs:
            if run.event.attempt <= last:
                yield Violation("I6", f"{id} in {source}: attempt {run.event.attempt} came after {last}")
            last = run.event.attempt
            if due is not None and run.event.t < due:
                yield Violation("I6", f"{id} in {source}: attempt {last} is {due - run.event.t:.3f} s early")
            failures += run.outcome in ("retry", "dead")
            due = run.due if run.outcome == "retry" else None
        if allowed is not None and failures > allowed:
            yield Violation("I6", f"{id} in {source} failed {failures} times, at most {allowed} are allowed")


def one_end(history: History, expected: Expectations) -> Iterator[Violation]:
    """I7: a message is not both settled and dead, nor dead twice."""
    accepted = {(run.event.id, run.event.source) for run in history.runs if run.outcome == "ok"}
    for place, number in history.letters.items():
        if place[0] in history.copied:
            continue
        if number > 1:
            yield Violation("I7", f"{place[0]} has {number} dead letters in {place[1]}")
        if place in accepted and place in history.settled:
            yield Violation("I7", f"{place[0]} is settled and dead in {place[1]}")


def liveness(history: History, expected: Expectations) -> Iterator[Violation]:
    """I8: all is handled soon after the last heal, and every worker has handled something."""
    heals = [event.t for event in history.by_op["heal-end"]]
    published = [event.t for event in history.acknowledged]
    start = max([*heals, *published], default=0.0)
    first_end: dict[Place, float] = {}
    for run in history.runs:
        if run.end is not None and run.outcome in ("ok", "dead", "discard"):
            first_end.setdefault((run.event.id, run.event.source), run.end)
    late = [place for place, t in first_end.items() if t > start + expected.liveness]
    if late:
        yield Violation(
            "I8", f"{len(late)} messages took more than {expected.liveness:g} s after all was well, such as {late[0]}"
        )
    for worker in expected.workers - {run.event.proc for run in history.runs if run.outcome == "ok"}:
        yield Violation("I8", f"worker {worker} handled nothing")


def resources(history: History, expected: Expectations) -> Iterator[Violation]:
    """I9: what was measured at the beginning is not much higher at the end."""
    first: dict[Place, float] = {}
    for event in history.by_op["resources-end"]:
        place = (event.proc, event.name)
        if not event.last:
            first.setdefault(place, event.value)
        elif place in first and event.value > first[place] * (1 + expected.growth):
            yield Violation("I9", f"{event.name} of {event.proc} grew from {first[place]:g} to {event.value:g}")


def not_vacuous(history: History, expected: Expectations) -> Iterator[Violation]:
    """Whether the run could have broken anything: enough was published, faults hit work under way, kills were felt."""
    number = len(history.acknowledged)
    if number < expected.acknowledged:
        yield Violation("vacuous", f"{number} publishes were acknowledged, at least {expected.acknowledged} are wanted")
    if history.acknowledged and not history.runs:
        yield Violation("vacuous", "nothing was delivered")
    for name in expected.faults - {event.name for event in history.by_op["fault-end"] if event.value > 0}:
        yield Violation("vacuous", f"the fault {name!r} never fired while something was under way")
    again = sum(len(runs) - 1 for runs in history.runs_of.values())
    if again < expected.redelivered:
        yield Violation(
            "vacuous", f"{again} redeliveries, at least {expected.redelivered} are wanted: the faults hit nobody"
        )
    if expected.ordered and not any(run.event.source in expected.ordered and run.event.seq > 1 for run in history.runs):
        yield Violation("vacuous", "no key of an ordered source had two messages")


def _third(index: int, number: int) -> str:
    return ("beginning", "middle", "end")[min(2, 3 * index // max(number, 1))]


CHECKS: tuple[Callable[[History, Expectations], Iterator[Violation]], ...] = (
    no_loss,
    nothing_invented,
    settled_stays,
    one_owner,
    order,
    attempts,
    one_end,
    liveness,
    resources,
    not_vacuous,
)
