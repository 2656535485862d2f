"""The one thread of a process that touches the store: takes what is asked for, does it in one commit, answers.

While one commit is under way the next one gathers, so that many publishers share each flush of the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

import apsw

from ...engine import Fetched, Outgoing, Settled, Settlement, Stored
from ...errors import Closed, PublishFailed, PublishUncertain, TelexError
from .broadcast import Listener
from .collect import Outcome
from .committer import LOOK, Committer
from .files import Watch
from .inbox import Inbox
from .jobs import Job, together
from .leases import Holder, Lease
from .platform import Bell, FileLock
from .store import Store
from .work import Call, Done, Publish, Settle

T = TypeVar("T")
LEAVE = 4.0
"""Seconds for which the end waits for the other writers, when no publish is under way."""


class Sink(Protocol):
    """Where deliveries go."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def arrived(self, given: Sequence[Fetched]) -> None:
        """Takes deliveries, on its loop."""
        ...

    def lost(self, leases: Sequence[object]) -> None:
        """Is told what is somebody else's, on the writer's thread."""
        ...


class Writer:
    """The writer's thread. Its methods are called from any loop; only they and the thread share state."""

    def __init__(self, name: str, opener: Callable[[], tuple[Store, FileLock | None, Watch | None]], sync: str) -> None:
        self._open = opener
        self._sync = sync
        self._queue: deque[Job] = deque()
        self._bell: Bell | None = None
        self._idle = False
        self._poked = False
        self._closing = False
        self._over = False
        self._jobs: list[Job] = []
        """What the cycle under way is to answer."""
        self._version = -1
        self._opened: Future[Store] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name=f"telex-writer {name}", daemon=True)
        self.sinks: dict[object, Sink] = {}
        self._starting = threading.Lock()
        self._started = False

    # -- called from loops ------------------------------------------------------------------------------------------

    async def start(self) -> Store:
        """Opens the store on the thread."""
        with self._starting:
            if not self._started:
                self._started = True
                self._thread.start()
        return await asyncio.shield(asyncio.wrap_future(self._opened))

    async def publish(self, batch: Sequence[Outgoing], *, quick: bool, wait: float) -> Sequence[Outcome]:
        """Stores messages, within ``wait`` seconds or not at all if nothing was begun by then."""
        loop = asyncio.get_running_loop()
        job = Job(Publish(batch, quick), loop)
        timer = loop.call_later(max(0.0, wait), self._too_late, job)
        self._put(job)
        try:
            outcomes: Sequence[Outcome] = await job.future
            return outcomes
        finally:
            timer.cancel()

    async def settle(
        self, batch: Sequence[Settlement], *, quick: bool, answered: Callable[[], None] | None = None
    ) -> Sequence[Settled]:
        """Carries out decisions; ``answered`` is called before anything that was handed out afterwards arrives."""
        job = Job(Settle(batch, quick), asyncio.get_running_loop(), answered)
        self._put(job)
        answers: Sequence[Settled] = await job.future
        return answers

    async def call(self, function: Callable[[apsw.Connection], T], undo: Callable[[], None] | None = None) -> T:
        """Runs a function in a write transaction on the thread; ``undo`` if that is rolled back afterwards.

        Raises:
            Exception: What the function raised; its own writes are rolled back.
            Disconnected: The transaction failed.
        """
        job = Job(Call(function, undo), asyncio.get_running_loop())
        self._put(job)
        result: T = await job.future
        return result

    def poke(self) -> None:
        """Lets the thread look again: a consumer wants more, or time was moved."""
        self._poked = True
        self._wake()

    def end(self) -> None:
        """Lets the thread end by itself after what was asked for. Idempotent."""
        self._closing = True
        self._wake()

    async def close(self, wait: float) -> None:
        """Ends the thread after what was asked for; idempotent. Waits at most ``wait`` seconds, and for publishes only:
        whatever else a held lock stops now is given back by who finds us gone."""
        self.end()
        if not any(isinstance(job.work, Publish) for job in list(self._queue)):  # The thread takes from it meanwhile.
            wait = min(wait, LEAVE)
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._ended)), wait)

    def _put(self, job: Job) -> None:
        if self._closing:
            raise Closed("the store is closed")
        self._queue.append(job)
        if self._over:  # The thread ended in between, and may have looked before this was there.
            self._turn_away()
        self._wake()

    def _wake(self) -> None:
        if self._idle and self._bell is not None:
            self._bell.ring()

    def _turn_away(self) -> None:
        """Answers what the thread will not take any more; from any thread."""
        while True:
            try:
                job = self._queue.popleft()
            except IndexError:
                return
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits there any more.
                job.loop.call_soon_threadsafe(_refuse, job)

    def _too_late(self, job: Job) -> None:
        """The order matters: the thread sets `taken` and then looks at `cancelled`."""
        job.cancelled = True
        if job.future.done():
            return
        assert isinstance(job.work, Publish)
        if job.taken:
            error: Exception = PublishUncertain("the disk did not answer in time")
            job.future.set_result([(Stored.UNCERTAIN, error)] * len(job.work.batch))
        else:
            error = PublishFailed("the store was busy until the deadline; nothing was written")
            job.future.set_result([(Stored.NO, error)] * len(job.work.batch))

    # -- the thread -------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._store, self._lock, watch = self._open()
        except BaseException as error:
            self._opened.set_exception(error)
            self._ended.set_result(None)
            return
        self._bell = self._store.member.bell
        self._committer = Committer(self._store, watch, self._sync)
        self._opened.set_result(self._store)
        try:
            self._run()
        except BaseException as failure:
            self._committer.report(failure)
            raise
        finally:
            self._end()

    def _run(self) -> None:
        """Cycles until it is closed; goes on after a failure, since whoever waits for it would wait for ever."""
        again = True
        while not self._closing or self._queue:
            try:
                if again or self._sleep():
                    again = self._cycle()
            except Exception as failure:
                self._give_up(self._committer.report(failure))
                if self._closing:
                    return
                again = False
                self._store.member.bell.wait(LOOK)

    def _sleep(self) -> bool:
        """Waits for something to do; whether there is. Flag, look, sleep: in this order nothing is missed."""
        store, bell = self._store, self._store.member.bell
        self._idle = True
        store.member.asleep = True
        try:
            if self._has_work():
                return True
            rest = store.rest()
            if "store" in store.problems:  # What just failed would fail again at once, as fast as it can.
                rest = max(rest, LOOK)
            if rest > 0:
                bell.wait(min(rest, bell.interval))
            return self._has_work() or store.suspects or store.rest() <= 0
        except apsw.Error as error:
            self._committer.report(error)
            bell.wait(LOOK)
            return True
        finally:
            self._idle = False
            store.member.asleep = False

    def _has_work(self) -> bool:
        if self._queue or self._poked or self._closing:
            return True
        version = int(str(self._store.db.pragma("data_version")))
        changed, self._version = version != self._version, version
        return changed

    def _cycle(self) -> bool:
        """One commit; whether another should follow at once."""
        if self._lock is not None:
            self._lock.acquire()
        try:
            self._poked = False
            self._jobs = self._take()
            done = self._committer.transact(together(self._jobs))
        finally:
            if self._lock is not None:
                self._lock.release()
        if done.wrote:
            self._store.roster.ring(self._store.member.bell)
        jobs, self._jobs = self._jobs, []
        self._answer(jobs, done)
        return done.again

    def _give_up(self, error: TelexError) -> None:
        """Answers a cycle that failed where none should: what became of it is not known, but nobody waits for ever."""
        jobs, self._jobs = self._jobs, []
        work = together(jobs)
        for publish in work.publishes:
            publish.outcomes = [(Stored.UNCERTAIN, PublishUncertain(str(error)))] * len(publish.batch)
        for settle in work.settles:
            settle.answers = [Settled.FAILED] * len(settle.batch)
        for call in work.calls:
            call.error = error
        self._answer(jobs, Done())

    def _take(self) -> list[Job]:
        jobs = []
        while self._queue:
            job = self._queue.popleft()
            job.taken = True
            if not job.cancelled:
                jobs.append(job)
        return jobs

    def _answer(self, jobs: Sequence[Job], done: Done) -> None:
        """Tells each loop, once, all that concerns it: answers first, since deliveries may follow from them."""
        answers: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            answers.setdefault(job.loop, []).append(job)
        given: dict[asyncio.AbstractEventLoop, list[tuple[Sink, Sequence[Fetched]]]] = {}
        for owner, fetched in [*done.given, *_passed_on(self._store)]:
            sink = self.sinks.get(owner)
            if sink is not None:
                given.setdefault(sink.loop, []).append((sink, fetched))
        for loop in answers.keys() | given.keys():
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits there any more.
                loop.call_soon_threadsafe(_deliver, answers.get(loop, ()), given.get(loop, ()))
        lost: dict[Holder, list[Lease]] = {}
        for lease in done.lost:
            lost.setdefault(lease.holder, []).append(lease)
        for holder, leases in lost.items():
            sink = self.sinks.get(holder)
            if sink is not None:
                with contextlib.suppress(RuntimeError):  # As above.
                    sink.lost(leases)

    def _end(self) -> None:
        store = self._store
        self._closing = self._over = True
        try:
            self._give_up(Closed("the store is closed"))
            self._turn_away()
            with contextlib.suppress(apsw.Error):
                store.leave(self._lock)
            store.roster.close()
            store.member.close()
            with contextlib.suppress(apsw.Error):
                store.db.close()
                if store.file is not None:
                    store.file.close()
            if self._lock is not None:
                self._lock.close()
        finally:
            self._ended.set_result(None)


def _passed_on(store: Store) -> list[tuple[object, list[Fetched]]]:
    """Replies and broadcasts: nothing of them is leased, so that the message stands for its lease."""
    passed: list[tuple[object, list[Fetched]]] = []
    readers: list[Inbox | Listener] = [*store.inboxes.values(), *store.listeners]
    for reader in readers:
        messages = reader.take()
        if messages:
            passed.append((reader, [Fetched(message, message) for message in messages]))
    return passed


def _refuse(job: Job) -> None:
    if not job.future.done():
        job.future.set_exception(Closed("the store is closed"))


def _deliver(jobs: Sequence[Job], given: Sequence[tuple[Sink, Sequence[Fetched]]]) -> None:
    for job in jobs:
        if job.answered is not None:
            job.answered()
        if job.future.done():
            continue
        work = job.work
        if isinstance(work, Publish):
            job.future.set_result(work.outcomes)
        elif isinstance(work, Settle):
            job.future.set_result(work.answers)
        elif work.error is not None:
            job.future.set_exception(work.error)
        else:
            job.future.set_result(work.result)
    for sink, fetched in given:
        sink.arrived(fetched)
