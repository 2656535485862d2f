"""The benchmark's own parts: a wrong table would be believed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.figure import Figure, take
from bench.figures import FIGURES, MEASUREMENTS
from bench.measure import Setting
from bench.rabbitmq import figures as on_rabbitmq
from bench.table import line, missed
from bench.workload import body

from ..brokers.rabbitmq import shared

ROOT = Path(__file__).parents[2]


def test_bodies_are_about_two_hundred_bytes() -> None:
    for number in (0, 999_999):
        assert 190 <= len(msgspec.json.encode(body(number))) <= 230


def test_every_figure_is_made_of_measurements_that_exist() -> None:
    for figure in (*FIGURES, *on_rabbitmq.FIGURES):
        assert set(figure.needs) <= {*MEASUREMENTS, *on_rabbitmq.MEASUREMENTS}
        assert figure.base is None or len(figure.needs) == 2


def test_a_ratio_is_made_within_a_round_and_judged_by_its_median() -> None:
    figure = Figure("x", "ours", "/s", ("a", "b"), take("a"), take("b"), "theirs", least=2)
    rounds = [{"a": {"rate": 100.0 * n}, "b": {"rate": rate}} for n, rate in ((1, 100.0), (2, 50.0), (3, 100.0))]
    text = line(figure, rounds)
    assert "200 /s (100–300)" in text
    assert "3 × (1–4) theirs" in text
    assert text.endswith("yes")
    assert not missed(figure, rounds)


def test_a_figure_that_misses_or_fails_says_so() -> None:
    figure = Figure("x", "ours", "ms", ("a",), take("a", "seconds", 1e3), most=25)
    assert line(figure, [{"a": {"seconds": 0.026}}]).endswith("NO")
    assert missed(figure, [{"a": {"seconds": 0.026}}])
    assert not missed(figure, [{"a": {"seconds": 0.025}}])
    assert missed(figure, [{}])
    assert "could not be measured" in line(figure, [{}])


def test_the_scale_counts_in_thousands(tmp_path: Path) -> None:
    assert Setting(tmp_path, 0.01).count(60_000) == 1000
    assert Setting(tmp_path, 2).count(3000) == 6000


@pytest.mark.parametrize(
    "name", ["one_process", "traced", "two_processes", "publish_many", "in_flight", "deliver", "huey"]
)
def test_a_measurement_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.child", name, str(tmp_path), "0.01", "1000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rate"] > 0


@pytest.mark.parametrize("name", on_rabbitmq.MEASUREMENTS)
def test_a_measurement_on_rabbitmq_runs(name: str, tmp_path: Path) -> None:
    with shared().place() as url:
        done = subprocess.run(
            [sys.executable, "-m", "bench.child", name, str(tmp_path), "0.05", "1000", url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert min(json.loads(done.stdout).values()) != 0


def test_the_measurements_of_commands_run(tmp_path: Path) -> None:
    measured = {}
    for name in ("start", "letters"):
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "bench.child", name, str(tmp_path / name), "0.01", "1000"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        measured |= json.loads(done.stdout)
    assert set(measured) == {"seconds", "first", "listed", "memory", "redriven"}
    assert 0 < measured["first"] <= measured["listed"]
