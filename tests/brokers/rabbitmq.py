"""A RabbitMQ node of the tests' own: on 127.0.0.1, on free ports, in a temporary folder, gone at the end.

`shared` is one node for all tests that do not hurt it; tests that kill, stop or starve a node start their own `Node`.
What is slow over ``rabbitmqctl`` (a second or two each) goes over the management plugin's HTTP interface instead.
"""

from __future__ import annotations

import atexit
import base64
import functools
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

HOME = Path(os.environ.get("TELEX_TEST_RABBITMQ_HOME", "/usr/lib/rabbitmq"))
"""Where the distribution's package puts the server; an unpacked release works too."""
GIVEN = "TELEX_TEST_AMQP"
"""Names a running broker for the tests to use: ``amqp://user:password@host``, a user who may make virtual hosts.
Its management interface is asked for at TELEX_TEST_AMQP_MANAGEMENT, else at port 15672."""
PATIENCE = 90.0
"""Seconds a node may take to start; on two busy cores 20 were seen."""
MISSING = (
    "no RabbitMQ server at {home}: these tests run against a real one and start it by themselves. "
    "Install it with `apt-get install rabbitmq-server` (Debian, Ubuntu) or unpack a release and set "
    "TELEX_TEST_RABBITMQ_HOME to its folder; or set TELEX_TEST_AMQP to the URL of a broker that may be used"
)
CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
vm_memory_high_watermark.absolute = 2GiB
disk_free_limit.absolute = 50MB
log.file.level = info
raft.wal_max_size_bytes = 67108864
"""


class BrokerMissing(AssertionError):
    """There is no server to test against: the test fails, and says what to install."""


class Management:
    """The HTTP interface of the management plugin, as far as tests need it: a few milliseconds a call.

    Args:
        url: ``http://user:password@host:port``.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """One call; what it answers.

        Raises:
            AssertionError: It answered an error other than "not there" to a DELETE.
        """
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        user = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(
                method, f"/api{path}", data, {"Authorization": f"Basic {user}", "Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        gone = method == "DELETE" and response.status == 404
        assert response.status < 300 or gone, f"{method} {path} answered {response.status}: {answer.decode()[:300]}"
        return json.loads(answer) if answer and not gone else None


class Broker:
    """What tests may do to any RabbitMQ broker, ours or one that was given.

    Args:
        url: ``amqp://user:password@host:port``, without a virtual host.
        management: Of its management interface.
    """

    def __init__(self, url: str, management: str) -> None:
        self.base = url.rstrip("/")
        self.management = Management(management)
        self._names = count(1)
        self._run = secrets.token_hex(3)

    def url(self, vhost: str, *, user: str | None = None, password: str = "", port: int | None = None) -> str:
        """The URL of a virtual host.

        Args:
            vhost: Its name.
            user: Instead of the one who may everything.
            password: Of that user.
            port: Of a proxy before the broker.
        """
        parts = urlsplit(self.base)
        login = f"{parts.username}:{parts.password}" if user is None else f"{quote(user)}:{quote(password)}"
        return f"{parts.scheme}://{login}@{parts.hostname}:{port or parts.port or 5672}/{quote(vhost, safe='')}"

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """A virtual host where nothing was before, by name; deleted at the end with all that is in it."""
        name = f"telex-{self._run}-{next(self._names)}"
        self.management.call("PUT", f"/vhosts/{name}")
        try:
            yield name
        finally:
            with suppress(OSError):  # The node may be down by then, and is thrown away.
                self.management.call("DELETE", f"/vhosts/{name}")

    @contextmanager
    def place(self) -> Iterator[str]:
        """The URL of a virtual host of its own: what `telex.testing.contract.Target.place` needs."""
        with self.vhost() as name:
            yield self.url(name)

    # -- what is done to a broker -----------------------------------------------------------------------------------

    def user(
        self, name: str, password: str, vhost: str, *, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Makes a user with these rights (regular expressions; none by default) in a virtual host; the URL to use."""
        self.management.call("PUT", f"/users/{quote(name)}", {"password": password, "tags": ""})
        rights = {"configure": configure or "^$", "write": write or "^$", "read": read or "^$"}
        self.management.call("PUT", f"/permissions/{quote(vhost, safe='')}/{quote(name)}", rights)
        return self.url(vhost, user=name, password=password)

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        """The queues of a virtual host with their arguments. Counts are up to five seconds old."""
        found: list[dict[str, Any]] = self.management.call("GET", f"/queues/{quote(vhost, safe='')}")
        return found

    def delete_queue(self, vhost: str, name: str) -> None:
        """Deletes a queue with all that is in it."""
        self.management.call("DELETE", f"/queues/{quote(vhost, safe='')}/{quote(name, safe='')}")

    def connections(self, vhost: str) -> list[str]:
        """The names of the open connections to a virtual host."""
        found = self.management.call("GET", f"/vhosts/{quote(vhost, safe='')}/connections")
        return [connection["name"] for connection in found]

    def cut_connections(self, vhost: str) -> int:
        """Closes all connections to a virtual host from the broker's side; how many."""
        names = self.connections(vhost)
        for name in names:
            self.management.call("DELETE", f"/connections/{quote(name, safe='')}")
        return len(names)


class Node(Broker):
    """A node of one's own. Its addresses and data stay the same over `stop`, `kill` and `start`.

    It has its own port mapper (``epmd``), cookie, node name and distribution port, so that it meets no other node.
    """

    def __init__(self) -> None:
        server = HOME / "bin" / "rabbitmq-server"
        self._server = server if server.exists() else HOME / "sbin" / "rabbitmq-server"
        if not self._server.exists() or shutil.which("erl") is None:
            raise BrokerMissing(MISSING.format(home=HOME))
        self.folder = Path(tempfile.mkdtemp(prefix="telex-rabbitmq-"))
        self.amqp_port, self._http_port, self._dist_port, self._epmd_port = free_ports(4)
        super().__init__(
            f"amqp://guest:guest@127.0.0.1:{self.amqp_port}", f"http://guest:guest@127.0.0.1:{self._http_port}"
        )
        self.name = f"telex{self.amqp_port}@localhost"
        self._beam: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._prepare()
        epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1", "-relaxed_command_check"]
        self._epmd = subprocess.Popen(epmd, env=self._environment, **_QUIET)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _prepare(self) -> None:
        (self.folder / "rabbitmq.conf").write_text(CONFIG.format(amqp=self.amqp_port, management=self._http_port))
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "1",  # Without a shell between: the process started here is the Erlang VM itself.
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    # -- life -------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the node's process lives."""
        return self._beam is not None and self._beam.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Starts the node, on the data it has.

        Args:
            wait: Whether to return only when it takes connections.

        Raises:
            AssertionError: It ended, or took no connections in time; with the end of its log.
        """
        assert not self.running, "the node runs"
        with (self.folder / "out").open("ab") as out:
            self._beam = subprocess.Popen(
                [self._server], env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self._watch()
        if wait:
            self.wait_ready()

    def _watch(self) -> None:
        """Ends the node when the tests end without having stopped it, whatever ended them."""
        self._unwatch()
        assert self._beam is not None
        script = 'cat; kill -KILL "$1" "$2"; sleep 1; rm -rf "$3"'
        self._guard = subprocess.Popen(
            ["sh", "-c", script, "sh", str(self._beam.pid), str(self._epmd.pid), str(self.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _unwatch(self) -> None:
        if self._guard is not None:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.communicate()
            self._guard = None

    def wait_ready(self) -> None:
        """Waits until the node takes connections.

        Raises:
            AssertionError: It ended, or it took too long; with the end of its log.
        """
        end = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._beam is not None
            assert self._beam.poll() is None, f"the node ended with {self._beam.returncode}:\n{self.log()}"
            assert time.monotonic() < end, f"the node took no connections within {PATIENCE:g} s:\n{self.log()}"
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether it greets an AMQP client and its management interface lets a user in."""
        try:
            with socket.create_connection(("127.0.0.1", self.amqp_port), 1) as connection:
                connection.settimeout(5)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if connection.recv(1) != b"\x01":
                    return False
            self.management.call("GET", "/whoami")
        except (OSError, AssertionError, http.client.HTTPException):
            return False
        return True

    def stop(self) -> None:
        """Shuts the node down in good order, as an operator does; returns when it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the Erlang VM with SIGKILL; returns when it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stops and starts the node."""
        self.stop()
        self.start()

    def signal(self, number: int) -> None:
        """Sends a signal to the node, SIGSTOP for example."""
        assert self._beam is not None
        os.kill(self._beam.pid, number)

    def _end(self, number: int) -> None:
        if self._beam is None:
            return
        if self._beam.poll() is None:
            self._beam.send_signal(number)
            try:
                self._beam.wait(60)
            except subprocess.TimeoutExpired:
                self._beam.kill()
                self._beam.wait()
        self._unwatch()
        with suppress(
            ProcessLookupError
        ):  # Erlang's helpers (port programs) are in its session; most end by themselves.
            os.killpg(self._beam.pid, signal.SIGKILL)
        self._beam = None

    def close(self) -> None:
        """Ends the node and throws its data away; again does no harm."""
        self.kill()
        if self._epmd.poll() is None:
            self._epmd.kill()
            self._epmd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what only its own tools can do -----------------------------------------------------------------------------

    def ctl(self, *arguments: str) -> str:
        """Runs ``rabbitmqctl`` against this node, which takes a second or two; what it printed."""
        tool = self._server.with_name("rabbitmqctl")
        done = subprocess.run(
            [tool, "-n", self.name, *arguments], env=self._environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def set_alarm(self, what: Literal["memory", "disk"] = "memory") -> None:
        """Makes the node believe that it has too little of something: it stops reading from publishers."""
        self.ctl("eval", f"rabbit_alarm:set_alarm({{{{resource_limit, {what}, node()}}, []}}).")
        assert self.alarmed(), "the alarm was not raised"

    def clear_alarm(self, what: Literal["memory", "disk"] = "memory") -> None:
        """Ends the alarm of `set_alarm`."""
        self.ctl("eval", f"rabbit_alarm:clear_alarm({{resource_limit, {what}, node()}}).")
        assert not self.alarmed(), "the alarm was not cleared"

    def alarmed(self) -> bool:
        """Whether the node blocks publishers now."""
        try:
            self.management.call("GET", "/health/checks/alarms")
        except AssertionError as error:
            if "answered 503" not in str(error):
                raise
            return True
        return False

    def log(self, lines: int = 40) -> str:
        """The end of what the node said."""
        files = [self.folder / "out", *(self.folder / "log").glob(f"{self.name}.log")]
        return "\n".join(
            line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()[-lines:]
        )


_QUIET: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "start_new_session": True,
}


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@functools.cache
def shared() -> Broker:
    """The broker for tests that do it no harm: the one that TELEX_TEST_AMQP names, else a node that runs until the
    tests end.

    Raises:
        BrokerMissing: There is no server to start.
    """
    given = os.environ.get(GIVEN)
    if given:
        parts = urlsplit(given)
        default = f"http://{parts.username}:{parts.password}@{parts.hostname}:15672"
        return Broker(given, os.environ.get("TELEX_TEST_AMQP_MANAGEMENT", default))
    node = Node()
    atexit.register(node.close)
    node.start()
    return node
