"""The worker processes of the demonstration."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0
"""Seconds a worker has to end after SIGTERM."""


class Workers:
    """Starts worker processes, kills one, ends the rest."""

    def __init__(self) -> None:
        self._running: list[Process] = []

    async def start(self) -> int:
        """Starts one; its process id. The environment says where messages and results are."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "examples.flights.worker", cwd=ROOT)
        self._running.append(process)
        return process.pid

    async def kill(self) -> int:
        """SIGKILL for the oldest one, which gets no chance to tidy up; its process id."""
        process = self._running.pop(0)
        process.kill()
        await process.wait()
        return process.pid

    def check(self) -> None:
        """Notices a worker that ended by itself.

        Raises:
            RuntimeError: One did.
        """
        for process in self._running:
            if process.returncode is not None:
                raise RuntimeError(f"worker {process.pid} ended by itself with code {process.returncode}")

    async def stop(self) -> None:
        """SIGTERM for all; waits for their end.

        Raises:
            RuntimeError: One did not end well.
        """
        running, self._running = self._running, []
        for process in running:
            if process.returncode is None:
                process.terminate()
        codes = []
        for process in running:
            try:
                codes.append(await asyncio.wait_for(process.wait(), PATIENCE))
            except TimeoutError:
                process.kill()
                codes.append(await process.wait())
        if any(codes):
            raise RuntimeError(f"workers ended with codes {codes} after SIGTERM; 0 is a clean end")
