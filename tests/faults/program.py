"""The processes of the fault tests: publishers and workers that write down what they do, each in a file of its own.

Run as ``python -m tests.faults.program CONFIG``, where CONFIG is a `Config` as JSON.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from telex import Delivery, PublishFailed, PublishUncertain, Queue, Reject, Retry, Telex, Topic
from telex.engines import Embedded, RabbitMQ
from telex.testing.history import Recorder, digest

from .points import Points
from .watching import watched

BILLING = "orders.placed/billing"
AUDIT = "orders.placed/audit"
JOBS = "jobs"
MAILS = "mails"
SOURCES = {"orders.placed": (BILLING, AUDIT), "jobs": (JOBS,), "mails": (MAILS,)}
"""Who gets what is published where."""

Body = dict[str, Any]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do.

    Attributes:
        role: ``worker`` or ``publisher``.
        store: The file, or a broker's URL.
        folder: Where histories, logs and marks go.
        name: The process's name in the history.
        lease: Seconds, of the embedded engine.
        sync: As in `Embedded`.
        max_bytes: As in `Embedded`.
        lanes: Of the ordered topic.
        keys: How many keys each publisher uses.
        work: Longest time a handler takes, in seconds.
        burst: Messages a publisher has in flight.
        pace: Seconds between two bursts.
        failing: The share of messages that fail once.
        rejected: The share of messages that are dead-lettered.
        concurrency: Of each handler.
        timeout: Of a publish, in seconds.
        grace: Seconds, as in `Telex`.
        until_idle: A worker ends when nothing is left.
        point: Where to be killed, see `Points`; empty: nowhere.
        nth: At which passing of the point.
    """

    role: str
    store: str
    folder: str
    name: str
    lease: float = 1.0
    sync: str = "full"
    max_bytes: int | None = None
    lanes: int = 16
    keys: int = 20
    work: float = 0.02
    burst: int = 40
    pace: float = 0.05
    failing: float = 0.1
    rejected: float = 0.02
    concurrency: int = 8
    timeout: float = 10
    grace: float = 10
    until_idle: bool = False
    point: str = ""
    nth: int = 1


class Program:
    """The application, written against the public face alone."""

    def __init__(self, config: Config, recorder: Recorder) -> None:
        self.config = config
        self.recorder = recorder
        self.points = Points(recorder, config.point, config.nth)
        self.topic = Topic("orders.placed", Body, ordered=True, lanes=config.lanes, key=lambda body: str(body["key"]))
        self.jobs = Queue("jobs", Body)
        self.mails = Queue("mails", Body)
        embedded = Embedded(lease=config.lease, sync=config.sync, max_bytes=config.max_bytes)  # type: ignore[arg-type]  # from JSON
        engines = [self.points.watch(settings) for settings in (embedded, RabbitMQ())]
        self.app = Telex(
            config.store, name="faults", engines=engines, publish_timeout=config.timeout, grace=config.grace
        )
        retry = Retry(delay=0.05, max_delay=0.2)
        many = config.concurrency
        self.app.subscribe(self.topic, group="billing", concurrency=many, retry=retry)(self.handle)
        self.app.subscribe(self.topic, group="audit", concurrency=many, retry=retry, ordered=False)(self.handle)
        self.app.receive(self.jobs, concurrency=many, retry=retry)(self.work)
        self.app.receive(self.mails, concurrency=many, retry=retry)(self.handle)

    # -- handlers ---------------------------------------------------------------------------------------------------

    async def handle(self, body: Body, delivery: Delivery) -> None:
        """Does what the message says, and writes down how it went."""
        await self._record(body, delivery, emits=False)

    async def work(self, body: Body, delivery: Delivery) -> None:
        """The same, and emits a mail."""
        await self._record(body, delivery, emits=True)

    async def _record(self, body: Body, delivery: Delivery, *, emits: bool) -> None:
        message = delivery.message
        place: dict[str, Any] = {"id": message.id, "source": delivery.source}
        begun = self.recorder.begin(
            "deliver", channel=message.channel, key=message.key, seq=body["seq"], digest=digest(message.body),
            attempt=delivery.attempt, **place,
        )  # fmt: skip
        self.points.pass_by("in handler")
        try:
            await self._act(body, delivery)
            if emits:
                self._emit(body, delivery)
        except asyncio.CancelledError:
            self.recorder.note("lost", **place)
            self.recorder.end(begun, "crash")
            raise
        except Reject:
            self.recorder.end(begun, "dead")
            raise
        except Exception:
            self.recorder.end(begun, "retry")
            raise
        self.recorder.end(begun, "ok")

    async def _act(self, body: Body, delivery: Delivery) -> None:
        match body.get("act"):
            case "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            case "late poison" if delivery.source == BILLING:
                if self._first(delivery):
                    raise Reject("not yet")
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                if self._first(delivery):
                    with self.points.quiet:
                        os.kill(os.getpid(), signal.SIGSTOP)
            case "block":
                time.sleep(3 * self.config.lease)  # The fault under test: the loop stands still.
        if self.config.work:
            await asyncio.sleep(random.random() * self.config.work)
        if body.get("act") == "fail" and delivery.attempt == 1:
            raise RuntimeError("fails once")
        if body.get("act") == "reject":
            raise Reject("not wanted")

    def _first(self, delivery: Delivery) -> bool:
        """Whether no process did this before for the message and source."""
        mark = Path(self.config.folder) / f"{delivery.message.id}@{delivery.source.replace('/', '-')}.mark"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _emit(self, body: Body, delivery: Delivery) -> None:
        mail = {"id": "", "key": None, "seq": 0, "parent": body["id"]}
        id = delivery.send(self.mails, mail)
        self.recorder.begin(
            "publish", id=id, channel="mails", name=body["id"], digest=digest(msgspec.json.encode(mail))
        )

    # -- publishing -------------------------------------------------------------------------------------------------

    async def publish(self, to: str, body: Body) -> str:
        """Publishes one message and writes down the outcome: ok, fail or unknown."""
        key = body["key"] if to == "orders.placed" else None
        begun = self.recorder.begin(
            "publish", id=body["id"], channel=to, key=key, seq=body["seq"], digest=digest(msgspec.json.encode(body))
        )
        try:
            if to == "orders.placed":
                await self.app.publish(self.topic, body, id=body["id"])
            else:
                await self.app.send(self.jobs, body, id=body["id"])
        except PublishFailed:
            self.recorder.end(begun, "fail")
            return "fail"
        except PublishUncertain:
            self.recorder.end(begun, "unknown")
            return "unknown"
        self.recorder.end(begun, "ok")
        return "ok"

    def bodies(self, first: int, number: int) -> list[tuple[str, Body]]:
        """Messages of this process, from the ``first``-th: half to the topic, half to the queue."""
        made = []
        for no in range(first, first + number):
            failing, rejected = self.config.failing, self.config.rejected
            act = random.choices(["", "fail", "reject"], [1 - failing - rejected, failing, rejected])[0]
            body = {"id": f"{self.config.name}-{no}", "key": f"{self.config.name}-k{no % self.config.keys}", "seq": no}
            made.append(("orders.placed" if no // self.config.keys % 2 else "jobs", {**body, "act": act}))
        return made

    async def run_publisher(self) -> None:
        """Publishes in bursts until told to end."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        no = 1
        async with self.app:
            while not stop.is_set():
                await asyncio.gather(*(self.publish(to, body) for to, body in self.bodies(no, self.config.burst)))
                no += self.config.burst
                await asyncio.sleep(self.config.pace)

    async def run_worker(self) -> None:
        """Runs the handlers until told to end, or until nothing is left."""
        await self.app.run(until_idle=self.config.until_idle)


def main(text: str) -> None:
    """Runs one process."""
    config = msgspec.json.decode(text, type=Config)
    folder = Path(config.folder)
    logging.basicConfig(filename=folder / f"{config.name}.log", level=logging.INFO, format="%(message)s")
    with Recorder(folder / f"{config.name}.jsonl", config.name) as recorder:
        program = Program(config, recorder)
        with watched(recorder), program.points:
            asyncio.run(program.run_worker() if config.role == "worker" else program.run_publisher())


if __name__ == "__main__":
    main(sys.argv[1])
