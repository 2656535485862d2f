"""Members: joining, being seen alive and dead, being woken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from telex.engines.embedded import members, schema
from telex.engines.embedded.members import Roster
from telex.engines.embedded.platform import Place

JOINER = """
import sys, time, apsw
from telex.engines.embedded import members
from telex.engines.embedded.platform import Place
db = apsw.Connection(sys.argv[1])
with db:
    member = members.join(db, Place(sys.argv[1]), "boot", 1, 10)
member.asleep = True
print(member.id, flush=True)
print(member.bell.wait(30), flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "telex.db"))


@pytest.fixture
def db(place: Place) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(place.path)
    with connection:
        schema.create(connection)
    yield connection
    connection.close()


def _join(db: apsw.Connection, place: Place | None, deadline: int = 10) -> members.Member:
    db.execute("BEGIN IMMEDIATE")
    member = members.join(db, place, "boot", 1, deadline)
    db.execute("COMMIT")
    return member


def _forget(db: apsw.Connection, id: int) -> None:
    db.execute("DELETE FROM member WHERE id = ?", (id,))


def test_numbers_are_never_used_again(db: apsw.Connection, place: Place) -> None:
    first = _join(db, place)
    _forget(db, first.id)
    first.close()
    second = _join(db, place)
    assert second.id > first.id
    second.close()


@pytest.mark.parametrize("portable", [False, True])
def test_who_closes_is_dead_and_can_be_cleaned(db: apsw.Connection, place: Place, portable: bool) -> None:
    place = Place(place.path, portable=portable)
    me, other = _join(db, place), _join(db, place)
    roster = Roster(place, me.id)
    roster.refresh(db)
    assert roster.dead() == []
    other.close()
    assert roster.dead() == [other.id]
    _forget(db, other.id)
    roster.clean(other.id)
    roster.refresh(db)
    assert roster.dead() == []
    me.close()
    roster.close()
    assert os.listdir(place.members) == []


def test_only_sleepers_are_rung_for(db: apsw.Connection, place: Place) -> None:
    me, other = _join(db, place), _join(db, place)
    roster = Roster(place, me.id)
    roster.refresh(db)
    assert roster.ring(me.bell) == 0
    assert not other.bell.wait(0)
    other.asleep = True
    assert other.asleep
    assert roster.ring(me.bell) == 1
    assert other.bell.wait(1)
    other.asleep = False
    assert roster.ring(me.bell) == 0
    for thing in (me, other, roster):
        thing.close()


def test_another_process_is_woken_and_its_death_is_seen(db: apsw.Connection, place: Place) -> None:
    me = _join(db, place)
    roster = Roster(place, me.id)
    with subprocess.Popen([sys.executable, "-c", JOINER, place.path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        id = int(process.stdout.readline())
        roster.refresh(db)
        assert roster.dead() == []
        assert roster.ring(me.bell) == 1
        assert process.stdout.readline() == "True\n"
        process.kill()
    assert roster.dead() == [id]
    assert roster.ring(me.bell) == 1  # Nobody hears it; no error.
    me.close()
    roster.close()


def test_the_portable_form_rings_nobody(db: apsw.Connection, place: Place) -> None:
    portable = Place(place.path, portable=True)
    me, other = _join(db, portable), _join(db, portable)
    roster = Roster(portable, me.id)
    roster.refresh(db)
    other.asleep = True
    assert roster.ring(me.bell) == 0
    assert other.bell.interval <= 0.1  # So it looks for itself.
    for thing in (me, other, roster):
        thing.close()


def test_renewal_tells_who_was_forgotten(db: apsw.Connection, place: Place) -> None:
    me = _join(db, place, 100)
    assert members.renew(db, me, 2, 200)
    assert next(db.execute("SELECT seen, deadline FROM member")) == (2, 200)
    _forget(db, me.id)
    assert not members.renew(db, me, 2, 300)
    me.close()


def test_a_store_in_memory_has_nobody_to_ring(db: apsw.Connection) -> None:
    me, other = _join(db, None), _join(db, None)
    roster = Roster(None, me.id)
    roster.refresh(db)
    assert roster.dead() == []
    assert roster.ring(me.bell) == 0
    me.bell.ring()
    assert me.bell.wait(0)
    roster.clean(other.id)
    me.close()
    other.close()


def test_a_failed_join_leaves_no_lock(db: apsw.Connection, place: Place) -> None:
    db.execute("DROP TABLE member")
    with pytest.raises(apsw.SQLError):
        _join(db, place)
    assert os.listdir(place.members) == []
