"""Starting and ending worker processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0


class Worker:
    """A running worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def heard(self) -> Any:
        """The next line it prints.

        Raises:
            TimeoutError: It prints nothing.
            RuntimeError: It ended.
        """
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        if not line:
            raise RuntimeError(f"worker {self._process.pid} ended with code {await self._process.wait()}")
        return json.loads(line)

    async def stop(self) -> None:
        """Ends it with SIGTERM."""
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


@asynccontextmanager
async def workers(kind: str, store: str, groups: list[str], count: int) -> AsyncGenerator[list[Worker], None]:
    """A worker process a group, all of them ready."""
    async with AsyncExitStack() as stack:
        running = []
        for group in groups:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.worker", kind, store, group, str(count)),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            worker = Worker(process)
            stack.push_async_callback(worker.stop)
            running.append(worker)
        for worker in running:
            await worker.heard()
        yield running
