"""The health endpoint where the host is short of everything."""

from __future__ import annotations

import threading
import urllib.request

import pytest

from telex.cli import health
from telex.cli.board import Board


def test_a_request_that_gets_no_thread_takes_no_slot_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST", 2)
    real = threading.Thread.start
    short = True

    def start(thread: threading.Thread) -> None:
        if short and "process_request_thread" in thread.name:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with health.serving(("127.0.0.1", 0), Board(0)) as (host, port):
        for _ in range(3):
            with pytest.raises(OSError):  # noqa: PT011 - turned away, in one of several ways.
                urllib.request.urlopen(f"http://{host}:{port}/live", timeout=2)
        short = False
        with urllib.request.urlopen(f"http://{host}:{port}/live", timeout=2) as answer:
            assert answer.read() == b"alive\n"
