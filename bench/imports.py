"""What ``import telex`` costs, and what it must not drag in."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from .measure import Measured, Setting

TIMES = 7
FORBIDDEN = ("pydantic", "fastapi", "flask", "aio_pika", "confluent_kafka", "aiobotocore", "attr")
PROGRAM = """
import asyncio, json, sys, time
import msgspec, apsw
start = time.perf_counter()
import telex
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def time_taken(setting: Setting) -> Measured:
    """Seconds over ``import asyncio, msgspec, apsw``, in new interpreters that find everything compiled.

    Raises:
        RuntimeError: It imports a broker's client, pydantic or a web framework.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(setting.folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds = []
    for _ in range(TIMES):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
        )
        taken, modules = json.loads(done.stdout)
        if found := set(FORBIDDEN) & set(modules):
            raise RuntimeError(f"import telex imports {', '.join(sorted(found))}")
        seconds.append(taken)
    return {"seconds": statistics.median(seconds[1:])}  # The first one compiled.
