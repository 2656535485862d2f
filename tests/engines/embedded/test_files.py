"""Opening a store: each thing that is wrong has its own error, and nothing foreign is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import apsw
import pytest

from telex.engines.embedded import files, schema
from telex.engines.embedded.files import Watch
from telex.errors import AccessDenied, ConfigError, Disconnected, StoreDamaged, Unsupported


def _open(path: Path) -> apsw.Connection:
    return files.connect(files.locate(str(path)))


def _store(path: Path) -> apsw.Connection:
    db = _open(path)
    with db:
        schema.create(db)
    return db


def _mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_store_is_private_with_all_its_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        db = _store(tmp_path / "telex.db")
    finally:
        os.umask(before)
    for name in ("telex.db", "telex.db-wal", "telex.db-shm"):
        assert _mode(str(tmp_path / name)) == 0o600, name
    assert db.pragma("journal_mode") == "wal"
    db.close()


def test_it_opens_again_and_by_any_name(tmp_path: Path) -> None:
    _store(tmp_path / "telex.db").close()
    (tmp_path / "link.db").symlink_to(tmp_path / "telex.db")
    place = files.locate(str(tmp_path / "link.db"))
    assert place == files.locate(str(tmp_path / "telex.db"))
    files.connect(place).close()


def test_an_empty_file_becomes_a_private_store(tmp_path: Path) -> None:
    (tmp_path / "telex.db").touch(0o644)
    _store(tmp_path / "telex.db").close()
    assert _mode(str(tmp_path / "telex.db")) == 0o600


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none does not exist: create it"):
        files.locate(str(tmp_path / "none" / "telex.db"))
    assert not (tmp_path / "none").exists()


def test_a_directory_and_a_device_are_no_stores(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        files.locate(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        files.locate(str(tmp_path / "pipe"))


def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telex.engines.embedded.mounts._mounts", lambda: [("/", "nfs4")])
    with pytest.raises(Unsupported, match=r"nfs4.*Instead: put the file on a local disk"):
        files.locate(str(tmp_path / "telex.db"))
    assert os.listdir(tmp_path) == []


def test_a_file_that_everybody_may_write(tmp_path: Path) -> None:
    _store(tmp_path / "telex.db").close()
    os.chmod(tmp_path / "telex.db", 0o602)
    with pytest.raises(AccessDenied, match=r"mode 602.*chmod o-w"):
        files.locate(str(tmp_path / "telex.db"))


def test_another_users_file_unless_it_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "telex.db"
    _store(path).close()
    owner = os.stat(path).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(AccessDenied, match=rf"belongs to user {owner} and this is user {owner + 1}"):
        files.locate(str(path))
    os.chmod(path, 0o660)
    assert files.locate(str(path)).mode == 0o660


def test_rights_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "telex.db"
    _store(path).close()
    real = os.access
    monkeypatch.setattr(os, "supports_effective_ids", set())
    monkeypatch.setattr(os, "access", lambda name, mode, **more: name != str(path) and real(name, mode, **more))
    with pytest.raises(AccessDenied, match=r"telex.db \(mode 600\) cannot be written"):
        files.locate(str(path))
    monkeypatch.setattr(os, "access", lambda name, mode, **more: name != str(tmp_path) and real(name, mode, **more))
    with pytest.raises(AccessDenied, match="SQLite keeps its journal there"):
        files.locate(str(path))


def test_creating_where_one_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> int:
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDenied, match="cannot be created"):
        files.locate(str(tmp_path / "telex.db"))


def test_a_full_disk_at_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Disconnected, match="No space left"):
        files.locate(str(tmp_path / "telex.db"))


def test_a_file_that_is_not_sqlites_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"dear diary, " * 1000)
    with pytest.raises(StoreDamaged, match="not a SQLite database"):
        _open(path)
    assert path.read_bytes() == b"dear diary, " * 1000
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("application", [0, 12345])
def test_another_programs_database_is_not_touched(tmp_path: Path, application: int) -> None:
    path = tmp_path / "app.db"
    other = apsw.Connection(str(path))
    other.execute(f"CREATE TABLE users(name); PRAGMA application_id = {application}")
    other.close()
    content = path.read_bytes()
    with pytest.raises(StoreDamaged, match=rf"another program \(application id {application}\)"):
        _open(path)
    assert path.read_bytes() == content


def test_a_newer_version(tmp_path: Path) -> None:
    db = _store(tmp_path / "telex.db")
    db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    with pytest.raises(StoreDamaged, match="newer Telex"):
        _open(tmp_path / "telex.db")


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "telex.db"
    db = _store(path)
    db.execute("INSERT INTO log VALUES (1, 1, 1, zeroblob(1000000))")
    db.close()
    os.truncate(path, os.stat(path).st_size - 500_000)
    with pytest.raises(StoreDamaged, match=r"cut short|damaged"):
        _open(path)


def test_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "telex.db"
    db = _store(path)
    db.executemany("INSERT INTO inbox(address, expires, frame) VALUES ('a', 1, zeroblob(500))", [()] * 500)
    (page,) = next(db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'inbox'"))
    db.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StoreDamaged, match=r"damaged.*restore a backup"):
        _open(path)


def test_a_store_that_is_in_use_is_not_called_cut_short(tmp_path: Path) -> None:
    db = _store(tmp_path / "telex.db")
    db.execute("INSERT INTO log VALUES (1, 1, 1, zeroblob(1000000))")  # Lies in the write-ahead log only.
    _open(tmp_path / "telex.db").close()
    db.close()


def test_opening_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    """Closing any descriptor of the file would end SQLite's locks: a second process could then write into ours."""
    path = tmp_path / "telex.db"
    db = _store(path)
    db.execute("BEGIN IMMEDIATE")
    files.locate(str(path))
    Watch.begin(str(path)).check()
    child = os.fork()
    if child == 0:
        other = apsw.Connection(str(path))
        try:
            other.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    db.execute("ROLLBACK")
    db.close()


@pytest.mark.parametrize("name", ["telex.db", "telex.db-wal"])
def test_a_file_that_is_deleted_or_replaced_is_noticed(tmp_path: Path, name: str) -> None:
    db = _store(tmp_path / "telex.db")
    watch = Watch.begin(str(tmp_path / "telex.db"))
    watch.check()
    db.execute("INSERT INTO log VALUES (1, 1, 1, zeroblob(1000000))")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    watch.check()  # Growing and shrinking is no harm.
    os.rename(tmp_path / name, tmp_path / "away")
    with pytest.raises(StoreDamaged, match=rf"{name} was deleted while it was open"):
        watch.check()
    (tmp_path / name).write_bytes((tmp_path / "away").read_bytes())
    with pytest.raises(StoreDamaged, match=rf"{name} was replaced by another file"):
        watch.check()
    os.replace(tmp_path / "away", tmp_path / name)
    watch.check()
    db.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (apsw.NotADBError, StoreDamaged),
        (apsw.CorruptError, StoreDamaged),
        (apsw.ReadOnlyError, AccessDenied),
        (apsw.CantOpenError, AccessDenied),
        (apsw.FullError, Disconnected),
        (apsw.BusyError, Disconnected),
        (apsw.IOError, Disconnected),
    ],
)
def test_each_of_sqlites_errors_becomes_ours(error: type[apsw.Error], kind: type[Exception]) -> None:
    ours = files.explain(error("why"), "telex.db")
    assert type(ours) is kind
    assert "telex.db" in str(ours)
