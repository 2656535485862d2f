"""The documents as a site: built strictly, searchable, and fetching nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .blocks import ROOT


def build(settings: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(settings), "-d", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", place)
    assert done.returncode == 0, done.stderr
    return place


def test_every_page_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    pages = {entry["location"].partition("#")[0] for entry in index["docs"]}
    written = {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == written
    found = [entry["location"] for entry in index["docs"] if "redrive" in entry["text"]]
    assert any(location.startswith("operate.html") for location in found)
    assert 'data-md-component="search-query"' in (site / "index.html").read_text()


def test_the_reference_has_what_is_exported(site: Path) -> None:
    text = (site / "reference.html").read_text()
    for name in (
        "telex.Telex.publish",
        "telex.Queue",
        "telex.Retry",
        "telex.sync.Client.send",
        "telex.testing.Harness",
    ):
        assert f'id="{name}"' in text


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//[^"]*"', text)
        fetched += re.findall(r'<link(?![^>]*rel="(?:canonical|next|prev)")[^>]* href="(?:https?:)?//[^"]*"', text)
        assert fetched == [], page.name


def test_a_broken_link_fails(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Here\n\n[there](there.md) and [deeper](#nowhere)\n")
    settings = (ROOT / "mkdocs.yml").read_text()
    head = settings.partition("plugins:")[0].replace("docs_dir: docs", f"docs_dir: {docs}")
    (tmp_path / "mkdocs.yml").write_text(head + "plugins: [search]\nnav:\n  - Here: index.md\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "there.md" in done.stderr
    assert "nowhere" in done.stderr
