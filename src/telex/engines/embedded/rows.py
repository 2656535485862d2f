"""Reading rows whose types the tables fix and the type checker cannot know."""

from __future__ import annotations

from typing import Any

import apsw


def rows(cursor: apsw.Cursor) -> list[Any]:
    """All that is left of a query; the cursor is finished, so that its statement holds no lock."""
    return cursor.fetchall()
