"""The proxy: it passes everything on, and each fault does what its name says to both sides."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from telex.testing.proxy import Proxy


class Echo:
    """A server that sends back what it gets, and knows how its connections ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.ends: list[str] = []
        self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.received += len(data)
                    connection.sendall(data)
                self.ends.append("closed")
            except ConnectionResetError:
                self.ends.append("reset")


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as made:
        yield made


def client(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 5)


def say(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(65536)


def until(true: object) -> None:
    assert callable(true)
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_everything_passes_in_order_and_a_slow_reader_holds_the_writer_up(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        sent = bytes(range(256)) * 40_000
        got = bytearray()

        def read() -> None:
            time.sleep(0.3)
            while len(got) < len(sent):
                got.extend(connection.recv(1 << 20))

        reader = threading.Thread(target=read)
        reader.start()
        connection.sendall(sent)
        reader.join(20)
        assert bytes(got) == sent
        assert proxy.open == proxy.accepted == 1
    until(lambda: echo.ends == ["closed"])
    until(lambda: proxy.open == 0)


def test_reset_is_a_reset_on_both_sides_and_the_next_connection_works(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        assert say(connection, b"a") == b"a"
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    until(lambda: echo.ends == ["reset"])
    with client(proxy) as connection:
        assert say(connection, b"b") == b"b"


def test_cut_is_an_end_in_good_order(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        assert say(connection, b"a") == b"a"
        assert proxy.cut() == 1
        assert connection.recv(1) == b""
    until(lambda: echo.ends == ["closed"])


def test_dropped_packets_are_noticed_by_nobody(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        assert say(connection, b"a") == b"a"
        assert proxy.drop() == 1
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            say(connection, b"lost")
        with client(proxy) as other:
            other.settimeout(0.3)
            with pytest.raises(TimeoutError):
                say(other, b"lost too")
        assert echo.received == 1
        assert echo.ends == []
        proxy.heal()
        with pytest.raises(TimeoutError):  # Forgotten for good.
            say(connection, b"lost still")
        with client(proxy) as new:
            assert say(new, b"b") == b"b"
        assert echo.received == 2


def test_the_end_of_the_broker_is_lost_as_well(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        say(connection, b"a")
        proxy.drop()
        (pair,) = proxy._pairs
        transport = pair.broker.transport
        assert transport is not None
        proxy._call(transport.abort)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_stall_loses_nothing(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        assert say(connection, b"a") == b"a"
        assert proxy.stall() == 1
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            say(connection, b"late")
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(100) == b"late"


def test_latency_delays_both_ways_and_keeps_the_order(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert say(connection, b"a") == b"a"
        proxy.delay(0.5)
        begun = time.monotonic()
        connection.sendall(b"1")
        time.sleep(0.02)
        connection.sendall(b"2")
        got = b""
        while len(got) < 2:
            got += connection.recv(10)
        assert got == b"12"
        assert 0.99 < time.monotonic() - begun < 10
        proxy.delay(0)
        begun = time.monotonic()
        assert say(connection, b"3") == b"3"
        assert time.monotonic() - begun < 0.5


def test_refusing_leaves_open_connections_alone(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert say(connection, b"a") == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            client(proxy)
        assert say(connection, b"b") == b"b"
        proxy.accept()
        with client(proxy) as other:
            assert say(other, b"c") == b"c"


def test_without_a_broker_a_connection_is_reset(proxy: Proxy, echo: Echo) -> None:
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()
    # The reset may come while this side is still in connect(), or after it.
    with pytest.raises(ConnectionResetError), client(proxy) as connection:
        connection.recv(1)
