"""What a page promises by its code blocks, and keeping it.

Every fenced block is checked, in the order of its page, in a folder of the page's own:

- ``python``: run, with warnings as errors. With ``title="shop.py"`` it is kept under that name and imported instead.
- ``sh``: run by bash, which stops at the first command that fails; exported variables last until the end of the page;
  port 9464 is one that is free.
- ``text``: what the block above it wrote to stdout, or to stderr; ``…`` stands for anything, on a line of its own for
  any lines.
- ``toml``, ``json``: parsed; with a title kept as a file.

A comment above a block changes that: ``<!-- docs: exit=1 -->`` expects another exit code;
``<!-- docs: stop-after="mail to" -->`` interrupts the command once it printed that, as Ctrl-C does;
``<!-- docs: file=examples/recipes/shop.py -->`` says that the block is that file, which other tests run;
``<!-- docs: generated=… -->`` that it is made from the program (`tables`).
A block in another language, or without any, has nobody to check it and is refused.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 60.0
FENCE = re.compile(
    r"(?:^[ ]*<!-- docs: (?P<orders>.*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: Where it stands.
        line: The line of its fence.
        language: As written behind the fence.
        title: Its name as a file; empty without one.
        orders: What the comment above it says.
        text: What is in it.
    """

    page: Path
    line: int
    language: str
    title: str
    orders: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        info = shlex.split(match["info"])
        title = dict(word.split("=", 1) for word in info[1:]).get("title", "")
        orders = dict(word.split("=", 1) for word in shlex.split(match["orders"] or ""))
        indent = match["indent"]
        body = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("indent")) + 1
        found.append(Block(page, line, info[0] if info else "", title, orders, body))
    return found


class Reader:
    """Somebody who does what a page says, block by block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        self._printed: tuple[str, str] | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TELEX_", "PYTEST_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }

    def do(self, block: Block) -> None:
        """Checks one block; raises AssertionError with the place on the page."""
        if name := block.orders.get("file"):
            assert block.text.strip() == (ROOT / name).read_text().strip(), f"{block}: differs from {name}"
            self._printed = None
            return
        if "generated" in block.orders:
            return
        match block.language:
            case "python":
                self._printed = self._python(block)
            case "sh":
                self._printed = self._shell(block)
            case "text":
                assert self._printed is not None, f"{block}: nothing above it printed anything"
                shown = "\n".join(self._printed)
                assert any(fits(block.text, printed) for printed in self._printed), f"{block}: printed\n{shown}"
            case "toml":
                tomllib.loads(block.text)
                self._keep(block)
            case "json":
                json.loads(block.text)
                self._keep(block)
            case _:
                raise AssertionError(f"{block}: nobody checks {block.language or 'a block without a language'}")

    def _keep(self, block: Block) -> None:
        if block.title:
            (self.folder / block.title).write_text(block.text)

    def _python(self, block: Block) -> tuple[str, str]:
        self._keep(block)
        if block.title:
            module = block.title.removesuffix(".py")
            return self._run(block, [sys.executable, "-W", "error", "-c", f"import {module}"])
        (self.folder / "example.py").write_text(block.text)
        return self._run(block, [sys.executable, "-W", "error", "example.py"])

    def _shell(self, block: Block) -> tuple[str, str]:
        text = block.text.replace("9464", self._port)
        before, after = "set -euo pipefail\n[ -e .variables ] && . ./.variables", "export -p > .variables"
        return self._run(block, ["bash", "-c", f"{before}\n{text}\n{after}\n"])

    def _run(self, block: Block, command: list[str]) -> tuple[str, str]:
        logs = self.folder / ".stdout", self.folder / ".stderr"
        with logs[0].open("wb") as out, logs[1].open("wb") as err:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                if wanted := block.orders.get("stop-after"):
                    self._interrupt(block, process, logs, wanted)
                process.wait(PATIENCE)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        printed = logs[0].read_text(), logs[1].read_text()
        code, shown = int(block.orders.get("exit", "0")), "\n".join(printed)
        assert process.returncode == code, f"{block}: ended with {process.returncode}, not {code}\n{shown}"
        return printed

    @staticmethod
    def _interrupt(block: Block, process: subprocess.Popen[bytes], logs: tuple[Path, ...], wanted: str) -> None:
        until = time.monotonic() + PATIENCE
        while wanted not in (shown := "".join(log.read_text() for log in logs)):
            assert process.poll() is None, f"{block}: ended before it printed {wanted!r}:\n{shown}"
            assert time.monotonic() < until, f"{block}: never printed {wanted!r}:\n{shown}"
            time.sleep(0.05)
        time.sleep(0.2)  # What was printed may be followed by what it announces.
        os.killpg(process.pid, signal.SIGINT)


def fits(wanted: str, printed: str) -> bool:
    """Whether what was printed is what the page shows. Runs of blanks count as one, since columns move with content."""
    pattern = []
    for line in wanted.strip("\n").split("\n"):
        if line.strip() == "…":
            pattern.append(r"(?:.*\n)*?")
            continue
        pieces = [r"\s+".join(map(re.escape, re.split(r"[ \t]+", piece))) for piece in line.rstrip().split("…")]
        pattern.append(".*?".join(pieces) + r"[ \t]*\n")
    return re.fullmatch("".join(pattern), printed.rstrip("\n") + "\n") is not None
