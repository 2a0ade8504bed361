"""Connections to clients, bounded in number, in time, and in what they may hold up; and how the server ends.

uvicorn speaks HTTP; what it lacks is here. Once a second every connection is looked at, so that a request costs nothing
for it. Knows no addresses and nothing of what is asked.
"""

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 64 * 1024  # of a request beside its body; browsers send 2 kB
CHUNK_OVERHEAD = 8  # bytes at the most around each of a body that comes a byte at a time
MOST_CONNECTIONS = 4_096
FILES_BESIDE = 256  # that are open for other things than connections
UNSENT_BYTES = 64 * 1024  # that the system keeps of an answer beside what is under way
CUT_SECONDS = 2.0  # in which those who are cut off at the end can be told why
AT_ONCE = 130  # exit status after a second Ctrl-C, as a shell has it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    connections: int = MOST_CONNECTIONS
    of_one_address: int = 512  # or network of a household, where addresses are long
    trusted: tuple[str, ...] = ()  # networks of proxies, which speak for many; this machine itself is trusted too
    head_seconds: float = 20.0  # from its first byte to its last
    body_seconds: float = 30.0  # and beside them as long as it takes at …
    body_bytes_a_second: int = 500
    stalled_seconds: float = 60.0  # in which a client takes nothing of what is there for it
    closing_seconds: float = 10.0  # the same, once all is said
    look_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """What is done at the end, in this order."""

    grace_seconds: float
    refuse: Callable[[], None]  # nothing new
    busy: Callable[[], bool]  # whether anything is still under way
    cut: Callable[[], Awaitable[None]]  # ends that, and whoever waits for it is told


class Connection(HttpToolsProtocol):
    def __init__(self, *args: Any, bounds: Bounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._since: float | None = None  # when the part began that the client is to send now, or None
        self._heading = True  # that is a head; else a body
        self._came = self._body = 0  # bytes of the request, and those of its body
        self._before: list[RequestResponseCycle] = []  # requests not answered yet when the next came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self._bounds.connections:
            transport.abort()
        elif len(self.connections) > self._bounds.of_one_address and self._is_crowd():
            self._refuse(503, "too_many_connections", "Too many connections come from this address; close some first.")

    def _is_crowd(self) -> bool:
        network = _network(self.client)
        if network is None or any(network.overlaps(ip_network(one)) for one in self._bounds.trusted):
            return False
        others = (getattr(one, "client", None) for one in self.connections)
        return sum(_network(client) == network for client in others) > self._bounds.of_one_address

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        super().data_received(data)
        if self._since is not None and self._came > HEAD_BYTES + CHUNK_OVERHEAD * self._body:
            self._refuse(431, "head_too_large", f"The request has more than {HEAD_BYTES // 1024} KiB beside its body.")
        elif self._since is None and self.cycle and self.cycle.response_complete and not self.timeout_keep_alive_task:
            self._since = self.loop.time()  # an empty line between two requests has ended uvicorn's patience

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._since, self._heading = self.loop.time(), True
        self._came, self._body = 1, 0  # what else of it came at once counts for nothing

    def on_headers_complete(self) -> None:
        self._since, self._heading = self.loop.time(), False
        if self.cycle and not self.cycle.response_complete:
            self._before = [one for one in (*self._before, self.cycle) if not one.response_complete]
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for one in self._before:  # uvicorn tells the last alone that its client has left
            one.disconnected = True
            one.message_event.set()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._since = None
        super().on_message_complete()

    def look(self, now: float) -> None:
        """Whether the client takes too long to ask."""
        if self._since is None or self.transport.is_closing() or self.flow.read_paused:
            return
        most = self._bounds.head_seconds
        if not self._heading:
            most = self._bounds.body_seconds + self._came / self._bounds.body_bytes_a_second
        if now - self._since > most:
            if not self._came:  # nothing was asked yet
                return self.transport.close()
            self._refuse(408, "too_slow", f"The request did not come within {most:.0f} s; send it again.")

    @property
    def works(self) -> bool:
        """Whether an answer is under way."""
        return bool(self.cycle) and not self.cycle.response_complete

    def _refuse(self, status: int, code: str, sentence: str) -> None:
        self._since = None
        if self.transport.is_closing():
            return
        if not (self.cycle and self.cycle.response_started and not self.cycle.response_complete):
            body = json.dumps({"error": sentence, "code": code}).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nRetry-After: 10\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Ends with Ctrl-C: what is under way may go on for a while, and is told when it is cut off. With a second one
    at once."""

    def __init__(self, config: uvicorn.Config, ending: Ending, bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        config.http = partial(Connection, bounds=bounds)  # type: ignore[assignment]
        super().__init__(config)
        self._ending, self._bounds = ending, bounds
        self._pending: dict[object, tuple[int, float]] = {}  # bytes that a client has not taken, since when as many
        self._looked = 0.0
        self._asked_to_end = False
        self._until: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            _bound(listener)
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_to_end:
            os._exit(AT_ONCE)  # all that is stored is whole at every moment
        self._asked_to_end = True

    async def on_tick(self, counter: int) -> bool:
        over = await super().on_tick(counter)
        now = asyncio.get_running_loop().time()
        if now - self._looked >= self._bounds.look_seconds:
            self._looked = now
            self._look(now)
        if over or not self._asked_to_end:
            return over
        if self._until is None:
            self._until = now + self._ending.grace_seconds
            self._ending.refuse()
            if self._works():
                log.info("stopping: what is under way has %.0f s; Ctrl-C ends at once", self._ending.grace_seconds)
        if now < self._until and self._works():
            return False
        if self._works():
            await self._cut()
        self.should_exit = True
        return True

    def _works(self) -> bool:
        connections = self.server_state.connections
        return self._ending.busy() or any(isinstance(one, Connection) and one.works for one in connections)

    async def _cut(self) -> None:
        log.info("stopping: what is still under way is cut off")
        until = time.monotonic() + CUT_SECONDS
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.cut(), CUT_SECONDS)
        while self._works() and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def _look(self, now: float) -> None:
        """Cuts off who takes too long to ask, or takes nothing of the answer: all that waits for it is freed."""
        pending: dict[object, tuple[int, float]] = {}
        for one in list(self.server_state.connections):
            if isinstance(one, Connection):
                one.look(now)
            if left := _pending_bytes(one.transport):
                before, since = self._pending.get(one, (0, now))
                pending[one] = left, since if left == before else now
                closing = one.transport.is_closing()
                most = self._bounds.closing_seconds if closing else self._bounds.stalled_seconds
                if now - pending[one][1] > most:
                    log.info("a connection is cut off: its client has taken nothing for %.0f s", most)
                    one.transport.abort()
        self._pending = pending


def _bound(listener: socket.socket) -> None:
    """So that the system gives up a client that has vanished without a word, and keeps little for a slow one. Those
    that come in by the listener are as it is; what a system does not know is left out."""
    options = (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),  # milliseconds in which nothing is taken, or nobody is there
        (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", UNSENT_BYTES),
    )
    for level, name, value in options:
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):
                listener.setsockopt(level, option, value)


def most_connections() -> int:
    """As many as files may be open, which are from now on as many as the system lets us have."""
    wanted = MOST_CONNECTIONS
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    most = wanted + FILES_BESIDE if unlimited else min(hard, wanted + FILES_BESIDE)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return wanted if soft == resource.RLIM_INFINITY else max(16, min(wanted, soft - FILES_BESIDE))


def _pending_bytes(transport: asyncio.Transport | None) -> int:
    """What a client has not taken yet of what was written: ours and, where it tells, the system's."""
    size = transport.get_write_buffer_size() if transport else 0
    if size and transport and sys.platform != "win32":
        import fcntl
        import termios

        with suppress(OSError, AttributeError):
            sent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            size += int.from_bytes(sent, sys.byteorder)
    return size


def _network(client: Sequence[Any] | None) -> IPv4Network | IPv6Network | None:
    """Whose connection that is; None for this machine's own."""
    return _network_of(client[0]) if client else None


@lru_cache(MOST_CONNECTIONS)  # all are looked at for each that comes in from a crowd
def _network_of(said: str) -> IPv4Network | IPv6Network | None:
    try:
        address = ip_address(said)
    except ValueError:
        return None
    if address.is_loopback:
        return None
    return ip_network((address, 64 if address.version == 6 else 32), strict=False)
