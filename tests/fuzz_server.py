"""Malformed HTTP and WebSocket messages, by hypothesis and by hand, at all faces: nothing may be a mistake of ours, and
nothing may be left behind.

python -m tests.fuzz_server --messages 20000
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.running import Running, running

AT_ONCE = 40
ANSWER_SECONDS = 0.5  # that an answer is waited for; many a message has none
OUR_MISTAKE = rb'"code": ?"internal"'
SETTLED_SECONDS = 30.0

BODIES: dict[str, dict[str, Any]] = {  # of addresses, as they are taken
    "/translate": {"text": "Hello there.", "source_lang": "en", "target_lang": "fr", "glossary": {}, "sampling": {}},
    "/translate?": {"q": "Hello there.", "source": "en", "target": "fr", "format": "text", "alternatives": 1},
    "/detect": {"text": "Hello there."},
    "/detect?": {"q": ["Hello there."]},
    "/suggest": {"q": "Hello", "s": "Salut", "source": "en", "target": "fr"},
    "/prompt": {"text": "Hello there.", "target_lang": "fr", "segment": 0},
    "/alternatives": {"text": "Hello there.", "target_lang": "fr", "count": 1},
    "/render": {"text": "# Hello", "format": "markdown"},
    "/glossaries": {"name": "a", "source_lang": "en", "target_lang": "fr", "terms": [{"source": "a", "target": "b"}]},
    "/documents/0/segments/0": {"text": "Hello"},
    "/v1/chat/completions": {"model": "yiwen", "messages": [{"role": "user", "content": "Translate to French: Hello"}]},
    "/v1/responses": {"model": "yiwen", "input": "Translate to French: Hello", "stream": False},
    "/v2/translate": {"text": ["Hello there."], "target_lang": "FR", "tag_handling": "html", "context": ""},
    "/v2/document": {"target_lang": "FR"},
    "/v2/glossaries": {
        "name": "a",
        "source_lang": "en",
        "target_lang": "fr",
        "entries": "a\tb",
        "entries_format": "tsv",
    },
    "/v3/glossaries": {"name": "a", "dictionaries": [{"source_lang": "en", "target_lang": "fr", "entries": "a\tb"}]},
    "/immersive": {"source_lang": "en", "target_lang": "fr", "text_list": ["Hello there."]},
    "/deeplx": {"text": "Hello there.", "source_lang": "EN", "target_lang": "FR"},
    "/login": {"key": "a"},
    "/translate_file": {"source": "en", "target": "fr"},
}
PATHS = (
    *BODIES,
    "/languages",
    "/documents",
    "/documents/zip?id=0",
    "/glossaries/template?format=csv",
    "/healthz",
    "/readyz",
)
PATHS += (
    "/system",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/v1/models",
    "/v2/usage",
    "/v2/languages",
    "/frontend/settings",
)
START = {"type": "start", "id": "r1", "text": "Hello there.", "source_lang": "en", "target_lang": "fr"}
HEAVY = [  # each by itself, since no strategy comes upon them
    b"[" * 100_000,
    b'{"text":' * 20_000,
    b'{"text": "a", "target_lang": "fr", "count": ' + b"9" * 5_000 + b"}",
    b'{"text": "a", "target_lang": "fr", "sampling": {"temperature": 1e999999}}',
    b'{"text": "\\ud800", "target_lang": "fr"}',
    b'{"text": "\xff\xfe", "target_lang": "fr"}',
    b'{"text": NaN, "target_lang": -Infinity}',
    b"",
    b"\0" * 1_000,
    b"text=%ff%fe&target_lang=fr",
    b"a=1&" * 2_000,
]


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes over a connection; `socket` first asks for a WebSocket. `leaves` without reading, `half` closed."""

    data: bytes
    socket: bool = False
    leaves: bool = False
    half: bool = False


_TEXT = json.dumps({"text": "A long text for a thread. " * 2_000, "source_lang": "en", "target_lang": "fr"})
LONG = Sent(
    b"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    + f"Content-Length: {len(_TEXT)}\r\n\r\n{_TEXT}".encode()
)


@dataclass(slots=True)
class Found:
    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------------------------
# what is sent

_words = st.text(max_size=30)
_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _words | st.just("x" * 10_000),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(_words, inside, max_size=4),
    max_leaves=8,
)
_octets = st.binary(max_size=60)
_kinds = st.sampled_from(
    [
        *("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain", ""),
        *("application/json; charset=utf-7", "multipart/form-data", "application/json; charset=punycode", "a/b"),
    ]
)
_methods = st.sampled_from(["POST"] * 6 + ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO"])


@st.composite
def _bodies(draw: st.DrawFn, fields: dict[str, Any]) -> bytes:
    """JSON that is nearly right: fields are gone, of another kind, or strangers; at times it is cut short."""
    body = {name: value for name, value in fields.items() if draw(st.integers(0, 9))}
    for name in draw(st.lists(st.sampled_from([*fields, "other"]), max_size=2)):
        body[name] = draw(_junk)
    data = json.dumps(body, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


@st.composite
def _asked(draw: st.DrawFn) -> Sent:
    """A request whose head is right, and its body nearly."""
    path = draw(st.sampled_from(PATHS))
    body = draw(_bodies(BODIES.get(path, {}))) if draw(st.integers(0, 4)) else draw(st.sampled_from(HEAVY) | _octets)
    head = f"{draw(_methods)} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {draw(_kinds)}\r\n"
    return Sent(
        f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body,
        leaves=not draw(st.integers(0, 9)),
    )


@st.composite
def _broken(draw: st.DrawFn) -> Sent:
    """A request whose head is not right, or does not fit its body."""
    path, body = draw(st.sampled_from(PATHS)).encode(), draw(_bodies(BODIES["/translate"]))
    start = draw(
        st.sampled_from([b"POST " + path + b" HTTP/1.1"] * 6)
        | st.sampled_from(
            [b"POST " + path, b"POST  HTTP/1.1", b"GET / HTTP/9.9", b"\r\n\r\n", b"\x16\x03\x01\x02", b"PRI * HTTP/2.0"]
        )
        | st.just(b"GET /" + b"a" * 100_000 + b" HTTP/1.1")
        | st.just(b"GET /%00%ff%2e%2e/%c0%af?a=%zz&\xff HTTP/1.1")
        | _octets
    )
    size = str(len(body)).encode()
    headers = draw(
        st.lists(
            st.sampled_from(
                [
                    b"Content-Length: " + size,
                    b"Content-Length: 0",
                    b"Content-Length: -1",
                    b"Content-Length: 99999999999999999999",
                    b"Content-Length: 5\r\nContent-Length: 6",
                    b"Transfer-Encoding: chunked",
                    b"Transfer-Encoding: gzip, chunked",
                    b"Content-Type: application/json",
                    b"Expect: 100-continue",
                    b"Upgrade: websocket\r\nConnection: Upgrade",
                    b"Host: 127.0.0.1",
                    b"Host: \xff",
                    b"Origin: http://[",
                    b"Cookie: " + b"a=b;" * 1_000,
                    b"Authorization: \xff \xfe",
                    b"X-Forwarded-For: " + b"1," * 5_000,
                    b"Accept-Language: \xe4",
                    b"Range: bytes=9-1",
                    b": none",
                    b"none",
                    b" folded",
                    b"X-Request-Id: \x00",
                    b"Sec-WebSocket-Key: a",
                    b"Sec-WebSocket-Version: 99",
                    b"A: b\r\n" * 2_000 + b"A: b",
                ]
            ),
            max_size=5,
        )
    )
    chunks = draw(
        st.sampled_from(
            [
                body,
                b"5\r\nabc\r\n0\r\n\r\n",
                b"zz\r\n",
                b"ffffffffffffffff\r\na",
                b"-1\r\n",
                b"0\r\n\r\n",
                b"2\r\n{}\r\n0\r\n\r\n",
            ]
        )
    )
    whole = b"\r\n".join([start, b"Host: 127.0.0.1", *headers, b"", b""]) + chunks
    again = draw(st.sampled_from([1, 1, 1, 2, 20]))  # pipelined
    return Sent(whole * again, leaves=not draw(st.integers(0, 9)), half=not draw(st.integers(0, 4)))


def frame(
    payload: bytes,
    opcode: int = 1,
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    size: int | None = None,
) -> bytes:
    size = len(payload) if size is None else size
    length = (
        bytes([size])
        if size < 126
        else b"\x7e" + size.to_bytes(2, "big")
        if size < 2**16
        else b"\x7f" + size.to_bytes(8, "big")
    )
    head = bytes([0x80 * final | reserved << 4 | opcode, length[0] | 0x80 * masked]) + length[1:]
    return head + (b"\0\0\0\0" if masked else b"") + payload


@st.composite
def _messages(draw: st.DrawFn) -> Sent:
    """Whole frames, of what is nearly a message."""
    texts = st.one_of(
        _bodies(START),
        _bodies({"type": "cancel", "id": "r2"}),
        _bodies({"type": "ping"}),
        st.sampled_from(HEAVY),
        _octets,
        st.just(json.dumps(START).encode()),
    )
    said = draw(st.lists(texts, min_size=1, max_size=5))
    return Sent(
        b"".join(frame(text, draw(st.sampled_from([1, 1, 1, 2]))) for text in said),
        socket=True,
        leaves=not draw(st.integers(0, 4)),
    )


@st.composite
def _frames(draw: st.DrawFn) -> Sent:
    """Frames as none may be."""
    one = st.builds(
        frame,
        _octets | st.just(json.dumps(START).encode()),
        st.integers(0, 15),
        final=st.booleans(),
        reserved=st.sampled_from([0, 0, 0, 1, 4, 7]),
        masked=st.sampled_from([True, True, True, False]),
        size=st.sampled_from([None, None, None, 0, 125, 126, 65_536, 2**40, 2**63 - 1, 2**64 - 1]),
    )
    closing = st.builds(
        frame, st.sampled_from([b"", b"\x03", b"\x03\xe8", b"\x00\x00", b"\xff\xff", b"\x03\xe8\xff"]), st.just(8)
    )
    return Sent(
        b"".join(draw(st.lists(one | closing | _octets, min_size=1, max_size=6))),
        socket=True,
        half=not draw(st.integers(0, 4)),
    )


def drawn(count: int, start: int = 0) -> list[Sent]:
    """So many of all kinds, the same for the same `start`."""
    kinds = (_asked(), _broken(), _messages(), _frames())
    most = -(-count // len(kinds))
    found: list[Sent] = []
    for kind in kinds:
        own: list[Sent] = []
        for again in range(100):
            if len(own) < most:
                own += _drawn(kind, most - len(own), start + again)
        found += own
    return found


def _drawn(kind: st.SearchStrategy[Sent], count: int, number: int) -> list[Sent]:
    found: list[Sent] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind)
    def draw(one: Sent) -> None:
        found.append(one)

    draw()
    return found


# ---------------------------------------------------------------------------------------------------------------------
# sending it


async def attack(port: int, messages: Sequence[Sent]) -> Found:
    found, turn = Found(), asyncio.Semaphore(AT_ONCE)

    async def send(one: Sent) -> None:
        async with turn:
            said = await _said(port, one)
            found.sent += 1
            for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said):
                found.answers[status.decode()] += 1
            if re.search(rb"HTTP/1\.[01] 5\d\d |\x88.\x03\xf3|" + OUR_MISTAKE, said):
                found.mistakes.append(f"{one.data[:600]!r} → {said[:600]!r}")

    await asyncio.gather(*(send(one) for one in messages))
    return found


async def _said(port: int, one: Sent) -> bytes:
    """All that comes back until it is over, or nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        if one.socket:
            writer.write(
                b"GET /ws/translate HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        cut = len(one.data) // 2
        writer.write(one.data[:cut])
        await asyncio.sleep(0)
        writer.write(one.data[cut:])
        if one.half:
            writer.write_eof()
        if not one.leaves:
            async with asyncio.timeout(ANSWER_SECONDS):
                while data := await reader.read(65_536):
                    said += data
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()
    return said


def under_way(url: str) -> dict[str, int]:
    """What the server still has to do for somebody."""
    told = httpx.get(f"{url}/system", timeout=30).json()
    return {"running": told["traffic"]["running"], "admitted": told["scheduler"]["requests"]}


def left_over(server: Running, before: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What the process holds more of than before, once it has had time to settle: name → (before, now)."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        now = held(server)
        more = {name: (count, now[name]) for name, count in before.items() if now[name] > count}
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(0.5)


def held(server: Running) -> dict[str, int]:
    process = server.process
    return {"files": process.num_fds(), "threads": process.num_threads()} | under_way(server.url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running(Path(name), "--backend", "echo") as server:
        asyncio.run(attack(server.port, [*drawn(400), *[LONG] * AT_ONCE]))  # what is made once, threads above all
        httpx.post(f"{server.url}/suggest", json=BODIES["/suggest"]).raise_for_status()  # so the lock of its folder
        time.sleep(2)
        before = held(server)
        found = asyncio.run(attack(server.port, drawn(arguments.messages, start=1_000)))
        result = {
            "sent": found.sent,
            "answers": dict(sorted(found.answers.items())),
            "mistakes": found.mistakes[:5],
            "complaints": server.complaints()[:5],
            "left_over": left_over(server, before),
            "ready": server.is_ready(),
        }
    print(json.dumps(result, ensure_ascii=False, indent=1))
    bad = result["mistakes"] or result["complaints"] or result["left_over"] or not result["ready"]
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
