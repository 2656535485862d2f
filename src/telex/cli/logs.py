"""The log of `telex run`: lines for people, or one JSON object a record with ``--json``. Both go to stderr."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..events import fields_of

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else came with the record."""


def write(*, as_json: bool) -> None:
    """Sends records to stderr, from INFO on, unless the application has set logging up itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines() if as_json else logging.Formatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JSONLines(logging.Formatter):
    """A record in one line: ``time``, ``level``, ``logger``, ``text``, the fields of its event, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; values that JSON knows nothing of are written as their texts."""
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
        }
        values |= {name: value for name, value in vars(record).items() if name not in PLAIN and name not in values}
        values |= fields_of(record)
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(values, enc_hook=repr).decode()
