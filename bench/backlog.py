"""A file in which many messages wait: 1,000 topics, 100 groups, none of them consumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from telex import Telex, Topic

from .flow import COUNT, flow
from .measure import Measured, Setting, peak_memory
from .processes import ROOT
from .workload import body, run

TOPICS = 1000
GROUPS = 100


def loaded(setting: Setting) -> Measured:
    """The one-process figure beside the backlog, and the memory of the process that measures it.

    The backlog is written by another process, whose memory is its own.
    """
    database = setting.folder / "bench.db"
    subprocess.run([sys.executable, "-m", "bench.backlog", database, str(setting.backlog)], cwd=ROOT, check=True)
    measured = run(flow(str(database), ["one"], setting.count(COUNT)))
    return {**measured, "memory": peak_memory(), "size": float(database.stat().st_size)}


async def fill(database: Path, count: int) -> None:
    """Publishes the backlog: each group waits for a pattern of ten topics."""
    app = Telex(str(database), name="bench")

    async def handle(message: dict[str, Any]) -> None: ...

    for group in range(GROUPS):
        app.subscribe(f"load.g{group}.*", group=f"g{group}")(handle)
    async with app:
        for topic in range(TOPICS):
            target = Topic(f"load.g{topic % GROUPS}.t{topic}", dict[str, Any])
            await app.publish_many(target, (body(number) for number in range(count // TOPICS)))


if __name__ == "__main__":
    run(fill(Path(sys.argv[1]), int(sys.argv[2])))
