"""One transaction, and what is done when it fails: all of its work, then less of it, then each part by itself."""

from __future__ import annotations

import contextlib
import logging

import apsw

from ...engine import Stored
from ...errors import Disconnected, PublishFailed, PublishUncertain, TelexError
from ...events import STORE_FAILING, STORE_RECOVERED, line, qualified, wait
from .collect import Outcome
from .files import Watch, explain
from .jobs import apart, divisible, freeing, reduced
from .logs import UNHEARD
from .settle import answer
from .store import Store
from .wal import Wal
from .work import Done, Publish, Settle, Work

log = logging.getLogger("telex.embedded")

LOOK = 1.0
"""Seconds between two looks at whether the file is still the one that was opened, and between tries while it fails."""


class Committer:
    """Commits work to the store. Belongs to the writer's thread.

    Args:
        store: The store.
        watch: Whether its file is still there; None in memory.
        sync: As in `Embedded`.
    """

    def __init__(self, store: Store, watch: Watch | None, sync: str) -> None:
        self._store = store
        self._watch = watch
        self._sync = sync
        self._wal = Wal(store.db)
        self._flushes: bool | None = None
        self._next_watch = 0.0

    def transact(self, work: Work) -> Done:
        """Commits the work; if that fails, all but the publishes, so that a full disk never stops what empties it."""
        try:
            return self._attempt(work)
        except _InCommit as failure:
            error = self.report(failure.cause)
            outcome: Outcome = (Stored.UNCERTAIN, PublishUncertain(str(error)))
        except Exception as failure:
            if divisible(work) and not isinstance(failure, apsw.Error | TelexError):
                return self._apart(work)
            error = self.report(failure)
            outcome = (Stored.NO, PublishFailed(str(error)))
        for publish in work.publishes:
            publish.outcomes = [outcome] * len(publish.batch)
        for rest in reduced(work):
            try:
                return self._attempt(rest)
            except Exception as failure:
                cause = failure.cause if isinstance(failure, _InCommit) else failure
                error = self.report(cause)
        return self._fail(work, error)

    def _fail(self, work: Work, error: TelexError) -> Done:
        """Nothing of the work is done, but for what needs no room: accepted messages leave even a full store."""
        easy = [freeing(settle) for settle in work.settles]
        done = Done()
        if any(one.batch for one in easy):
            with contextlib.suppress(Exception):
                done = self._attempt(Work((), easy, claim=False))
        for settle in work.settles:
            settle.answers = [answer(settlement) for settlement in settle.batch]
        for call in work.calls:
            call.error = error
        return done

    def _apart(self, work: Work) -> Done:
        """Commits each part by itself: one value that cannot be written down must not fail the others."""
        whole = Done()
        parts = apart(work)
        if len(parts) > 1:
            for part in parts:
                whole.add(self.transact(part))
            return whole
        for publish in work.publishes:
            stored = [Publish([outgoing], publish.quick) for outgoing in publish.batch]
            for one in stored:
                whole.add(self.transact(Work([one])))
            publish.outcomes = [one.outcomes[0] for one in stored]
        for settle in work.settles:
            for settlement in settle.batch:
                whole.add(self.transact(Work((), [Settle([settlement], settle.quick)])))
            settle.answers = [answer(settlement) for settlement in settle.batch]
        return whole

    def _attempt(self, work: Work) -> Done:
        try:
            done = self._commit(work)
        except Exception as failure:
            for call in work.calls:
                if call.undo is not None:
                    call.undo()
            self._wal.failed(failure.cause if isinstance(failure, _InCommit) else failure)
            with contextlib.suppress(apsw.Error, Disconnected):
                self._wal.mend()
                if isinstance(failure, apsw.FullError):
                    self._tidy(now=True)
                    self._store.measure()
            raise
        self._tidy(now=self._store.pressed)
        return done

    def _tidy(self, *, now: bool) -> None:
        """Moves the log, now and then, and always when room is short."""
        try:
            self._wal.tidy(now=now)
        except apsw.BusyError:
            return  # Another process does it.
        except apsw.Error as error:
            if "log" not in self._store.problems:
                text = f"the write-ahead log cannot be moved into the store: {error}"
                with UNHEARD:
                    STORE_FAILING.log(log, "%s", text, error=qualified(error))
            self._store.problems["log"] = f"the write-ahead log cannot be moved into the store: {error}"
        else:
            self._store.problems.pop("log", None)

    def _commit(self, work: Work) -> Done:
        store = self._store
        self._check_file()
        self._wal.mend()
        self._flush(work)
        store.db.execute("BEGIN IMMEDIATE")
        try:
            done = store.run(work)
        except BaseException:
            self._roll_back()
            raise
        try:
            store.db.execute("COMMIT")
        except apsw.FullError:
            self._roll_back()
            raise
        except apsw.Error as error:
            self._roll_back()
            raise _InCommit(error) from error
        try:
            store.commit(work)
        except Exception as failure:  # It is stored, whatever failed here: done again, it would be there twice.
            self.report(failure)
            return done
        if store.problems.pop("store", None) is not None:
            with UNHEARD:
                STORE_RECOVERED.log(log, "the store works again")
        return done

    def _roll_back(self) -> None:
        if self._store.db.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._store.db.execute("ROLLBACK")
        with contextlib.suppress(apsw.Error):
            self._store.roll_back()

    def _flush(self, work: Work) -> None:
        """Whether the commit waits for the disk."""
        flushes = self._sync == "full" and not work.quick
        if flushes is not self._flushes:
            self._flushes = flushes
            self._store.db.execute(f"PRAGMA synchronous={'FULL' if flushes else 'NORMAL'}")

    def _check_file(self) -> None:
        now = self._store.clock.monotonic()
        if self._watch is not None and now >= self._next_watch:
            self._watch.check()
            self._next_watch = now + LOOK

    def report(self, failure: BaseException) -> TelexError:
        """Remembers and logs what is wrong."""
        if isinstance(failure, apsw.Error):
            error: TelexError = explain(failure, self._store.db.filename or "memory")
        elif isinstance(failure, TelexError):
            error = failure
        else:
            error = Disconnected(f"the store failed: {type(failure).__name__}: {failure}")
        known, self._store.problems["store"] = self._store.problems.get("store"), str(error)
        if known != str(error):
            with UNHEARD:
                STORE_FAILING.log(
                    log,
                    "%s; publishers get this error and outcomes wait; tried again at once, and every %s while it fails",
                    line(error),
                    wait(LOOK),
                    exc_info=None if isinstance(failure, apsw.Error | TelexError) else failure,
                    error=qualified(error),
                )
        return error


class _InCommit(Exception):
    """The commit itself failed: nobody knows whether it is on the disk."""

    def __init__(self, cause: apsw.Error) -> None:
        super().__init__(str(cause))
        self.cause = cause
