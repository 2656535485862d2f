"""Where the fault tests keep their messages: each test that asks for a ``store`` runs once on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..brokers import rabbitmq

HEARTBEAT = 2
"""Seconds: a broker knows a stopped process by its silence, twice as long as this."""


@pytest.fixture(params=["file", "rabbitmq"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A path or a URL where nothing was before."""
    if request.param == "file":
        yield str(tmp_path / "telex.db")
    else:
        with rabbitmq.shared().place() as url:
            yield f"{url}?heartbeat={HEARTBEAT}"
