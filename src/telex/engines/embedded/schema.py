"""The tables of the store, and how an older store becomes a newer one.

Units: instants are wall-clock microseconds since 1970; deadlines are monotonic microseconds of one boot.
A position is ``stream.no << 40 | sequence``, so that the rows of one stream lie together in ``log`` and ``item``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import apsw

from ...errors import StoreDamaged
from .rows import rows as fetch

APPLICATION_ID = 0x54454C58
"""``TELX``: how a store is told from any other SQLite file."""
VERSION = 1
SEQUENCE_BITS = 40
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1

TABLES = """
CREATE TABLE channel(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, ordered INT NOT NULL,
                     lanes INT NOT NULL, history INT);
-- A negative channel is a source: its private stream, for messages that go to it alone.
-- AUTOINCREMENT: a number never comes again, since other processes may still remember what had it.
CREATE TABLE stream (no INTEGER PRIMARY KEY AUTOINCREMENT, channel INT NOT NULL, lane INT NOT NULL,
                     next INT NOT NULL DEFAULT 0, UNIQUE(channel, lane));
-- A run: the messages of one commit for one stream, see frame.py.
CREATE TABLE log    (pos INTEGER PRIMARY KEY, count INT NOT NULL, at INT NOT NULL, data BLOB NOT NULL);
CREATE TABLE source (id INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL DEFAULT '', pattern TEXT NOT NULL,
                     kind TEXT NOT NULL, ordered INT NOT NULL, UNIQUE(grp, pattern));
-- owner, epoch and lost belong to the lane lease of ordered sources.
CREATE TABLE cursor (source INT, stream INT, next INT NOT NULL, owner INT, epoch INT NOT NULL DEFAULT 0,
                     lost INT NOT NULL DEFAULT 0, PRIMARY KEY(source, stream)) WITHOUT ROWID;
CREATE INDEX cursor_floor ON cursor(stream, next);
-- A claimed range. No owner: a slice of the past that waits to be handed out again. loose: it was one, so that the
-- order of an ordered source does not hold for it. done: a bit for each settled message.
CREATE TABLE span   (source INT, stream INT, first INT, count INT NOT NULL, done BLOB, owner INT, token INT,
                     loose INT NOT NULL DEFAULT 0, PRIMARY KEY(source, stream, first)) WITHOUT ROWID;
CREATE INDEX span_floor ON span(stream, first);
CREATE INDEX span_owner ON span(owner);
-- An exception: one message that is not simply behind a cursor or in a span. An owner: it is leased.
-- state, leased or not: wait (handed out when due) | trial (the same, one at a time in each process) | parked (in the
-- lane of an ordered source, whose owner hands it out; due NULL: behind another of its key).
-- errors: a JSON list of texts, oldest first.
CREATE TABLE item   (source INT, pos INT, key TEXT, state TEXT NOT NULL, due INT, failures INT NOT NULL DEFAULT 0,
                     losses INT NOT NULL DEFAULT 0, trial INT, owner INT, token INT, redrives INT NOT NULL DEFAULT 0,
                     errors TEXT, PRIMARY KEY(source, pos)) WITHOUT ROWID;
CREATE INDEX item_due ON item(source, state, due);
CREATE INDEX item_pos ON item(pos);
CREATE INDEX item_owner ON item(owner) WHERE owner IS NOT NULL;
CREATE TABLE later  (no INTEGER PRIMARY KEY, due INT NOT NULL, channel INT NOT NULL, frame BLOB NOT NULL);
CREATE INDEX later_due ON later(due);
-- text: one line for people. errors: as in item.
CREATE TABLE dead   (no INTEGER PRIMARY KEY, source INT NOT NULL, id TEXT NOT NULL, key TEXT, reason TEXT NOT NULL,
                     text TEXT NOT NULL, cause TEXT NOT NULL, at INT NOT NULL, failures INT NOT NULL,
                     redrives INT NOT NULL, errors TEXT, frame BLOB NOT NULL);
CREATE INDEX dead_source ON dead(source, no);
CREATE INDEX dead_cause ON dead(source, cause, at);
CREATE TABLE inbox  (no INTEGER PRIMARY KEY, address TEXT NOT NULL, expires INT NOT NULL, frame BLOB NOT NULL);
CREATE INDEX inbox_address ON inbox(address);
CREATE INDEX inbox_expires ON inbox(expires);
-- A process that has the store open. A free lock file means dead; deadline is for those that are stopped.
CREATE TABLE member (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, bell TEXT, seen INT NOT NULL,
                     deadline INT NOT NULL DEFAULT 0);
-- A consumer of a source in a member: the owner of spans, items and lanes. stopping: it takes no lanes any more.
CREATE TABLE consumer(id INTEGER PRIMARY KEY AUTOINCREMENT, member INT NOT NULL, source INT NOT NULL,
                      stopping INT NOT NULL DEFAULT 0);
CREATE INDEX consumer_source ON consumer(source);
CREATE TABLE meta   (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
INSERT INTO meta VALUES ('topology', 1);
"""

Migration = Callable[[apsw.Connection], None]
MIGRATIONS: Mapping[int, Migration] = {}
"""From version n to n + 1, each in the transaction that also writes the new version."""


def create(db: apsw.Connection) -> None:
    """Makes the tables in an empty file, or brings an older store up to date. Inside a write transaction.

    Raises:
        StoreDamaged: The file belongs to another program, or to a newer Telex.
    """
    application, version = db.pragma("application_id"), db.pragma("user_version")
    if application == 0 and version == 0 and not _has_tables(db):
        db.execute(TABLES)
        db.execute(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION}")
        return
    if application != APPLICATION_ID:
        raise StoreDamaged("the file is a SQLite database of another program, not a Telex store: choose another path")
    migrate(db, version, VERSION, MIGRATIONS)


def migrate(db: apsw.Connection, version: int, target: int, migrations: Mapping[int, Migration]) -> None:
    """Brings a store from ``version`` to ``target``, step by step.

    Raises:
        StoreDamaged: It is newer than ``target``, or there is no way from its version.
    """
    if version > target:
        raise StoreDamaged(
            f"the store has schema version {version} and this Telex knows {target}: install a newer Telex"
        )
    for step in range(version, target):
        if step not in migrations:
            raise StoreDamaged(f"the store has schema version {version}, from which there is no way to {target}")
        migrations[step](db)
        db.execute(f"PRAGMA user_version={step + 1}")


def _has_tables(db: apsw.Connection) -> bool:
    return bool(fetch(db.execute("SELECT 1 FROM sqlite_master LIMIT 1")))
