"""The power fails: a record of all writes and syncs is replayed up to each sync, with what a disk may have kept.

The model of the disk: what was synced is there. Of what was written since, sector by sector, anything may be:
nothing, all, a beginning, or any subset. That files exist is taken as durable. A sync that failed may have kept any
of it, and no later sync writes the rest.
"""

from __future__ import annotations

import asyncio
import copy
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import apsw
import msgspec

from telex import (
    Delivery,
    Procedure,
    PublishFailed,
    PublishUncertain,
    Queue,
    Reject,
    RequestTimeout,
    Retry,
    Telex,
    Topic,
)
from telex.engine import Decision, Fetched, Settled, Settlement
from telex.engines import Embedded
from telex.engines.embedded import consumer, wal
from telex.engines.embedded.consumer import EmbeddedConsumer
from telex.errors import StoreDamaged

from .disks import Disk, Kind, Op, disk, io_error

SECTOR = 512
Mode = Literal["none", "all", "torn", "prefix"]
MODES: tuple[Mode, ...] = ("none", "all", "torn", "prefix")
WANTED = 505
"""States that are opened."""
AT_ONCE = 3
"""States that are opened at a time: each waits more than it works."""
Body = dict[str, Any]
Image = dict[str, bytearray]
PLACED = Topic("orders.placed", Body, ordered=True, lanes=4, key=lambda body: str(body["key"]))
JOBS = Queue("jobs", Body)
MAILS = Queue("mails", Body)
QUOTES = Procedure("quotes", Body, str)
Sync = Literal["full", "normal"]


def application(store: str, sync: Sync, seen: Counter[tuple[str, str]] | None) -> Telex:
    """Fails, rejects and emits while it is recorded; only counts when ``seen`` is given: what is there to find."""
    app = Telex(store, name="power", engines=[Embedded(sync=sync)])
    retry = Retry(delay=0.001, max_delay=0.001)

    async def handle(body: Body, delivery: Delivery) -> None:
        if seen is not None:
            seen[body["id"], delivery.source] += 1
            return
        if body["no"] % 7 == 0 and delivery.attempt == 1:
            raise RuntimeError("fails once")
        if body["no"] % 11 == 0:
            raise Reject("not wanted")
        if delivery.source == "jobs":
            delivery.send(MAILS, {"id": f"mail-{body['id']}", "no": 1})

    async def quote(body: Body, delivery: Delivery) -> str:
        if seen is not None:
            seen[body["id"], delivery.source] += 1
        else:
            delivery.send(MAILS, {"id": f"mail-{body['id']}", "no": 1})
        return "much"

    app.reply(QUOTES)(quote)
    app.subscribe(PLACED, group="billing", retry=retry)(handle)
    app.receive(JOBS, retry=retry)(handle)
    app.receive(MAILS, retry=retry)(handle)
    return app


async def _record(made: Disk, sync: Sync) -> None:
    """A short life of a store, with a note for each promise that was given."""
    fetch, settle = EmbeddedConsumer.fetch, EmbeddedConsumer.settle

    async def noted(consumer: EmbeddedConsumer, batch: Sequence[Settlement]) -> Sequence[Settled]:
        source = str(consumer._holder.source)
        ids = [_id_of(settlement) for settlement in batch]
        for id, settlement in zip(ids, batch, strict=True):
            made.note(f"settling {settlement.decision.name} {source} {id}")
        answers = await settle(consumer, batch)
        for id, settlement, answer in zip(ids, batch, answers, strict=True):
            if answer is Settled.DONE:
                made.note(f"settled {settlement.decision.name} {source} {id}")
        return answers

    async def taken(consumer: EmbeddedConsumer, max: int, wait: float) -> Sequence[Fetched]:
        given = await fetch(consumer, max, wait)
        made.note(f"taking {len(given)}")
        return given

    app = application(made.store, sync, None)

    async def publish(no: int) -> None:
        id = f"m{no}"
        made.note(f"publishing {id}")
        try:
            if no % 2:
                await app.publish(PLACED, {"id": id, "no": no, "key": f"k{no % 5}"}, id=id)
            else:
                await app.send(JOBS, {"id": id, "no": no}, id=id)
        except (PublishFailed, PublishUncertain):
            return
        made.note(f"published {id}")

    async def request(no: int) -> None:
        made.note(f"publishing r{no}")
        with suppress(PublishFailed, PublishUncertain, RequestTimeout):
            await app.request(QUOTES, {"id": f"r{no}", "no": no}, timeout=5)
            made.note(f"answered r{no}")

    async def life() -> None:
        async with app:
            for burst in range(10):  # A backlog first, so that many are unsettled when handlers begin.
                await asyncio.gather(*(publish(3 * burst + i) for i in range(3)))
            async with app.running():
                for burst in range(10, 50):
                    await asyncio.gather(request(burst), *(publish(3 * burst + i) for i in range(3)))
                for no in range(150, 175):  # Alone, so that what need not be synced is not synced with something else.
                    await request(no)
                    await publish(no)
                await asyncio.sleep(0.05)

    with (
        patch.object(EmbeddedConsumer, "fetch", taken),
        patch.object(EmbeddedConsumer, "settle", noted),
        patch.object(wal, "CHECKPOINT_PAGES", 150),
    ):
        await life()


def _id_of(settlement: Settlement) -> str:
    body = msgspec.json.decode(settlement.lease.message.body)  # type: ignore[attr-defined]  # the embedded engine's lease
    return str(body["id"])


@dataclass
class Promises:
    """What had been tried and what confirmed at some moment."""

    tried: set[str] = field(default_factory=set)
    published: set[str] = field(default_factory=set)
    ending: set[tuple[str, str]] = field(default_factory=set)
    """(id, source): its settlement was begun."""
    ended: set[tuple[str, str]] = field(default_factory=set)
    dead: set[tuple[str, str]] = field(default_factory=set)
    emitted: set[str] = field(default_factory=set)
    """What was settled, or answered, by a handler that emitted a mail."""
    in_hand: int = 0
    """Deliveries fetched and not settled."""

    def note(self, text: str) -> None:
        """Takes a note of the record."""
        what, *rest = text.split()
        if what == "publishing":
            self.tried.add(rest[0])
        elif what == "published":
            self.published.add(rest[0])
        elif what == "answered":
            self.emitted.add(rest[0])
        elif what == "taking":
            self.in_hand += int(rest[0])
        else:
            decision, source, id = rest
            self.in_hand -= what == "settled"
            if decision not in (Decision.ACCEPT.name, Decision.DEAD.name):
                return
            (self.ending if what == "settling" else self.ended).add((id, source))
            if what == "settled" and decision == Decision.DEAD.name:
                self.dead.add((id, source))
            if what == "settled" and decision == Decision.ACCEPT.name and source in ("jobs", "quotes"):
                self.emitted.add(id)


def crashes(
    base: Image, ops: Sequence[Op], choice: random.Random, wanted: int, after: str = ""
) -> Iterator[tuple[str, Image, Promises]]:
    """Images a power cut could leave just before a sync or just after a promise, or only after those that begin with
    ``after``: (where, image, promises)."""
    moments = [
        i for i, op in enumerate(ops)
        if (op.kind == "sync" and not after) or (op.kind == "note" and "ed " in op.name and op.name.startswith(after))
    ]  # fmt: skip
    each = [(moment, mode) for moment in moments for mode in MODES]
    chosen = set(choice.sample(each, min(wanted, len(each))))
    kept, pending, promises = {name: bytearray(data) for name, data in base.items()}, list[Op](), Promises()
    for index, op in enumerate(ops):
        if op.kind == "note":
            promises.note(op.name)
        for mode in MODES:
            if (index, mode) in chosen:
                where = f"operation {index} ({op.kind} {op.name}), {mode}"
                yield where, _image(kept, pending, mode, choice), copy.deepcopy(promises)
        if op.kind == "sync":
            for written in pending:
                if written.name == op.name:
                    _put(kept, written)
            pending = [written for written in pending if written.name != op.name]
        elif op.kind == "lost":
            for written in (written for written in pending if written.name == op.name):
                _put_some(kept, written, choice)
            pending = [written for written in pending if written.name != op.name]
        elif op.kind == "delete":
            kept.pop(op.name, None)
            pending = [written for written in pending if written.name != op.name]
        elif op.kind != "note":
            pending.append(op)


def _image(kept: Image, pending: Sequence[Op], mode: Mode, choice: random.Random) -> Image:
    image = {name: bytearray(data) for name, data in kept.items()}
    for name in {op.name for op in pending}:
        writes = [op for op in pending if op.name == name]
        if mode == "none":
            writes = []
        elif mode == "prefix":
            writes = writes[: choice.randint(0, len(writes))]
        for op in writes:
            if mode == "torn":
                _put_some(image, op, choice)
            else:
                _put(image, op)
    return image


def _put_some(image: Image, op: Op, choice: random.Random) -> None:
    """Any sectors of a write, or none; a truncation or not."""
    if op.kind == "write":
        for start in range(0, len(op.data), SECTOR):
            if choice.random() < 0.5:
                _put(image, Op("write", op.name, op.offset + start, op.data[start : start + SECTOR]))
    elif choice.random() < 0.5:
        _put(image, op)


def _put(image: Image, op: Op) -> None:
    data = image.setdefault(op.name, bytearray())
    if op.kind == "truncate":
        del data[op.offset :]
        return
    if len(data) < op.offset:
        data.extend(bytes(op.offset - len(data)))
    data[op.offset : op.offset + len(op.data)] = op.data


async def judge(folder: Path, image: Image, promises: Promises) -> list[str]:
    """What is wrong with a store after the power came back: it is opened and drained by the library itself."""
    for name, data in image.items():
        (folder / f"telex.db{name}").write_bytes(data)
    (folder / "telex.db").chmod(0o600)
    seen: Counter[tuple[str, str]] = Counter()
    app = application(str(folder / "telex.db"), "normal", seen)
    async with app:
        await app.run(until_idle=True)
        letters = {
            (str(letter.message.id), letter.source)
            for source in ("orders.placed/billing", "jobs", "mails")
            async for letter in app.dead_letters(source)
        }
        problems = (await app.stats()).problems
    return _compare(promises, seen, letters, problems)


def _compare(
    promises: Promises, seen: Counter[tuple[str, str]], letters: set[tuple[str, str]], problems: Sequence[str]
) -> list[str]:
    wrong = list(problems)
    there = set(seen) | letters
    for id in promises.published:
        source = "orders.placed/billing" if int(id[1:]) % 2 else "jobs"
        if (id, source) not in there and (id, source) not in promises.ending:
            wrong.append(f"{id} was acknowledged and is lost in {source}")
    for id, source in there:
        if id.removeprefix("mail-") not in promises.tried:
            wrong.append(f"{id} is in {source} and was never published")
    wrong += [f"{id} was settled in {source} and came back" for id, source in promises.ended & set(seen)]
    wrong += [
        f"{id} was dead in {source} and its letter is lost"
        for id, source in promises.dead
        if (id, source) not in letters
    ]
    for id in promises.emitted:
        mail = (f"mail-{id}", "mails")
        if mail not in seen and mail not in promises.ending:
            wrong.append(f"the mail of {id} is lost")
    wrong += [f"{id} came {number} times to {source}" for (id, source), number in seen.items() if number > 1]
    return wrong


@dataclass
class Cut:
    """What came of many power cuts in one life of a store.

    Attributes:
        in_hand: Deliveries in hand at each of them.
        wrong: Broken promises.
    """

    in_hand: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def _cut(folder: Path, sync: Sync, wanted: int, seed: int, *, failing: bool = False, after: str = "") -> Cut:
    """Records a life and cuts the power at many moments; some syncs of the log fail, if ``failing``."""
    store = folder / "telex.db"

    async def create() -> None:
        async with application(str(store), sync, None):
            pass

    asyncio.run(create())
    base: Image = {"": bytearray(store.read_bytes())}
    with disk(str(store)) as made, _failing(made) if failing else nullcontext():
        asyncio.run(_record(made, sync))
    choice, cut = random.Random(seed), Cut()

    def replay(state: tuple[str, Image, Promises]) -> list[str]:
        where, image, promises = state
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                found = asyncio.run(judge(Path(place), image, promises))
            except StoreDamaged as error:
                found = [str(error)]
        return [f"{where}: {text}" for text in found]

    states = crashes(base, made.ops, choice, wanted, after)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while some := list(islice(states, 4 * AT_ONCE)):  # All at once would take a gigabyte.
            cut.in_hand += [promises.in_hand for _, _, promises in some]
            cut.wrong += [text for found in pool.map(replay, some) for text in found]
    kinds = Counter(op.kind for op in made.ops)
    busy = [number for number in cut.in_hand if number > 0]
    print(
        f"\n{sync}: {len(cut.in_hand)} states of {kinds['sync']} syncs and {kinds['lost']} that failed; deliveries in "
        f"hand at {len(busy)} of the cuts, {max(busy, default=0)} at most; {len(cut.wrong)} broken promises"
    )
    assert len(busy) > wanted // 4, "the power went while nothing was in hand"
    assert not failing or kinds["lost"] > 5, "no sync failed"
    return cut


@contextmanager
def _failing(made: Disk) -> Iterator[None]:
    """Of the syncs of the log, every seventh fails, and every second of those that others had left something to."""
    syncs, quick, written, left = count(1), count(1), False, False
    grew = wal.Wal._grew

    def committed(log: wal.Wal, db: apsw.Connection, name: str, pages: int) -> int:
        nonlocal left
        left = left or written
        return grew(log, db, name, pages)

    def fault(kind: Kind, name: str) -> None:
        nonlocal written, left
        if name != "-wal":
            return
        written = kind == "write"
        if kind == "sync" and (next(syncs) % 7 == 0 or (left and next(quick) % 2 == 0)):
            raise io_error("sync")
        left = left and kind != "sync"

    made.fault = fault
    with patch.object(wal.Wal, "_grew", committed):
        yield


def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cut = _cut(tmp_path, "full", WANTED, seed=5)
    assert not cut.wrong, "\n".join(cut.wrong[:10])
    assert len(cut.in_hand) >= 500


def test_a_power_cut_after_syncs_that_failed_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cut = _cut(tmp_path, "full", 100, seed=7, failing=True)
    assert not cut.wrong, "\n".join(cut.wrong[:10])


def test_the_check_notices_a_store_that_does_not_sync(tmp_path: Path) -> None:
    cut = _cut(tmp_path, "normal", 60, seed=6)
    assert any("was acknowledged and is lost" in text for text in cut.wrong), "a store without syncs passed"


def test_the_check_notices_answers_that_do_not_sync(tmp_path: Path) -> None:
    """A handler's emission leaves with its answer: who has the answer counts on it."""
    with patch.object(consumer, "_only_answers", return_value=True):
        cut = _cut(tmp_path, "full", 60, seed=8, after="answered")
    assert any("the mail of r" in text for text in cut.wrong), "an answer without a sync passed"


def test_the_check_notices_a_log_with_holes(tmp_path: Path) -> None:
    """What a failed sync lost is never written again: going on as if it were there must break promises."""
    with patch.object(wal.Wal, "mend"):
        cut = _cut(tmp_path, "full", 100, seed=9, failing=True)
    assert cut.wrong, "a log with holes passed"
