"""A worker process: ``python -m examples.flights.worker``. SIGTERM drains it."""

from __future__ import annotations

from .app import app
from .loop import run

if __name__ == "__main__":
    run(app.run())
