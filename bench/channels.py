"""The channels of the figures."""

from __future__ import annotations

from typing import Any

from telex import Procedure, Topic

messages = Topic("bench.messages", dict[str, Any])
ticks = Topic("bench.ticks", float)
echo = Procedure("bench.echo", dict[str, Any], dict[str, Any])
sleepy = Procedure("bench.sleepy", dict[str, Any], dict[str, Any])
