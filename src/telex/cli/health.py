"""The health endpoint: /live, /ready and /metrics, on a thread of its own, so that a blocked event loop can be told."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from . import prometheus
from .board import Board
from .output import Exit, Failure

PATIENCE = 5.0
"""Seconds a client has to say what it wants."""
MOST = 32
"""Requests answered at once; more are turned away, so that nobody can fill the memory with them."""
TEXT = "text/plain; charset=utf-8"


@contextmanager
def serving(address: tuple[str, int], board: Board) -> Iterator[tuple[str, int]]:
    """Answers while the block runs; the address it listens on.

    Raises:
        Failure: The port is taken, or the address is none of this host.
    """
    server = _listen(*address, board)
    thread = threading.Thread(target=server.serve_forever, name="telex health", daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[:2]
    finally:
        server.shutdown()
        server.server_close()


def _listen(host: str, port: int, board: Board) -> _Server:
    where = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _Server(family, (str(address[0]), int(address[1])), board)
    except PermissionError as error:
        raise Failure(
            Exit.USAGE, f"--health {where}: this user may not listen there; take a port above 1023"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Failure(
                Exit.USAGE,
                f"--health {where}: port {port} is taken by another process, perhaps a worker that runs already; "
                "choose another port",
            ) from error
        raise Failure(Exit.USAGE, f"--health {where}: cannot listen there: {error.strerror or error}") from error


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, family: int, address: tuple[str, int], board: Board) -> None:
        self.address_family = family
        self.board = board
        self._slots = threading.BoundedSemaphore(MOST)
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # No thread could be started, so none gives the slot back.
            self._slots.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "telex"
    sys_version = ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/live":
            self._state(self.server.board.stuck(), "alive")
        elif path == "/ready":
            self._state(self.server.board.unready(), "ready")
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, prometheus.CONTENT_TYPE, prometheus.page(self.server.board))
        elif path == "/":
            self._answer(HTTPStatus.OK, TEXT, "/live\n/ready\n/metrics\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, TEXT, "there are /live, /ready and /metrics\n")

    do_HEAD = do_GET

    def _state(self, wrong: list[str], well: str) -> None:
        if wrong:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, "\n".join(wrong) + "\n")
        else:
            self._answer(HTTPStatus.OK, TEXT, well + "\n")

    def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes every few seconds are no news."""
