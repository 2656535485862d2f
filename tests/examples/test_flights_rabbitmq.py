"""The flights example on RabbitMQ: another URL, the same totals, with a worker and the broker killed on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_story_on_a_broker_that_is_killed_and_again_on_what_it_left(tmp_path: Path) -> None:
    story = f"{sys.executable} -m examples.flights --folder {tmp_path / 'flights'} --first"
    stories = f'{story} 40000 --restart "$TELEX_RESTART" && {story} 12000'
    done = subprocess.run(
        [sys.executable, "-m", "tests.brokers", "sh", "-c", stories],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("every total agrees with the data") == 2
    said = done.stdout + done.stderr
    assert said.count("SIGKILL for worker") == 2
    assert said.count("the broker was restarted") == 1
    assert "telex.db" not in [path.name for path in (tmp_path / "flights").iterdir()], "it ran on a file"
