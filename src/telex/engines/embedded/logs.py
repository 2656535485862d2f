"""Lines of the log from the writer's thread."""

from __future__ import annotations

import contextlib

UNHEARD = contextlib.suppress(Exception)
"""Around each line: a handler of the application that raises must end neither a transaction nor the writer's thread,
for whom everybody waits."""
