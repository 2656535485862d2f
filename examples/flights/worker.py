"""A worker process: ``python -m examples.flights.worker``. SIGTERM drains it."""

from __future__ import annotations

import logging

from .app import app
from .loop import run

if __name__ == "__main__":
    # A line for each of 8,255 refused flights would bury the story; they are dead letters and are listed there.
    logging.getLogger("telex.delivery").setLevel(logging.CRITICAL)
    run(app.run())
