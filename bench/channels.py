"""The channels of the figures."""

from __future__ import annotations

from typing import Any

from telex import Procedure, Queue, Topic

messages = Topic("bench.messages", dict[str, Any])
lanes = Topic("bench.lanes", dict[str, Any], ordered=True, lanes=16, key=lambda body: str(body["order"] % 512))
work = Queue("bench.work", dict[str, Any])
ticks = Topic("bench.ticks", float)
echo = Procedure("bench.echo", dict[str, Any], dict[str, Any])
sleepy = Procedure("bench.sleepy", dict[str, Any], dict[str, Any])
