"""Lanes whose broker does what it is told."""

from __future__ import annotations

import pytest

from telex.engines.rabbitmq import lane as lanes

from .rig import Broker


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The broker of every lane of a test."""
    broker = Broker()
    monkeypatch.setattr(lanes, "Intake", broker)
    return broker
