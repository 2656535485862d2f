"""The documents are true: every block is run or checked, every link leads somewhere, every list is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .blocks import ROOT, Block, Reader, blocks, fits
from .places import prepare

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
ELSEWHERE = {"docs/engines/rabbitmq.md": "tests/docs/test_rabbitmq.py"}
"""Pages whose blocks need a broker that runs; the module that checks them."""
OTHERS = [ROOT / name for name in ("DESIGN.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_are_programs() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 40
    fences = sum(len(re.findall(r"^[ ]*```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * sum(len(blocks(page)) for page in PAGES), "a fence is not seen"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_everything_on_the_page_works(page: Path, tmp_path: Path) -> None:
    if (module := ELSEWHERE.get(name(page))) is not None:
        assert page.name in (ROOT / module).read_text()
        return
    reader = Reader(tmp_path)
    prepare(name(page), reader)
    for block in blocks(page):
        reader.do(block)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), f"{name(page)}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{name(page)}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """As both GitHub and the site make them out of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", heading.replace("`", "").lower())
        found.add(re.sub(r"[\s]+", "-", words.strip()))
    return found


def test_lines_of_output_are_told_apart() -> None:
    assert fits("a … c\n…\nend\n", "a  b  c\nmore\nlines\nend\n")
    assert fits("a   b\n", "a b\n")
    assert not fits("a\n", "a\nb\n")
    assert not fits("a … c\n", "a b\n")
    assert not fits("a\n…\nend\n", "a\nb\n")


def test_a_wrong_block_is_found(tmp_path: Path) -> None:
    def block(language: str, text: str, **orders: str) -> Block:
        return Block(ROOT / "README.md", 1, language, "", orders, text)

    for wrong in (
        block("python", "import telex\ntelex.Queue('A')\n"),
        block("sh", "telex nonsense\n"),
        block("sh", "true\n", exit="1"),
        block("text", "out\n"),
        block("ruby", "1\n"),
        block("", "anything\n"),
        block("python", "1\n", file="examples/recipes/shop.py"),
    ):
        with pytest.raises(AssertionError, match=r"README\.md:1"):
            Reader(tmp_path).do(wrong)
