"""The power fails: a record of all writes and syncs is replayed up to each sync, with what a disk may have kept.

The model of the disk: what was synced is there. Of what was written since, sector by sector, anything may be:
nothing, all, a beginning, or any subset. That files exist is taken as durable.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import msgspec

from telex import Delivery, Queue, Reject, Retry, Telex, Topic
from telex.engine import Decision, Settled, Settlement
from telex.engines import Embedded
from telex.engines.embedded import opening
from telex.engines.embedded.consumer import EmbeddedConsumer

from .disks import Disk, Op, disk

SECTOR = 512
Mode = Literal["none", "all", "torn", "prefix"]
MODES = ("none", "all", "torn", "prefix")
WANTED = 520
"""States that are opened."""
Body = dict[str, Any]
Image = dict[str, bytearray]
PLACED = Topic("orders.placed", Body, ordered=True, lanes=4, key=lambda body: str(body["key"]))
JOBS = Queue("jobs", Body)
MAILS = Queue("mails", Body)


def application(store: str, sync: Literal["full", "normal"], seen: Counter[tuple[str, str]] | None) -> Telex:
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

    app.subscribe(PLACED, group="billing", retry=retry)(handle)
    app.receive(JOBS, retry=retry)(handle)
    app.receive(MAILS, retry=retry)(handle)
    return app


async def _record(made: Disk, sync: Literal["full", "normal"]) -> None:
    """A short life of a store, with a note for each promise that was given."""
    settle = EmbeddedConsumer.settle

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

    app = application(made.store, sync, None)

    async def publish(no: int) -> None:
        id = f"m{no}"
        made.note(f"publishing {id}")
        if no % 2:
            await app.publish(PLACED, {"id": id, "no": no, "key": f"k{no % 5}"}, id=id)
        else:
            await app.send(JOBS, {"id": id, "no": no}, id=id)
        made.note(f"published {id}")

    async def life() -> None:
        async with app:
            for burst in range(10):  # A backlog first, so that many are unsettled when handlers begin.
                await asyncio.gather(*(publish(3 * burst + i) for i in range(3)))
            async with app.running():
                for burst in range(10, 60):
                    await asyncio.gather(*(publish(3 * burst + i) for i in range(3)))
                await asyncio.sleep(0.05)

    with patch.object(EmbeddedConsumer, "settle", noted), patch.object(opening, "CHECKPOINT_PAGES", 150):
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
    accepted_jobs: set[str] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Takes a note of the record."""
        what, *rest = text.split()
        if what == "publishing":
            self.tried.add(rest[0])
        elif what == "published":
            self.published.add(rest[0])
        else:
            decision, source, id = rest
            if decision not in (Decision.ACCEPT.name, Decision.DEAD.name):
                return
            (self.ending if what == "settling" else self.ended).add((id, source))
            if what == "settled" and decision == Decision.DEAD.name:
                self.dead.add((id, source))
            if what == "settled" and decision == Decision.ACCEPT.name and source == "jobs":
                self.accepted_jobs.add(id)


def crashes(
    base: Image, ops: Sequence[Op], choice: random.Random, wanted: int
) -> Iterator[tuple[str, Image, Promises]]:
    """Images a power cut could leave just before a sync or just after a promise: (where, image, promises)."""
    moments = [i for i, op in enumerate(ops) if op.kind == "sync" or (op.kind == "note" and "ed " in op.name)]
    each = [(moment, mode) for moment in moments for mode in MODES]
    chosen = set(choice.sample(each, min(wanted, len(each))))
    kept, pending, promises = {name: bytearray(data) for name, data in base.items()}, list[Op](), Promises()
    for index, op in enumerate(ops):
        if op.kind == "note":
            promises.note(op.name)
        for mode in MODES:
            if (index, mode) in chosen:
                yield f"operation {index} ({op.kind} {op.name}), {mode}", _image(kept, pending, mode, choice), promises
        if op.kind == "sync":
            for written in pending:
                if written.name == op.name:
                    _put(kept, written)
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
            if mode != "torn":
                _put(image, op)
            elif op.kind == "write":
                for start in range(0, len(op.data), SECTOR):
                    if choice.random() < 0.5:
                        _put(image, Op("write", name, op.offset + start, op.data[start : start + SECTOR]))
            elif choice.random() < 0.5:
                _put(image, op)
    return image


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
    folder.mkdir()
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
    for id in promises.accepted_jobs:
        mail = (f"mail-{id}", "mails")
        if mail not in seen and mail not in promises.ending:
            wrong.append(f"the mail of {id} is lost")
    wrong += [f"{id} came {number} times to {source}" for (id, source), number in seen.items() if number > 1]
    return wrong


def _cut(folder: Path, sync: Literal["full", "normal"], wanted: int, seed: int) -> tuple[int, list[str]]:
    """Records a life, cuts the power at many moments: (states opened, what was wrong)."""
    store = folder / "telex.db"

    async def create() -> None:
        async with application(str(store), sync, None):
            pass

    asyncio.run(create())
    base: Image = {"": bytearray(store.read_bytes())}
    with disk(str(store)) as made:
        asyncio.run(_record(made, sync))
    choice = random.Random(seed)
    states, wrong = 0, list[str]()

    async def replay() -> None:
        nonlocal states
        for where, image, promises in crashes(base, made.ops, choice, wanted):
            found = await judge(folder / f"state{states}", image, promises)
            wrong.extend(f"{where}: {text}" for text in found)
            states += 1

    asyncio.run(replay())
    syncs = sum(op.kind == "sync" for op in made.ops)
    print(f"\n{sync}: {states} states of {syncs} syncs, {len(wrong)} broken promises {wrong[:3]}")
    return states, wrong


def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    begun = time.monotonic()
    states, wrong = _cut(tmp_path, "full", WANTED, seed=5)
    assert not wrong, "\n".join(wrong[:10])
    assert states >= 500
    assert time.monotonic() - begun < 60


def test_the_check_notices_a_store_that_does_not_sync(tmp_path: Path) -> None:
    states, wrong = _cut(tmp_path, "normal", 60, seed=6)
    assert states == 60
    assert any("was acknowledged and is lost" in text for text in wrong), "a store without syncs passed"
