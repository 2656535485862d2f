"""A TCP proxy that breaks on request: what stands between an application and its broker in tests of faults.

It runs on a thread of its own, so that a test which blocks, or a handler that does, cannot hold up the traffic.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Self, TypeVar

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0
"""Seconds within which the proxy's own thread must answer."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends RST instead of FIN (POSIX, socket options)."""


class Proxy:
    """Passes on what comes, until told otherwise. Every method may be called from any thread.

    Use it as a context manager; leaving it closes everything.

    Args:
        host: Where the broker is.
        port: Its port.
        listen: The proxy's own port on 127.0.0.1; 0 takes a free one.

    Attributes:
        port: Where it listens. Stays the same over `refuse` and `accept`.
        accepted: Connections taken so far.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self._target = (host, port)
        self.port = listen
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._dropping = False
        self._stalled = False
        self._latency = 0.0

    def __enter__(self) -> Self:
        """Begins to listen.

        Raises:
            OSError: The port is taken.
        """
        self._thread.start()
        try:
            self.accept()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self._close_all)
        self._end()

    # -- faults -----------------------------------------------------------------------------------------------------

    def reset(self) -> int:
        """Resets all open connections on both sides (RST: what is under way is thrown away); how many."""
        return self._call(lambda: self._each(_Pair.reset))

    def cut(self) -> int:
        """Closes all open connections on both sides in good order (FIN); how many."""
        return self._call(lambda: self._each(_Pair.cut))

    def drop(self) -> int:
        """Loses every packet from now on, silently: open connections look open to both sides and nothing comes
        through; new ones are taken and nothing comes through; how many are open.

        `heal` lets new connections work. Those that were open stay lost, as behind a router that has forgotten them.
        """

        def drop() -> int:
            self._dropping = True
            return self._each(_Pair.drop)

        return self._call(drop)

    def stall(self) -> int:
        """Stops all traffic and loses none of it: `heal` lets it go on where it stopped; how many are open."""

        def stall() -> int:
            self._stalled = True
            return self._each(lambda pair: pair.stall(True))

        return self._call(stall)

    def delay(self, seconds: float) -> None:
        """Holds every packet back for so long, in both directions, from now on; 0 ends it."""

        def delay() -> None:
            self._latency = seconds

        self._call(delay)

    def refuse(self) -> None:
        """Refuses new connections until `accept` or `heal`; open ones stay."""
        self._call(self._stop_listening)

    def accept(self) -> None:
        """Takes new connections again.

        Raises:
            OSError: Somebody else has taken the port meanwhile.
        """
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE)

    def heal(self) -> None:
        """Ends `drop`, `stall`, `delay` and `refuse`."""

        def heal() -> None:
            self._dropping = self._stalled = False
            self._latency = 0.0
            self._each(lambda pair: pair.stall(False))

        self._call(heal)
        self.accept()

    @property
    def open(self) -> int:
        """Connections that are open now, lost ones among them."""
        return self._call(lambda: len(self._pairs))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, action: Callable[[], T]) -> T:
        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def _each(self, action: Callable[[_Pair], None]) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            action(pair)
        return len(pairs)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(
                lambda: _Pair(self, self._target).client, LOOPBACK, self.port, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _close_all(self) -> None:
        self._stop_listening()
        self._each(_Pair.cut)

    def _end(self) -> None:
        # Transports close in the turn after the one that asked for it.
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.01, self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class _Pair:
    """One connection through the proxy: the client's side and the broker's."""

    def __init__(self, proxy: Proxy, target: tuple[str, int]) -> None:
        self.proxy = proxy
        self.lost = proxy._dropping
        self.client = _Side(self)
        self.broker = _Side(self)
        self.client.other, self.broker.other = self.broker, self.client
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The client is there: reaches for the broker."""
        self.proxy.accepted += 1
        self.proxy._pairs.add(self)
        if self.proxy._stalled:
            self.stall(True)
        if not self.lost:
            self._connecting = self.proxy._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self.proxy._loop.create_connection(lambda: self.broker, *self._target)
        except OSError:
            self.reset()
        else:
            if self.client.transport is None or self.client.transport.is_closing():
                self.cut()

    def reset(self) -> None:
        """RST to both sides."""
        for side in (self.client, self.broker):
            if side.transport is not None:
                side.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                side.transport.abort()
        self.gone()

    def cut(self) -> None:
        """FIN to both sides."""
        for side in (self.client, self.broker):
            if side.transport is not None:
                side.transport.close()
        self.gone()

    def drop(self) -> None:
        """Nothing comes through any more, and neither side learns of it."""
        self.lost = True
        for side in (self.client, self.broker):
            side.held.clear()
            side.resume_reading()

    def stall(self, on: bool) -> None:
        """Neither side is read from while it is on."""
        for side in (self.client, self.broker):
            if on:
                side.pause_reading()
            else:
                side.resume_reading()

    def closed(self, side: _Side) -> None:
        """One side has closed its connection; the other learns of it, unless packets are lost."""
        if self.lost:
            if side is self.client:
                if self.broker.transport is not None:
                    self.broker.transport.abort()
                self.gone()
            return
        side.other.finish()
        self.gone()

    def gone(self) -> None:
        """Forgets the pair."""
        self.proxy._pairs.discard(self)
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()


class _Side(asyncio.Protocol):
    """One end of a pair."""

    other: _Side

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self.transport: asyncio.Transport | None = None
        self.held: deque[tuple[float, bytes]] = deque()
        """What waits to be written to this side, and until when."""
        self._ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._pair.proxy._stalled:
            transport.pause_reading()
        if self is self._pair.client:
            self._pair.begin()
        else:
            self._flush()

    def data_received(self, data: bytes) -> None:
        if not self._pair.lost:
            self.other.put(data)

    def put(self, data: bytes) -> None:
        """Writes to this side, after the delay, in order."""
        latency = self._pair.proxy._latency
        if not latency and not self.held and self.transport is not None:
            self.transport.write(data)
            return
        loop = self._pair.proxy._loop
        self.held.append((loop.time() + latency, data))
        if self.transport is not None:
            loop.call_later(latency, self._flush)

    def _flush(self) -> None:
        loop = self._pair.proxy._loop
        if self.transport is None or self._pair.lost:
            return
        while self.held and self.held[0][0] <= loop.time() + 1e-3:
            self.transport.write(self.held.popleft()[1])
        if self.held:
            loop.call_at(self.held[0][0], self._flush)
        elif self._ending:
            self.transport.close()

    def finish(self) -> None:
        """The other side has closed: closes this one when everything is written."""
        self._ending = True
        self._flush()

    def pause_writing(self) -> None:
        self.other.pause_reading()

    def resume_writing(self) -> None:
        if not self._pair.proxy._stalled:
            self.other.resume_reading()

    def pause_reading(self) -> None:
        """Takes nothing from this side."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes from this side again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._pair.closed(self)
