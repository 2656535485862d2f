"""The node the tests start: it is there, it is alone, it comes back with its data, and it leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import rabbitmq
from .rabbitmq import BrokerMissing, Node, shared

ROOT = Path(__file__).parents[2]


def test_without_a_server_a_test_fails_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rabbitmq, "HOME", tmp_path)
    with pytest.raises(AssertionError, match="apt-get install rabbitmq-server") as caught:
        Node()
    assert caught.type is BrokerMissing


def test_places_are_empty_and_apart() -> None:
    broker = shared()
    with broker.vhost() as one, broker.vhost() as other:
        broker.management.call("PUT", f"/queues/{one}/kept", {"durable": True})
        assert [queue["name"] for queue in broker.queues(one)] == ["kept"]
        assert broker.queues(other) == []
    assert one not in [vhost["name"] for vhost in broker.management.call("GET", "/vhosts")]


def test_a_node_that_is_killed_comes_back_with_its_data_at_the_same_place() -> None:
    with Node() as node, node.vhost() as vhost:
        node.management.call("PUT", f"/queues/{vhost}/kept", {"durable": True})
        node.kill()
        assert not node.running
        node.start()
        assert [queue["name"] for queue in node.queues(vhost)] == ["kept"]
        node.set_alarm()
        assert node.alarmed()
        node.clear_alarm()
        assert not node.alarmed()
    assert not node.folder.exists()


def test_a_node_goes_with_its_tests_whatever_ends_them() -> None:
    program = (
        "import os; from tests.brokers.rabbitmq import Node; node = Node(); node.start(); "
        "print(node._beam.pid, node.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    pid, folder = done.stdout.split()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() or Path(folder).exists():
        assert time.monotonic() < end, f"process {pid} or {folder} is still there"
        time.sleep(0.1)
