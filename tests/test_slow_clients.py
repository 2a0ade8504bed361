"""A client that is slow, silent or gone holds nothing for long: over raw sockets, with short patience."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncGenerator, Iterator
from ipaddress import ip_network

import httpx
import pytest
from websockets.sync.client import connect

from engine.backends.echo import EchoBackend
from engine.server import connections
from engine.server.connections import HEAD_BYTES, Bounds, Ending, Server
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon

ASKED = {"text": "Hello there.", "source_lang": "en", "target_lang": "fr"}
GUSH_BYTES = 1_000_000
WAIT = "Wait for it."
SHORT = Bounds(
    connections=40,
    of_one_address=4,
    head_seconds=0.6,
    body_seconds=0.3,
    body_bytes_a_second=5_000,
    stalled_seconds=1.0,
    closing_seconds=0.5,
    look_seconds=0.1,
)


async def nothing() -> None:
    pass


class Gushes(EchoBackend):
    """Says more than all buffers hold, and the self-test's words back."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.running += 1
        try:
            await asyncio.sleep(20 * (prompt.source == WAIT))
            for _ in range(GUSH_BYTES // 20_000 if prompt.source == ASKED["text"] else 1):
                await asyncio.sleep(0)
                yield TokenChunk("x" * 20_000)
            yield TokenChunk("", 0, "stop")
        finally:
            self.running -= 1


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    ending = Ending(0, lambda: None, lambda: False, nothing)
    return serve(Gushes(slots=1), slots=1, max_requests=1, serving=lambda config: Server(config, ending, SHORT))


@pytest.fixture
def raw(url: str) -> Iterator[socket.socket]:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(9)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        yield client


def rest_of(client: socket.socket) -> bytes:
    said = b""
    try:
        while data := client.recv(65536):
            said += data
    except ConnectionResetError:
        pass
    return said


def trickle(client: socket.socket, data: bytes) -> bytes:
    """Sends a byte now and then, until it is answered."""
    for byte in data:
        try:
            client.sendall(bytes((byte,)))
        except OSError:
            break
        client.settimeout(0.05)
        try:
            if said := client.recv(65536):
                return said
        except TimeoutError:
            continue
        except OSError:
            break
        finally:
            client.settimeout(9)
    return rest_of(client)


def request(**fields: object) -> bytes:
    body = json.dumps({**ASKED, **fields}).encode()
    head = (
        f"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return f"{head}\r\n\r\n".encode() + body


def idle(url: str) -> bool:
    return bool(httpx.get(f"{url}/system").json()["scheduler"]["requests"] == 0)


def test_each_of_several_requests_on_a_connection_hears_that_it_is_closed(url: str, raw: socket.socket) -> None:
    raw.sendall(request(text=WAIT) + request() + b"this is no HTTP\r\n\r\n")
    assert b" 400 " in rest_of(raw).partition(b"\r\n")[0]
    soon(lambda: idle(url))


def test_a_connection_on_which_nothing_is_asked_is_closed(raw: socket.socket) -> None:
    assert rest_of(raw) == b""


def test_a_connection_kept_by_empty_lines_is_closed(raw: socket.socket) -> None:
    raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
    raw.sendall(b"\r\n")
    rest_of(raw)


def test_a_head_that_comes_byte_by_byte_is_given_up_with_a_sentence(raw: socket.socket) -> None:
    said = trickle(raw, b"GET / HTTP/1.1\r\nHost: " + b"x" * 500)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"did not come within 1 s" in said


def test_a_body_that_comes_byte_by_byte_is_given_up_with_a_sentence(raw: socket.socket, url: str) -> None:
    raw.sendall(request()[:-20])
    said = trickle(raw, b" " * 500)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_long_body_may_take_its_time(raw: socket.socket) -> None:
    asked = request(text="x" * 30_000, target_lang="xx")
    for start in range(0, len(asked), 3_000):
        raw.sendall(asked[start : start + 3_000])
        time.sleep(0.12)
    assert raw.recv(65536).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_without_end_is_refused(raw: socket.socket, start: bytes) -> None:
    raw.sendall(start)
    time.sleep(0.1)
    raw.sendall(b"x" * (HEAD_BYTES + 1))
    assert rest_of(raw).startswith(b"HTTP/1.1 431 ")


def test_a_reader_of_a_stream_that_takes_nothing_is_cut_off(raw: socket.socket, url: str) -> None:
    raw.sendall(request(stream=True))
    soon(lambda: not idle(url))
    assert httpx.post(f"{url}/translate", json=ASKED).status_code == 503  # it holds the only place
    soon(lambda: idle(url))


def test_a_socket_whose_reader_takes_nothing_is_cut_off(url: str) -> None:
    with connect(f"ws{url[4:]}/ws/translate", max_queue=1, compression=None, close_timeout=0.1) as client:
        client.send(json.dumps({"type": "start", "id": "r", **ASKED}))
        soon(lambda: not idle(url))
        soon(lambda: idle(url))


def test_a_reader_who_is_slow_but_reads_gets_all(raw: socket.socket) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_000_000)
    raw.sendall(request(stream=True).replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
    taken, until = 0, time.monotonic() + 2.5  # longer than a reader may pause
    while data := raw.recv(4096 if time.monotonic() < until else 1_000_000):
        taken += len(data)
        if time.monotonic() < until:
            time.sleep(0.02)
    assert taken > 2 * GUSH_BYTES  # as deltas, and as a whole


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_resets_its_connection_frees_its_place_at_once(
    raw: socket.socket, url: str, stream: bool
) -> None:
    raw.sendall(request(stream=stream, text=WAIT))
    soon(lambda: not idle(url))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    soon(lambda: idle(url))


def test_more_connections_than_there_may_be_are_closed_at_once(url: str) -> None:
    port = int(url.rpartition(":")[2])
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(SHORT.connections + 5)]
    try:
        for client in held[-3:]:
            client.settimeout(0.5)
            assert rest_of(client) == b""
    finally:
        for client in held:
            client.close()


def test_one_address_may_not_take_all_connections(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_network", lambda client: client and ip_network("192.0.2.1"))
    port = int(url.rpartition(":")[2])
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(SHORT.of_one_address + 3)]
    try:
        held[-1].settimeout(5)
        said = rest_of(held[-1])
    finally:
        for client in held:
            client.close()
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"Too many connections come from this address" in said
