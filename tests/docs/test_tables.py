"""What the documents list is complete and current."""

from __future__ import annotations

import inspect
import re

import pytest

import telex
from telex import errors, policy
from telex.features import Features, Refusal

from .blocks import ROOT
from .tables import INSIDE, TABLES, events_table, every_features, features_table, rewritten

ERRORS = {
    name: one
    for name, one in vars(errors).items()
    if inspect.isclass(one) and issubclass(one, Exception) and one.__module__ == errors.__name__
}


@pytest.mark.parametrize("name", TABLES)
def test_it_is_current(name: str) -> None:
    page, text = rewritten(name)
    assert page.read_text() == text, f"{page.name} is old: python -m tests.docs.tables writes it anew"


def test_every_engine_is_in_the_table() -> None:
    names = {features.engine for features in every_features()}
    assert {"embedded", "memory"} <= names
    head = features_table().splitlines()[0]
    assert head.count("|") == len(names) + 2


def test_every_capability_is_in_the_table() -> None:
    rows = features_table().splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == 1 + len(Features.__struct_fields__) - len(INSIDE)


def test_what_an_engine_refuses_is_said_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    from . import tables

    (one, *_) = every_features()
    refusing = msgspec.structs.replace(one, engine="poor", replay=Refusal("it keeps nothing", "publish again"))
    monkeypatch.setattr(tables, "every_features", lambda: [one, refusing])
    text = features_table()
    assert "| replay | native | no (1) |" in text
    assert "1. poor, replay: it keeps nothing. Instead: publish again." in text


def test_every_event_is_in_the_table() -> None:
    names = set(re.findall(r"^\| `(telex\.[a-z_]+)`", events_table(), re.MULTILINE))
    assert len(names) >= 15
    source = (ROOT / "src" / "telex" / "events.py").read_text()
    assert names == set(re.findall(r'"(telex\.[a-z_]+)"', source))


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_says_what_happened_and_what_to_do(name: str) -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    sections = re.findall(rf"^### `{name}`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(sections) == 1, f"errors.md has {len(sections)} sections for {name}"
    assert "**What happened.**" in sections[0]
    assert "**What to do.**" in sections[0]


def test_no_error_is_described_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    assert set(re.findall(r"^### `(\w+)`", text, re.MULTILINE)) == set(ERRORS)
    for name, one in vars(policy).items():
        if inspect.isclass(one) and issubclass(one, policy.Verdict) and one is not policy.Verdict:
            assert f"`{name}`" in text


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r": ([\w/-]+\.md)$", menu, re.MULTILINE)) == pages


def test_everything_exported_is_in_the_documents() -> None:
    text = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    missing = [name for name in telex.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []
