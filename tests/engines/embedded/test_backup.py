"""Backups: whole, private, never over another file."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import apsw
import pytest

from telex.engines.embedded import backup as module
from telex.engines.embedded import files
from telex.engines.embedded.backup import backup
from telex.errors import ConfigError, StoreDamaged

from .kit import Kit


def _filled(path: Path) -> Kit:
    files.connect(files.locate(str(path))).close()
    kit = Kit(str(path))
    (stream,) = kit.channel("t")
    kit.put(stream, *"abc")
    return kit


def test_a_backup_is_a_store(tmp_path: Path) -> None:
    kit = _filled(tmp_path / "telex.db")
    size = backup(str(tmp_path / "telex.db"), str(tmp_path / "copy.db"))
    assert size == os.stat(tmp_path / "copy.db").st_size
    assert stat.S_IMODE(os.stat(tmp_path / "copy.db").st_mode) == 0o600
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("copy")) == ["copy.db"]
    copy = files.connect(files.locate(str(tmp_path / "copy.db")))
    assert list(copy.execute("SELECT * FROM log")) == kit.all("SELECT * FROM log")
    copy.close()


def test_it_does_not_see_what_is_not_committed_nor_wait_for_it(tmp_path: Path) -> None:
    kit = _filled(tmp_path / "telex.db")
    kit.db.execute("BEGIN IMMEDIATE")
    kit.db.execute("DELETE FROM log")
    worker = threading.Thread(target=backup, args=(str(tmp_path / "telex.db"), str(tmp_path / "copy.db")))
    worker.start()
    worker.join(10)
    assert not worker.is_alive()
    kit.db.execute("ROLLBACK")
    copy = apsw.Connection(str(tmp_path / "copy.db"))
    assert next(copy.execute("SELECT count(*) FROM log")) == (1,)
    copy.close()


def test_memory_is_copied_within_a_transaction(tmp_path: Path) -> None:
    kit = Kit()
    kit.channel("t")
    with kit.write() as db:
        backup(db, str(tmp_path / "copy.db"))
    copy = files.connect(files.locate(str(tmp_path / "copy.db")))
    assert next(copy.execute("SELECT name FROM channel")) == ("t",)
    copy.close()


def test_an_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    _filled(tmp_path / "telex.db")
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(ConfigError, match="never overwrites"):
        backup(str(tmp_path / "telex.db"), str(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db").read_text() == "precious"
    (tmp_path / "link.db").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError):
        backup(str(tmp_path / "telex.db"), str(tmp_path / "link.db"))


def test_a_file_that_appears_meanwhile_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(tmp_path / "telex.db")
    real = module._copy

    def copy(source: str | apsw.Connection, partial: str) -> None:
        real(source, partial)
        (tmp_path / "copy.db").write_text("precious")

    monkeypatch.setattr(module, "_copy", copy)
    with pytest.raises(ConfigError, match="exists already"):
        backup(str(tmp_path / "telex.db"), str(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_missing_directory(tmp_path: Path) -> None:
    _filled(tmp_path / "telex.db")
    with pytest.raises(ConfigError, match="does not exist"):
        backup(str(tmp_path / "telex.db"), str(tmp_path / "none" / "copy.db"))


def test_damage_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    kit = _filled(tmp_path / "telex.db")
    (page,) = kit.one("SELECT rootpage FROM sqlite_master WHERE name = 'log'")
    kit.db.close()
    with open(tmp_path / "telex.db", "r+b") as file:
        file.seek((int(str(page)) - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StoreDamaged):
        backup(str(tmp_path / "telex.db"), str(tmp_path / "copy.db"))
    assert not any(name.startswith("copy") for name in os.listdir(tmp_path))
