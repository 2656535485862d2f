"""The command line: how fast it starts, and what it does with many sources and many dead letters."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from telex import Queue, Telex
from telex.clock import SystemClock
from telex.engine import Decision, Settlement, Source, SourceKind, Subscription
from telex.engines import Embedded

from .backlog import fill
from .measure import Measured, Setting
from .workload import body, run

LETTERS = 100_000
TIMES = 9
BACKLOG = 20_000
work = Queue("bench.work", dict[str, Any])
ERROR = json.dumps(
    {
        "number": 1,
        "started": "2026-01-01T00:00:00Z",
        "worker": "host:1",
        "error": "builtins.TimeoutError",
        "text": "mail server",
        "traceback": "x" * 500,
    }
)
"""An attempt as the core records it."""


def start(setting: Setting) -> Measured:
    """Seconds that ``telex --version`` takes over an interpreter that imports telex; the interpreters alternate."""
    pairs = []
    for _ in range(TIMES + 1):
        command = _wall([sys.executable, "-m", "telex", "--version"], setting.folder)
        plain = _wall([sys.executable, "-c", "import telex"], setting.folder)
        pairs.append(command - plain)
    return {"seconds": statistics.median(pairs[1:])}  # The first one compiled.


def status(setting: Setting) -> Measured:
    """Seconds of ``telex status`` with 1,000 topics and 100 groups, from start to end of the process."""
    database = setting.folder / "bench.db"
    run(fill(database, BACKLOG))
    words = [sys.executable, "-m", "telex", "status"]
    return {"seconds": statistics.median([_wall(words, setting.folder, database) for _ in range(TIMES)])}


def letters(setting: Setting) -> Measured:
    """Dead letters of 200 bytes: seconds to the first line, to list them, to redrive them; memory of listing them."""
    database, count = setting.folder / "bench.db", setting.count(LETTERS)
    run(bury(database, count))
    first, listed = _first_line(database)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024.0
    words = [sys.executable, "-m", "telex", "dead", "redrive", "--all", "--yes", "--json"]
    begun = time.perf_counter()
    done = subprocess.run(words, env=_environment(database), stdout=subprocess.PIPE, check=True)
    redriven = time.perf_counter() - begun
    if json.loads(done.stdout)["count"] != count:
        raise RuntimeError(f"not all were redriven: {done.stdout!r}")
    return {"first": first, "listed": listed, "memory": memory, "redriven": redriven}


async def bury(database: Path, count: int) -> None:
    """Fills a store with dead letters, by the engine's own verbs."""
    app = Telex(str(database), name="bench")
    app.receive(work)(_never)
    async with app:
        await app.send_many(work, (body(number) for number in range(count)))
    engine = Embedded().engine(str(database), app="bench", clock=SystemClock(), random=Random())
    await engine.open(time.monotonic() + 30)
    subscription = Subscription(source=Source(work.name, SourceKind.QUEUE), window=1000)
    consumer = await engine.consume(subscription, lambda leases: None)
    while count:
        fetched = await consumer.fetch(1000, 5)
        await consumer.settle([_dead(one.lease) for one in fetched])
        count -= len(fetched)
    await consumer.close()
    await engine.close(time.monotonic() + 30)


async def _never(message: dict[str, Any]) -> None: ...


def _dead(lease: object) -> Settlement:
    return Settlement(
        lease,
        Decision.DEAD,
        reason="exhausted",
        error=ERROR,
        cause="TimeoutError|shop.send:12",
        text="TimeoutError: mail server",
    )


def _first_line(database: Path) -> tuple[float, float]:
    """Seconds to the first line of ``telex dead list`` and to its last."""
    words = [sys.executable, "-m", "telex", "dead", "list", "--json"]
    begun = time.perf_counter()
    with subprocess.Popen(words, env=_environment(database), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        first = time.perf_counter() - begun
        for _ in process.stdout:
            pass
    return first, time.perf_counter() - begun


def _wall(words: list[str], folder: Path, database: Path | None = None) -> float:
    environment = {**_environment(database), "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    begun = time.perf_counter()
    subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def _environment(database: Path | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEX_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment if database is None else {**environment, "TELEX_URL": str(database)}
