"""The structure: arrows go one way, files stay small, the map in DESIGN.md is complete."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "telex"
MODULES = sorted(SOURCE.rglob("*.py"))

VALUES = {
    "clock",
    "deadreason",
    "engine",
    "errors",
    "events",
    "features",
    "forks",
    "ids",
    "message",
    "names",
    "policy",
    "tracing",
    "typevars",
    "urls",
}
"""What everything may use: words and values, no work."""
LAYERS = {
    "engines": VALUES | {"channels", "engines"},
    "delivery": VALUES | {"delivery"},
}
"""What a folder may import of Telex, by first component."""


def imports(path: Path) -> set[str]:
    """First components, below telex, of what a module imports when it runs (not for typing alone)."""
    package = path.relative_to(SOURCE.parent).parts[:-1]
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = [*base, *(node.module or "").split(".")] if node.module else list(base)
            if full[:1] == ["telex"]:
                found.update([full[1]] if len(full) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("telex."))
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_go_one_way(layer: str) -> None:
    files = list((SOURCE / layer).rglob("*.py"))
    assert len(files) > 3
    wrong = {str(path.relative_to(SOURCE)): sorted(extra) for path in files if (extra := imports(path) - LAYERS[layer])}
    assert wrong == {}


def test_values_stand_on_values_only() -> None:
    wrong = {name: extra for name in VALUES if (extra := imports(SOURCE / f"{name}.py") - VALUES)}
    assert wrong == {}


def test_only_the_settings_know_an_engine() -> None:
    above = [p for p in MODULES if "engines" not in p.parts and "testing" not in p.parts]
    knowing = [
        str(path.relative_to(SOURCE))
        for path in above
        if re.search(r"engines\.(embedded|rabbitmq|kafka|aws)|import apsw|EmbeddedEngine", path.read_text())
    ]
    assert knowing == []


def test_only_otel_knows_opentelemetry() -> None:
    knowing = {
        path.relative_to(SOURCE).parts[0]
        for path in MODULES
        if "import opentelemetry" in path.read_text() or "from opentelemetry" in path.read_text()
    }
    assert knowing == {"otel"}
    assert not any("otel" in imports(path) for path in MODULES if "otel" not in path.parts)


def test_nothing_is_unpickled_or_evaluated() -> None:
    pattern = re.compile(r"\b(import (pickle|marshal|shelve)|pickle\.|yaml\.load|eval\(|exec\(|getattr\(sys\.modules)")
    found = [str(p.relative_to(SOURCE)) for p in MODULES if pattern.search(p.read_text())]
    assert found == []


def test_files_stay_readable() -> None:
    long = {str(p.relative_to(SOURCE)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 600}
    assert long == {}


def test_the_file_map_is_complete() -> None:
    text = (ROOT / "DESIGN.md").read_text()
    mapped = set(re.findall(r"^- `([^`]+\.py)`: \S", text.partition("## File map")[2], re.MULTILINE))
    there = {str(p.relative_to(SOURCE)) for p in MODULES if p.read_text().strip()}
    assert mapped == there


BUDGET = 0.1 if os.environ.get("CI") == "true" else 0.025
"""Seconds that `import telex` may take beside what it stands on. Hired machines are slower by a factor nobody knows."""


def test_import_is_light(tmp_path: Path) -> None:
    """Processor time, since other work on the machine does not count, and compiled, as at all starts but the first."""
    program = (
        "import sys, time, asyncio, msgspec, apsw; t=time.process_time(); import telex; "
        "print(time.process_time()-t); print(' '.join(m for m in ('pydantic','fastapi','flask','aio_pika',"
        "'confluent_kafka','aiobotocore','importlib.metadata','sqlite3') if m in sys.modules))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-X", f"pycache_prefix={tmp_path}", "-c", program]
    times = []
    for _ in range(8):
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        seconds, heavy = out.split("\n")[:2]
        assert heavy == ""
        times.append(float(seconds))
    median = statistics.median(times[1:])  # The first start compiled.
    print(f"import telex: {median * 1000:.1f} ms")
    assert median < BUDGET
