"""The recipes as a user has them: a copy in a folder of its own, programs started from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
BIN = Path(sys.executable).parent
PATIENCE = 30.0
"""Seconds for anything to happen on a busy machine."""


class Program:
    """A program that runs: what it wrote, its end."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def text(self) -> str:
        """What it wrote so far, on stdout and stderr."""
        return self._log.read_text()

    def wait_for(self, happened: Callable[[str], object]) -> str:
        """Waits until what it wrote says so."""
        until = time.monotonic() + PATIENCE
        while not happened(self.text):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.text}"
            assert time.monotonic() < until, f"nothing came:\n{self.text}"
            time.sleep(0.02)
        return self.text

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends it a signal and waits for its end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class Shop:
    """A copy of the recipes, with a store beside it."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(RECIPES, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db*", "*.sqlite3"))
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TELEX_", "DJANGO_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "TELEX_URL": str(folder / "telex.db"),
            "PYTHONUNBUFFERED": "1",
        }

    @contextmanager
    def running(self, *command: str, env: Mapping[str, str] | None = None) -> Iterator[Program]:
        """Runs a program beside the test; what is left of it at the end is killed."""
        log = self.folder / f"log-{len(list(self.folder.glob('log-*')))}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield Program(process, log)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(PATIENCE)

    def run(self, *command: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Runs a program to its end; what it wrote."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def rows(self, *command: str) -> list[dict[str, Any]]:
        """What `telex` prints about the shop, as data; what it says on stderr is left aside."""
        done = subprocess.run(
            ["telex", "-a", "shop:app", "--json", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def status(self, *sources: str) -> dict[str, dict[str, Any]]:
        """How each source stands."""
        return {row["source"]: row for row in self.rows("status", *sources)}


class Site:
    """A web server of this test, on loopback."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of one request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{self.address}{path}", data, {"content-type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, _content(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error.read())

    def wait(self, program: Program) -> None:
        """Waits until it accepts connections."""

        def listens(_: str) -> bool:
            with socket.socket() as probe:
                probe.settimeout(1)
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        program.wait_for(listens)


def _content(text: bytes) -> Any:
    return json.loads(text) if text.startswith(b"{") else text.decode()
