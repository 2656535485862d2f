"""RabbitMQ as the suite of broker faults wants it: a node that may be killed, starved and tampered with."""

from __future__ import annotations

import atexit
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar
from urllib.parse import quote

from telex.engine import Source

from .rabbitmq import Node

HEARTBEAT = 2
"""Seconds: the shortest that does no harm on two busy cores."""
SECRET = "n0t-the-passw0rd"


class HurtBroker:
    """One virtual host of a node; what `telex.testing.contract.Broker` asks for."""

    host: str = "127.0.0.1"
    remembers: float = 2.0
    """Its directory of queues is written after half a second of rest: a node that is killed before forgets a queue that
    was just declared, and streams (measured on 3.10.8: forgotten after 0.6 s, known after 1 s)."""
    notices: float = 3 * HEARTBEAT + 2
    cannot: frozenset[str] = frozenset()
    _QUERY: ClassVar[str] = f"?heartbeat={HEARTBEAT}"

    def __init__(self, node: Node, vhost: str) -> None:
        self._node = node
        self._vhost = vhost
        self.port: int = node.amqp_port
        self.url: str = node.url(vhost) + self._QUERY

    def through(self, port: int) -> str:
        return self._node.url(self._vhost, port=port) + self._QUERY

    def stranger(self) -> tuple[str, str]:
        return self._node.url(self._vhost, user="guest", password=SECRET) + self._QUERY, SECRET

    def kill(self) -> None:
        self._node.kill()

    def stop(self) -> None:
        self._node.stop()

    def start(self) -> None:
        self._node.start()

    def block(self) -> None:
        self._node.set_alarm()

    def unblock(self) -> None:
        self._node.clear_alarm()

    def delete(self, source: Source) -> None:
        self._node.delete_queue(self._vhost, str(source).replace("*", "+"))

    def refuse_letters(self, source: Source) -> None:
        """By a policy, as an operator may set one: the queue of dead letters is full."""
        self._limit_letters(source, 0)

    def take_letters(self, source: Source) -> None:
        """By more room. Without the policy, channels that were refused once would be refused for good (3.10.8)."""
        self._limit_letters(source, 1_000_000)

    def _limit_letters(self, source: Source, most: int) -> None:
        policy = {
            "pattern": f"^{re.escape(f'{source}:dead')}$",
            "definition": {"max-length": most, "overflow": "reject-publish"},
            "apply-to": "queues",
        }
        self._node.management.call("PUT", f"/policies/{quote(self._vhost, safe='')}/letters", policy)


@functools.cache
def _node() -> Node:
    node = Node()
    atexit.register(node.close)
    return node


@contextmanager
def hurt_broker() -> Iterator[HurtBroker]:
    """An empty virtual host of a node that is in good order; started anew if the last test left it otherwise."""
    node = _node()
    if not node.running:
        node.start()
    elif node.alarmed():
        node.restart()
    with node.vhost() as vhost:
        yield HurtBroker(node, vhost)
        with suppress(AssertionError):
            if not node.running:
                node.start()
