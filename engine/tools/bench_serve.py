"""Loads the faces of a server in another process: requests and deltas a second, hundreds of clients at once, and a line
beside books. Knows HTTP and the messages of the WebSocket, and nothing of the engine.

python -m engine.tools.bench serve
python -m engine.tools.bench serve --model embedded --clients 32
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import httpx
import psutil
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tqdm import tqdm  # type: ignore[import-untyped]
from websockets.asyncio.client import connect

from engine.errors import StartupError
from engine.tools.asked import amount, count

ABOUT = "the faces under load: requests and deltas a second, many clients, a line beside books"
APP = Path(__file__).parents[2] / "app.py"
READY_SECONDS = 180.0
WARM_SECONDS = 1.0
TAKEN_BACK_EVERY = 10  # of a client's runs one is cancelled
LONG_CHARACTERS = 4_000
BOOKS, BOOK_WORDS = 10, 20_000
LINES = 20  # asked one after the other, alone and beside the books
PATIENCE_SECONDS = 120.0  # for an answer that does not come
SENTENCE = "The committee has not yet decided whether the new bridge should be built a little further down the river. "
PARTS = ("short", "deltas", "crowd", "beside")

Message = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a server that is running; else one is started, and stopped at the end")
    parser.add_argument("--model", help="of the server that is started; else it says back what it is sent (echo)")
    parser.add_argument("--clients", type=count, default=300, help="WebSocket clients at once")
    parser.add_argument("--seconds", type=amount, default=60.0, help="that they keep asking; a sixth for each rate")
    parser.add_argument("--connections", type=count, default=16, help="of what the rates are measured on")
    parser.add_argument("--parts", default=",".join(PARTS), help="of the bench, parted by commas")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise StartupError(f"--parts: there is no {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}.")
    with _served(arguments.url, arguments.model) as server:
        return {"model": server.model} | uvloop.run(_measured(server, arguments, parts))


def show(result: dict[str, Any]) -> str:
    lines = [f"model {result['model']}"]
    if short := result.get("short"):
        lines.append(
            f"short texts: {short['per_second']:,} requests/s, p50 {short['p50_ms']} ms, p99 {short['p99_ms']} ms; "
            f"a bare Starlette app {short['bare_per_second']:,}/s ({short['of_bare']:.0%} of that)"
        )
    if deltas := result.get("deltas"):
        lines.append(f"WebSocket: {deltas['per_second']:,} deltas/s")
    if crowd := result.get("crowd"):
        lines.append(
            f"{crowd['clients']} clients: {crowd['done']:,} done, {crowd['cancelled']:,} cancelled, "
            f"{crowd['refused']:,} refused, {crowd['wrong']} wrong; first delta p50 {crowd['p50_ms']} ms, "
            f"p99 {crowd['p99_ms']} ms; fairness {crowd['fairness']}"
        )
    if beside := result.get("beside"):
        lines.append(
            f"a line: first delta in {beside['alone_ms']} ms alone, {beside['beside_ms']} ms (p99 "
            f"{beside['beside_p99_ms']}) beside {BOOKS} books of {BOOK_WORDS:,} words: {beside['times']} ×"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# servers


@dataclass(frozen=True, slots=True)
class _Server:
    host: str
    port: int
    model: str
    echoes: bool
    pid: int | None  # None: somebody else's

    def is_right(self, source: str, translation: str) -> bool:
        return translation == source if self.echoes else bool(translation.strip())


@contextmanager
def _served(url: str | None, model: str | None) -> Iterator[_Server]:
    if url:
        parts = urlsplit(url)
        yield _described(parts.hostname or "127.0.0.1", parts.port or 80, None)
        return
    port = _free_port()
    chosen = ["--model", model] if model else ["--backend", "echo"]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        command = [
            sys.executable,
            str(APP),
            *chosen,
            "--port",
            str(port),
            "--data-dir",
            folder,
            "--max-waiting",
            "1024",
        ]
        process = subprocess.Popen(command, stderr=log)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StartupError(f"The server did not start: {(Path(folder) / 'log').read_text()[-2_000:]}")
                time.sleep(0.2)
            yield _described("127.0.0.1", port, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _described(host: str, port: int, pid: int | None) -> _Server:
    name = httpx.get(f"http://{host}:{port}/readyz", timeout=30).json()["model"]
    return _Server(host, port, name, name == "echo", pid)


def _serve_bare(port: int) -> None:
    """What no server in this language can be faster than: a constant answer."""

    async def answer(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse({"translation": "Save it."})

    app = Starlette(routes=[Route("/translate", answer, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="warning")


# ---------------------------------------------------------------------------------------------------------------------
# the parts


async def _measured(server: _Server, arguments: argparse.Namespace, parts: Sequence[str]) -> dict[str, Any]:
    steps: dict[str, Callable[[], Any]] = {
        "short": lambda: _short(server, arguments.connections, arguments.seconds / 6),
        "deltas": lambda: _deltas(server, arguments.connections, arguments.seconds / 6),
        "crowd": lambda: _crowd(server, arguments.clients, arguments.seconds),
        "beside": lambda: _beside(server),
    }
    result: dict[str, Any] = {}
    for part in tqdm([part for part in PARTS if part in parts], unit="part"):
        result[part] = await steps[part]()
    if server.pid:
        result["rss_mb"] = round(psutil.Process(server.pid).memory_info().rss / 1e6)
    return result


async def _short(server: _Server, connections: int, seconds: float) -> dict[str, Any]:
    """Answers a second to one line each, over connections that stay open, and the same of a bare app."""
    port = _free_port()
    bare = multiprocessing.get_context("spawn").Process(target=_serve_bare, args=(port,), daemon=True)
    bare.start()
    try:
        bare_per_second, _ = await _asked("127.0.0.1", port, connections, seconds / 2, lambda _source, _answer: True)
    finally:
        bare.terminate()
    per_second, took = await _asked(server.host, server.port, connections, seconds, server.is_right)
    return {
        "per_second": round(per_second),
        **_percentiles(took),
        "bare_per_second": round(bare_per_second),
        "of_bare": round(per_second / bare_per_second, 3),
    }


async def _asked(
    host: str, port: int, connections: int, seconds: float, is_right: Callable[[str, str], bool]
) -> tuple[float, list[float]]:
    """(answers a second, seconds of each)"""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_SECONDS
    askers: list[_Asker] = []
    while len(askers) < connections:
        try:
            _, asker = await loop.create_connection(lambda: _Asker(host, is_right), host, port)
            askers.append(asker)
        except OSError:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.1)
    await asyncio.sleep(WARM_SECONDS)
    began, before = time.perf_counter(), [len(asker.took) for asker in askers]
    await asyncio.sleep(seconds)
    spent = time.perf_counter() - began
    took = [each for asker, start in zip(askers, before, strict=True) for each in asker.took[start:]]
    await asyncio.gather(*(asker.end() for asker in askers))
    return len(took) / spent, took


async def _deltas(server: _Server, connections: int, seconds: float) -> dict[str, Any]:
    """Deltas a second of long texts, one after the other on each of some sockets."""
    sockets = [await _opened(server) for _ in range(connections)]
    until = time.perf_counter() + WARM_SECONDS + seconds
    text = (SENTENCE * (LONG_CHARACTERS // len(SENTENCE))).strip()

    async def ask(sock: _Socket) -> None:
        while time.perf_counter() < until:
            answer = await sock.run(text)
            if not server.is_right(text, answer.text):
                raise StartupError(f"A long text came back wrong: {answer.end}")

    tasks = [asyncio.create_task(ask(sock)) for sock in sockets]
    await asyncio.sleep(WARM_SECONDS)
    began, before = time.perf_counter(), sum(sock.deltas for sock in sockets)
    await asyncio.sleep(seconds)
    per_second = (sum(sock.deltas for sock in sockets) - before) / (time.perf_counter() - began)
    await asyncio.gather(*tasks)
    for sock in sockets:
        sock.close()
    return {"per_second": round(per_second)}


async def _crowd(server: _Server, clients: int, seconds: float) -> dict[str, Any]:
    """Clients that ask one text after the other, each of a few sentences; some are cancelled at their first delta."""
    until = time.perf_counter() + seconds
    ends: Counter[str] = Counter()
    first: list[float] = []
    finished = [0] * clients

    async def client(number: int) -> None:
        dice = random.Random(number)
        async with connect(f"ws://{server.host}:{server.port}/ws/translate") as sock:
            run = 0
            while time.perf_counter() < until:
                run += 1
                text = f"Client {number} asks {run}. " + " ".join(dice.sample(SENTENCE.split(), 12)) + "."
                asked, answer = time.perf_counter(), _Answer()
                await sock.send(_start(f"r{run}", text))
                while not answer.end:
                    answer.take(json.loads(await asyncio.wait_for(sock.recv(), PATIENCE_SECONDS)))
                    if answer.deltas == 1 and not answer.first:
                        answer.first = time.perf_counter() - asked
                        if run % TAKEN_BACK_EVERY == 0:
                            await sock.send(json.dumps({"type": "cancel", "id": f"r{run}"}))
                end, right = answer.end["type"], server.is_right(text, answer.text)
                while end == "done" and run % TAKEN_BACK_EVERY == 0 and answer.end["type"] != "cancelled":
                    answer.end = json.loads(await sock.recv())  # it was done before it was cancelled
                if end == "error" and answer.end["code"] in ("overloaded", "too_many_requests"):
                    ends["refused"] += 1
                    await asyncio.sleep(dice.random())
                    continue
                wrong = end == "error" or (end == "done" and not right)
                ends["wrong" if wrong else end] += 1
                finished[number] += 1
                first.append(answer.first)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return {
        "clients": clients,
        "seconds": seconds,
        **{end: ends[end] for end in ("done", "cancelled", "refused", "wrong")},
        **_percentiles(first),
        "fairness": round(jain(finished), 4),
        "least_and_most_runs": [min(finished), max(finished)],
    }


async def _beside(server: _Server) -> dict[str, Any]:
    """The time to the first delta of a line, alone and while books are translated."""
    line = await _opened(server)
    alone = await _lines(server, line)
    books = [await _opened(server) for _ in range(BOOKS)]
    for number, sock in enumerate(books):
        dice = random.Random(number)
        words = [word for _ in range(BOOK_WORDS // 18 + 1) for word in dice.sample(SENTENCE.split(), 18)]
        lines = [" ".join(words[at : at + 12]) + "." for at in range(0, BOOK_WORDS, 12)]
        sock.begin("\n".join(lines))
    while not all(sock.deltas for sock in books):
        await asyncio.sleep(0.01)
    beside = await _lines(server, line)
    still = sum(not sock.answer.end for sock in books)
    for sock in [*books, line]:
        sock.close()
    told, quiet = _percentiles(beside), _percentiles(alone)
    return {
        "alone_ms": quiet["p50_ms"],
        "beside_ms": told["p50_ms"],
        "alone_p99_ms": quiet["p99_ms"],
        "beside_p99_ms": told["p99_ms"],
        "times": round(told["p50_ms"] / quiet["p50_ms"], 2),
        "books_at_the_end": still,
    }


async def _lines(server: _Server, sock: "_Socket") -> list[float]:
    first = []
    for number in range(LINES):
        text = f"Where is bridge number {number}?"
        answer = await sock.run(text)
        if not server.is_right(text, answer.text):
            raise StartupError(f"A line came back wrong: {answer.end}")
        first.append(answer.first)
        await asyncio.sleep(0.02)
    return first


def jain(counts: Sequence[int]) -> float:
    """Fairness after Jain, Chiu and Hawe (1984): 1 where all have as much, 1/n where one has all."""
    squares = sum(each * each for each in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    return {
        f"p{part}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * part // 100)] * 1000, 2)
        for part in (50, 95, 99)
    }


# ---------------------------------------------------------------------------------------------------------------------
# clients: with as little work as can be, since they share the machine with the server


class _Asker(asyncio.Protocol):
    """Asks for one short text after the other."""

    def __init__(self, host: str, is_right: Callable[[str, str], bool]) -> None:
        self.took: list[float] = []
        self._host = host
        self._is_right = is_right
        self._ending: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._ask()

    def _ask(self) -> None:
        self._text = f"Save page {len(self.took)}."
        body = json.dumps({"text": self._text, "source_lang": "en", "target_lang": "fr"}).encode()
        head = f"POST /translate HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\nContent-Length: "
        self._body = b""
        self._asked = time.perf_counter()
        self._transport.write(f"{head}{len(body)}\r\n\r\n".encode() + body)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200 or not self._is_right(self._text, json.loads(self._body)["translation"]):
            self._transport.abort()
            raise StartupError(f"A short text came back wrong, with {status}: {self._body[:200]!r}")
        self.took.append(time.perf_counter() - self._asked)
        if self._ending:
            self._ending.set_result(None)
        else:
            self._ask()

    async def end(self) -> None:
        """After the answer under way."""
        self._ending = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self._ending, PATIENCE_SECONDS)
        self._transport.close()


@dataclass(slots=True)
class _Answer:
    """A run, as its messages tell it."""

    parts: dict[int, str] = field(default_factory=dict)  # by segment
    deltas: int = 0
    first: float = 0.0  # seconds to the first delta
    end: Message = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the deltas come to, where that is what is told at the end."""
        joined = "".join(self.parts.values())
        return joined if joined == self.end.get("translation") else ""

    def take(self, message: Message) -> None:
        match message["type"]:
            case "delta":
                self.deltas += 1
                number = message["segment"]
                self.parts[number] = self.parts.get(number, "") + message["text"]
            case "replace":
                self.parts[message["segment"]] = message["text"]
            case "done" | "cancelled" | "error":
                self.end = message


def _start(name: str, text: str) -> str:
    return json.dumps({"type": "start", "id": name, "text": text, "source_lang": "en", "target_lang": "fr"})


async def _opened(server: _Server) -> "_Socket":
    _, sock = await asyncio.get_running_loop().create_connection(lambda: _Socket(server), server.host, server.port)
    await asyncio.wait_for(sock.open, PATIENCE_SECONDS)
    return sock


class _Socket(asyncio.Protocol):
    """A WebSocket that has one run at a time."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer = _Answer()
        self.deltas = 0  # of all runs
        self._runs = 0
        self._data = b""
        self._ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        lines = [
            "GET /ws/translate HTTP/1.1",
            f"Host: {self._server.host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            "Sec-WebSocket-Version: 13",
        ]
        self._transport.write("\r\n".join([*lines, "", ""]).encode())

    def begin(self, text: str) -> None:
        self._runs += 1
        self._began, self.answer = time.perf_counter(), _Answer()
        self._ended.clear()
        self._send(_start(f"r{self._runs}", text).encode())

    async def run(self, text: str) -> _Answer:
        self.begin(text)
        await asyncio.wait_for(self._ended.wait(), PATIENCE_SECONDS)
        return self.answer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.open.done():
            head, whole, rest = self._data.partition(b"\r\n\r\n")
            if not whole:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                return self.open.set_exception(StartupError(f"No WebSocket: {head[:200]!r}"))
            self._data = rest
            self.open.set_result(None)
        at = 0
        while frame := _frame(self._data, at):
            opcode, start, at = frame
            if opcode == 1:
                self._take(json.loads(self._data[start:at]))
            elif opcode == 9:
                self._send(self._data[start:at], opcode=10)
        self._data = self._data[at:]

    def _take(self, message: Message) -> None:
        answer = self.answer
        answer.take(message)
        if message["type"] == "delta":
            self.deltas += 1
            answer.first = answer.first or time.perf_counter() - self._began
        elif answer.end:
            self._ended.set()

    def _send(self, payload: bytes, opcode: int = 1) -> None:
        """Masked with zeros, which changes nothing."""
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 2**16:
            length = b"\xfe" + size.to_bytes(2, "big")
        else:
            length = b"\xff" + size.to_bytes(8, "big")
        self._transport.write(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload)


def _frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """(opcode, where its payload starts, where it ends), if all of it is there."""
    if len(data) < at + 2:
        return None
    size, start = data[at + 1] & 0x7F, at + 2
    if size >= 126:
        more = 2 if size == 126 else 8
        size, start = int.from_bytes(data[start : start + more], "big"), start + more
    return (data[at] & 0xF, start, start + size) if len(data) >= start + size else None
