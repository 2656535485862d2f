"""Opening a store that somebody else writes to."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random

import apsw
import pytest

from telex.clock import SystemClock
from telex.engines import Embedded
from telex.engines.embedded import files, opening
from telex.errors import Disconnected

from .running import held, use


def test_a_store_that_another_program_locks_is_said_to_be_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person in a transaction of the sqlite3 shell: no error of SQLite's own reaches the application."""
    url = str(tmp_path / "telex.db")

    async def nothing(engine: object) -> None: ...

    use(url, nothing)
    shell = apsw.Connection(url)
    shell.execute("BEGIN IMMEDIATE")

    async def main() -> None:
        engine = Embedded().engine(url, app="test", clock=SystemClock(), random=Random(1))
        with pytest.raises(Disconnected):
            await engine.open(time.monotonic() + 20)

    monkeypatch.setattr(files, "BUSY_MS", 50)
    asyncio.run(main())
    shell.execute("ROLLBACK")
    shell.close()
    use(url, nothing)


def test_a_store_whose_writer_never_lets_go_is_said_to_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was opened all the same, beside the process that was writing."""
    url = str(tmp_path / "telex.db")

    async def nothing(engine: object) -> None: ...

    use(url, nothing)
    monkeypatch.setattr(opening, "OPEN_WAIT", 0.05)

    async def main() -> None:
        engine = Embedded().engine(url, app="test", clock=SystemClock(), random=Random(1))
        with held(Path(url)), pytest.raises(Disconnected, match="is held by a process that does not let go"):
            await engine.open(time.monotonic() + 20)

    asyncio.run(main())
    use(url, nothing)
