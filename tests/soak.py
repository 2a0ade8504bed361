"""Thousands of requests of all sorts, one after the other and beside each other: what the server holds must not grow.

python -m tests.soak --requests 20000
python -m tests.soak --requests 1000 --model embedded
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.asyncio.client import connect

from tests.fuzz_server import held
from tests.running import Running, running

AT_ONCE = 12
PARTS = 10  # after each of which it is weighed; the first is the measure for the last
MOST_GROWTH = 0.02
SETTLED_SECONDS = 60.0
SENTENCE = "The committee has not yet decided whether the old bridge should be built again. "
PAIR = {"source_lang": "en", "target_lang": "fr"}


class Client:
    """Asks in its own way, each time by chance. What it did not expect is in `wrong`."""

    def __init__(self, server: Running, http: httpx.AsyncClient, *, echoes: bool) -> None:
        self._server, self._http, self._echoes = server, http, echoes
        self.wrong: list[str] = []
        self.asked: Counter[str] = Counter()
        self._ways: dict[Callable[[random.Random], Awaitable[None]], int] = {
            self.short: 40,
            self.long: 6,
            self.left: 8,
            self.streamed: 8,
            self.refused: 15,
            self.socket: 10,
            self.taken_back: 8,
            self.document: 3,
            self.glossary: 2,
        }

    async def ask(self, number: int) -> None:
        dice = random.Random(number)
        way = dice.choices([*self._ways], [*self._ways.values()])[0]
        self.asked[way.__name__] += 1
        await way(dice)

    def _expect(self, right: bool, what: object) -> None:
        if not right:
            self.wrong.append(str(what)[:300])

    async def _post(self, **body: Any) -> httpx.Response:
        return await self._http.post("/translate", json=PAIR | body)

    async def short(self, dice: random.Random) -> None:
        text = f"Page {dice.randrange(10**6)} is old."
        answer = await self._post(text=text, source_lang=dice.choice(["en", "auto"]), glossary={"old": "vieux"})
        said = answer.json().get("translation")
        self._expect(answer.status_code == 200 and (said == text or not self._echoes), answer.text)

    async def long(self, dice: random.Random) -> None:
        text = [f"<p>{SENTENCE * dice.randrange(20, 40)}</p>" for _ in range(dice.randrange(1, 4))]
        answer = await self._post(text=text, format="html")
        self._expect(answer.status_code == 200, answer.text)

    async def left(self, dice: random.Random) -> None:
        """A client that goes away before its answer."""
        with suppress(httpx.TimeoutException):
            await self._http.post(
                "/translate", json=PAIR | {"text": SENTENCE * 400}, timeout=dice.choice([0.02, 0.1, 0.3])
            )

    async def streamed(self, dice: random.Random) -> None:
        body = PAIR | {"text": SENTENCE * 4, "stream": True}
        last, leaves = "", dice.random() < 0.3
        async with self._http.stream("POST", "/translate", json=body) as answer:
            async for line in answer.aiter_lines():
                last = line or last
                if leaves and '"delta"' in line:
                    return
        self._expect('"done"' in last, last)

    async def refused(self, dice: random.Random) -> None:
        posted: tuple[str, Any] = dice.choice(
            [
                ("/translate", PAIR | {"text": "Hello.", "target_lang": "xx"}),
                ("/translate", PAIR | {"text": "Hello.", "target_lang": "en"}),
                ("/translate", PAIR | {"text": ""}),
                ("/translate", PAIR | {"text": "Hello.", "glossary_id": "none"}),
                ("/translate", PAIR | {"text": "x" * 1_100_000}),
                ("/translate", [1]),
                (f"/nothing/{dice.randrange(10**9)}", {}),
                (f"/documents/{dice.randrange(10**9)}/retry", {}),
                ("/v2/translate", {"text": ["Hello."], "target_lang": "XX"}),
                ("/v1/chat/completions", {"messages": []}),
            ]
        )
        answer = await self._http.post(posted[0], json=posted[1])
        self._expect(400 <= answer.status_code < 500, f"{answer.status_code} {answer.text}")

    async def socket(self, dice: random.Random) -> None:
        async with connect(f"ws://127.0.0.1:{self._server.port}/ws/translate") as sock:
            for run in range(dice.randrange(1, 4)):
                await sock.send(json.dumps({"type": "start", "id": f"r{run}", "text": SENTENCE * 2, **PAIR}))
                while (message := json.loads(await sock.recv()))["type"] not in ("done", "error"):
                    pass
                self._expect(message["type"] == "done", message)

    async def taken_back(self, dice: random.Random) -> None:
        """Cancelled, or the socket is closed with a run on it."""
        async with connect(f"ws://127.0.0.1:{self._server.port}/ws/translate") as sock:
            await sock.send(json.dumps({"type": "start", "id": "r", "text": SENTENCE * 200, **PAIR}))
            for _ in range(dice.randrange(3)):
                await sock.recv()
            if dice.random() < 0.5:
                return
            await sock.send(json.dumps({"type": "cancel", "id": "r"}))
            while (message := json.loads(await sock.recv()))["type"] not in ("cancelled", "done", "error"):
                pass
            self._expect(message["type"] != "error", message)

    async def document(self, dice: random.Random) -> None:
        files = {"file": ("a.txt", (SENTENCE * dice.randrange(1, 40)).encode())}
        answer = await self._http.post("/documents", data=PAIR, files=files)
        self._expect(answer.status_code == 202, answer.text)
        if answer.status_code != 202:
            return
        place = f"/documents/{answer.json()['id']}"
        deadline = time.monotonic() + 60
        while dice.random() < 0.9 and time.monotonic() < deadline:
            if (await self._http.get(place)).json()["status"] in ("done", "error"):
                result = await self._http.get(f"{place}/result")
                self._expect(result.status_code == 200, result.text)
                break
            await asyncio.sleep(0.05)
        removed = await self._http.delete(place)
        self._expect(removed.status_code == 204, removed.text)

    async def glossary(self, dice: random.Random) -> None:
        body = PAIR | {"name": "a", "terms": [{"source": f"w{n}", "target": f"m{n}"} for n in range(100)]}
        answer = await self._http.post("/glossaries", json=body)
        self._expect(answer.status_code == 201, answer.text)
        if answer.status_code == 201:
            place = f"/glossaries/{answer.json()['id']}"
            used = await self._post(text="w1 w2", glossary_id=answer.json()["id"])
            self._expect(used.status_code == 200, used.text)
            await self._http.delete(place)


async def soak(server: Running, requests: int, *, echoes: bool) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        client = Client(server, http, echoes=echoes)
        numbers = iter(range(requests))

        async def worker(until: int) -> None:
            for number in numbers:
                await client.ask(number)
                if number >= until:
                    return

        weighed = list[dict[str, int]]()
        began = time.monotonic()
        await asyncio.gather(*(client.long(random.Random(0)) for _ in range(AT_ONCE)))  # all threads there will be
        for part in range(1, PARTS + 1):
            await asyncio.gather(*(worker(requests * part // PARTS) for _ in range(AT_ONCE)))
            weighed.append(await asyncio.to_thread(_settled, server))
        first, last = weighed[0], weighed[-1]
        return {
            "requests": sum(client.asked.values()),
            "asked": dict(client.asked),
            "seconds": round(time.monotonic() - began, 1),
            "wrong": client.wrong[:5],
            "first": first,
            "last": last,
            "rss_mb": [round(each["rss"] / 1e6, 1) for each in weighed],
            "rss_growth": round(last["rss"] / first["rss"] - 1, 4),
            "complaints": server.complaints()[:5],
            "ready": server.is_ready(),
        }


def _settled(server: Running) -> dict[str, int]:
    """Once nothing is under way; the client's own connections may still be open."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (now := held(server))["admitted"] and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    now = held(server)
    pages = httpx.get(f"{server.url}/system", timeout=30).json()["pages"]
    sockets = sum(each.status != psutil.CONN_LISTEN for each in server.process.net_connections("tcp"))
    now["files"] -= sockets  # the client's, which come and go
    return now | {"rss": server.process.memory_info().rss, "pages": pages["used"] if pages else 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--model", help="else it says back what it is sent (echo)")
    arguments = parser.parse_args()
    flags = ["--model", arguments.model] if arguments.model else ["--backend", "echo"]
    with tempfile.TemporaryDirectory() as name, running(Path(name), *flags, "--log-level", "warning") as server:
        result = asyncio.run(soak(server, arguments.requests, echoes=not arguments.model))
    print(json.dumps(result, ensure_ascii=False, indent=1))
    first, last = result["first"], result["last"]
    grown = [name for name in ("files", "threads", "pages", "running", "admitted") if last[name] > first[name]]
    bad = result["wrong"] or result["complaints"] or grown or result["rss_growth"] > MOST_GROWTH or not result["ready"]
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
