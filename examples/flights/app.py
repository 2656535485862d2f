"""The application. ``TELEX_URL`` says where the messages are, ``FLIGHTS_RESULTS`` where the results go."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from telex import Telex

from .handlers import handlers
from .store import Store

RESULTS = "FLIGHTS_RESULTS"


@asynccontextmanager
async def results(app: Telex) -> AsyncGenerator[Store, None]:
    """The store, open as long as handlers run."""
    store = Store(Path(os.environ[RESULTS]))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


app = Telex(name="flights", lifespan=results)
app.include(handlers)
