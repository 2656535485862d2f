"""The two forms of the embedded engine, as the contract suite wants them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from telex.engine import EngineSettings
from telex.engines import Embedded

LEASE = 0.4
"""Short, so that a handler can be held many leases long."""


class OnFile:
    """A file of its own for each test, unsynced: these tests cut no power, and disks are slow."""

    def __init__(self) -> None:
        self.settings: EngineSettings = Embedded(lease=LEASE, sync="normal")
        self.lease = LEASE
        self.virtual = True

    @contextmanager
    def place(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="telex-") as folder:
            yield str(Path(folder) / "telex.db")


class InMemory:
    """A named memory for each test; engines of this process share it."""

    def __init__(self) -> None:
        self.settings: EngineSettings = Embedded(lease=LEASE)
        self.lease = LEASE
        self.virtual = True
        self._names = count(1)

    @contextmanager
    def place(self) -> Iterator[str]:
        yield f"memory://contract-{id(self)}-{next(self._names)}"
