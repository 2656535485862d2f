"""Every Python block of the documents runs, in the order of its page, in an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOGETHER = {"start.md"}
"""Pages whose blocks build on each other."""


def programs(page: Path) -> list[str]:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return ["\n".join(blocks)] if page.name in TOGETHER else blocks


CASES = [(page, program) for page in PAGES for program in programs(page)]


def test_there_are_programs() -> None:
    assert len(CASES) >= 10


@pytest.mark.parametrize(("page", "program"), CASES, ids=[f"{p.name}-{i}" for i, (p, _) in enumerate(CASES)])
def test_it_runs(page: Path, program: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "DESIGN.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
