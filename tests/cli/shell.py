"""A person at a shell: commands in a folder of their own, piped or in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 60.0


FOREIGN = ("TELEX_", "PYTHONUNBUFFERED")
"""What the environment of the tests must not decide."""


class Shell:
    """Runs `telex` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.env |= {
            "PYTHONPATH": "",
            "TELEX_APP": "shop:app",
            "XDG_CONFIG_HOME": str(folder / "home"),
            "TERM": "xterm",
        }
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "COLORTERM"):
            self.env.pop(name, None)

    def __call__(self, *words: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "telex", *words],
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *words: str, stdin: int | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "telex", *words],
            cwd=self.folder,
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def running(self, *words: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
        """In the background; ended afterwards by its process id, if it did not end itself."""
        process = self.start(*words, stdin=stdin)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def terminal(self, *words: str, width: int = 80) -> Terminal:
        return Terminal(self, words, width)


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, shell: Shell, words: tuple[str, ...], width: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "telex", *words],
            cwd=shell.folder,
            env=shell.env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        self.hang_up()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> str:
        """Reads until a text appears."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if not self._read():
                raise AssertionError(f"ended without {text!r}: {self.shown}")
        return self.shown

    def end(self) -> int:
        """Reads until the command ends; its exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def hang_up(self) -> None:
        """The terminal goes away: the kernel sends SIGHUP, and everything written fails."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], PATIENCE)
        assert ready, self.shown
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed.
            return False
        self.shown += data.decode()
        return bool(data)


def children(parent: int, count: int) -> list[int]:
    """The process ids of a process's children, once there are so many."""
    deadline = time.monotonic() + 20
    found: list[int] = []
    while time.monotonic() < deadline:
        listed = Path(f"/proc/{parent}/task/{parent}/children")
        found = [int(pid) for pid in listed.read_text().split()]
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{parent} has {len(found)} children, not {count}")
