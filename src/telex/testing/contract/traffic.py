"""Publishers and workers under load in one process, with everything they do written down and judged at the end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...app import Telex
from ...channels import Queue, Topic
from ...delivery.context import Delivery
from ...errors import PublishFailed, PublishUncertain
from ...policy import Retry
from ..checker import Expectations, Report, check
from ..history import Recorder, digest, read

Body = dict[str, Any]
BILLING = "orders.placed/billing"
AUDIT = "orders.placed/audit"
JOBS = "jobs"
SOURCES = {"orders.placed": (BILLING, AUDIT), "jobs": (JOBS,)}
"""Who gets what is published where."""
FAILING = 50
"""One message in so many fails once."""
COPIES = 2.0
"""Seconds around a fault within which copies may be left; see `Expectations.copies`."""
AGAIN = 0.05
"""Seconds before a publisher tries again."""


class Traffic:
    """What happens on a broker while it is hurt.

    Args:
        folder: For the histories.
        ordered: Whether billing keeps the order of keys.
        work: Seconds a handler takes.

    Attributes:
        acknowledged: Messages whose publish returned.
        handled: (id, source) of deliveries that ended well.
        publishing: Publishes under way.
        running: Handlers under way.
    """

    def __init__(self, folder: Path, *, ordered: bool = True, work: float = 0.001) -> None:
        self._folder = folder
        self._work = work
        self.ordered = ordered
        self.topic = Topic("orders.placed", Body, ordered=ordered, lanes=4 if ordered else 1, key=_key)
        self.jobs = Queue("jobs", Body)
        self.acknowledged = 0
        self.handled: set[tuple[str, str]] = set()
        self.publishing = 0
        self.running = 0
        self._wanted = 0
        self._recorders: list[Recorder] = []
        self.referee = self._recorder("referee")

    def _recorder(self, name: str) -> Recorder:
        recorder = Recorder(self._folder / f"{name}.jsonl", name)
        self._recorders.append(recorder)
        return recorder

    def close(self) -> None:
        """Closes the histories."""
        for recorder in self._recorders:
            recorder.__exit__()

    # -- workers ----------------------------------------------------------------------------------------------------

    def work(self, app: Telex, name: str, concurrency: int = 16) -> None:
        """Declares the handlers of a worker."""
        recorder = self._recorder(name)
        retry = Retry(delay=0.05, max_delay=0.2)

        async def handle(body: Body, delivery: Delivery) -> None:
            await self._handle(recorder, body, delivery)

        app.subscribe(self.topic, group="billing", concurrency=concurrency, retry=retry)(handle)
        app.subscribe(self.topic, group="audit", concurrency=concurrency, retry=retry, ordered=False)(handle)
        app.receive(self.jobs, concurrency=concurrency, retry=retry)(handle)

    async def _handle(self, recorder: Recorder, body: Body, delivery: Delivery) -> None:
        message = delivery.message
        place: dict[str, Any] = {"id": message.id, "source": delivery.source}
        begun = recorder.begin(
            "deliver", channel=message.channel, key=message.key, seq=body["seq"], digest=digest(message.body),
            attempt=delivery.attempt, **place,
        )  # fmt: skip
        self.running += 1
        try:
            await asyncio.sleep(self._work)
            if body["fails"] and delivery.attempt == 1:
                raise RuntimeError("fails once")
        except asyncio.CancelledError:
            recorder.note("lost", **place)
            recorder.end(begun, "crash")
            raise
        except RuntimeError:
            recorder.end(begun, "retry")
            raise
        finally:
            self.running -= 1
        recorder.end(begun, "ok")
        self.handled.add((message.id, delivery.source))

    # -- publishers -------------------------------------------------------------------------------------------------

    async def publish(self, app: Telex, name: str, *, publishers: int, each: int, pace: float = 0) -> None:
        """Many publishers at once, each with a key of its own and one message after the other; each message again,
        with the same id, until it is acknowledged. Every second publisher sends to the queue.

        Args:
            app: Publishes.
            name: Of the publishers in the history.
            publishers: How many.
            each: Messages of each.
            pace: Seconds between two of them.
        """
        recorder = self._recorder(name)
        self._wanted += sum(each * (2 if number % 2 else 1) for number in range(publishers))

        async def one(number: int) -> None:
            for seq in range(1, each + 1):
                body = {"key": f"{name}-k{number}", "seq": seq, "fails": seq % FAILING == 1 and number % 10 < 2}
                await self._until_stored(app, recorder, f"{name}-{number}-{seq}", body, topic=bool(number % 2))
                await asyncio.sleep(pace)

        await asyncio.gather(*(one(number) for number in range(publishers)))

    async def _until_stored(self, app: Telex, recorder: Recorder, id: str, body: Body, *, topic: bool) -> None:
        fields = {"channel": "orders.placed" if topic else "jobs", "key": body["key"] if topic else None}
        while True:
            begun = recorder.begin(
                "publish", id=id, seq=body["seq"], digest=digest(msgspec.json.encode(body)), **fields
            )
            self.publishing += 1
            try:
                if topic:
                    await app.publish(self.topic, body, id=id)
                else:
                    await app.send(self.jobs, body, id=id)
            except PublishFailed:
                recorder.end(begun, "fail")
            except PublishUncertain:
                recorder.end(begun, "unknown")
            else:
                recorder.end(begun, "ok")
                self.acknowledged += 1
                return
            finally:
                self.publishing -= 1
            await asyncio.sleep(AGAIN)

    # -- faults and verdict -----------------------------------------------------------------------------------------

    @property
    def in_hand(self) -> int:
        """Publishes and handlers under way."""
        return self.publishing + self.running

    def fault(self, name: str) -> None:
        """Notes that something is done to the broker, and what is in hand meanwhile."""
        self.referee.note("fault", name=name, value=self.in_hand)

    def heal(self, name: str) -> None:
        """Notes that all is well again."""
        self.referee.note("heal", name=name)

    def has_stored(self, number: int) -> Callable[[], bool]:
        """Asks whether so many publishes have returned."""
        return lambda: self.acknowledged >= number

    @property
    def complete(self) -> bool:
        """Whether all that was to be published has been handled everywhere."""
        return len(self.handled) >= self._wanted

    async def left(self, app: Telex) -> int:
        """Messages that are still in their sources."""
        sources = [stats for stats in (await app.stats()).sources if stats.source in (BILLING, AUDIT, JOBS)]
        return sum((stats.ready or 0) + (stats.leased or 0) + (stats.retrying or 0) for stats in sources)

    async def judge(self, app: Telex, *, faults: Sequence[str], acknowledged: int, liveness: float = 30.0) -> Report:
        """Takes stock and judges; prints what there was to count.

        Raises:
            AssertionError: A promise is broken, or nothing was in hand when a fault fired.
        """
        for source in (BILLING, AUDIT, JOBS):
            async for letter in app.dead_letters(source):
                self.referee.note(
                    "letter", id=letter.message.id, source=letter.source, digest=digest(letter.message.body)
                )
        self.referee.note("queued", value=await self.left(app))
        expected = Expectations(
            sources=SOURCES,
            ordered=frozenset({BILLING} if self.ordered else ()),
            confirmed=app.features.settle_confirmed,
            copies=None if app.features.atomic else COPIES,
            acknowledged=acknowledged,
            faults=frozenset(faults),
            liveness=liveness,
        )
        events = read(sorted(self._folder.glob("*.jsonl")))
        report = check(events, expected)
        fired = [(event.name, int(event.value)) for event in events if event.op == "fault"]
        print(f"\n{report}\nin hand when the faults fired: {fired}")
        if report.violations:
            kept = shutil.copytree(self._folder, tempfile.mkdtemp(prefix="telex-history-"), dirs_exist_ok=True)
            print(f"the history of this run is kept in {kept}")
        first = [f"{violation.check}: {violation.text}" for violation in report.violations[:5]]
        assert not report.violations, f"{len(report.violations)} violations: {first}"
        assert all(value > 0 for _, value in fired), f"a fault fired while nothing was in hand: {fired}"
        assert report.dead == 0, f"{report.dead} messages are dead, and none should be"
        return report


def _key(body: Body) -> str:
    return str(body["key"])
