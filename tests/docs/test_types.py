"""The programs of the documents are typed as a user's would be: mypy has nothing to say about them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .blocks import ROOT, Block, blocks

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def programs(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python" and "file" not in block.orders]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check(folder: Path, cache: Path) -> str:
    settings = folder / "mypy.ini"
    settings.write_text("[mypy]\nignore_missing_imports = True\ncheck_untyped_defs = True\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(cache), "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=lambda page: str(page.relative_to(ROOT)))
def test_it_is_typed(page: Path, tmp_path: Path, cache: Path) -> None:
    for block in programs(page):
        (tmp_path / (block.title or f"line_{block.line}.py")).write_text(block.text)
    assert check(tmp_path, cache) == ""


def test_a_wrong_body_is_found(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from telex import Queue, Telex\n\nemails = Queue('emails', str)\napp = Telex(name='shop')\n\n"
        "async def main() -> None:\n    await app.send(emails, 5)\n"
    )
    assert "wrong.py:7: error" in check(tmp_path, cache)
