"""Times what `backends/remote` adds to a server: the same prompts through it and by a plain httpx client, in turns.

python -m engine.tools.bench remote
python -m engine.tools.bench remote --url http://gpu1:8000 --rounds 20
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext
from statistics import median
from typing import Any

import httpx
import uvloop
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.backends.remote import RemoteBackend
from engine.backends.served import Served, find
from engine.config import Config
from engine.progress import Progress
from engine.tools.asked import amount, count
from engine.tools.paced import paced
from engine.types import Prompt, Sampling

ABOUT = "what our client of other servers adds to their time, against a plain one"
CARD_TOKENS_PER_SECOND = 5_477.0  # vLLM 0.24, a 7B in INT4 on an H200, 32 at once
PROMPTS_EACH = 3  # of a client in a round
PATIENCE_SECONDS = 120.0
KEPT_SECONDS = 4.0  # a connection that nobody uses, as `remote` keeps it
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)
TEXT = "Translate the following segment into French, without additional explanation.\n\nThe letter {} is not here yet."

Ask = Callable[[Prompt], Awaitable[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a server that is running; else one without a model, which says tokens in time")
    parser.add_argument("--model", default="embedded", help="of that server, where it has several; or its folder")
    parser.add_argument("--tokens-per-second", type=amount, default=CARD_TOKENS_PER_SECOND, help="of the one without")
    parser.add_argument("--clients", type=count, default=32, help="prompts at once")
    parser.add_argument("--tokens", type=count, default=64, help="of an answer, at the most")
    parser.add_argument("--rounds", type=count, default=12, help="of each of the two")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    clients = arguments.clients
    with nullcontext(arguments.url) if arguments.url else paced(arguments.tokens_per_second, clients) as url:
        served = find(Config(remote_url=(url,), model=arguments.model, max_concurrent=clients), Progress())
        prompts = [Prompt(text, text, arguments.tokens, GREEDY) for text in _texts(PROMPTS_EACH * clients)]
        plain, remote = uvloop.run(_measured(served, prompts, clients, arguments.rounds))
    return {
        "server": served.info.name,
        "clients": clients,
        "rounds": arguments.rounds,
        "plain": _middle(plain),
        "remote": _middle(remote),
        "rate_against_plain": _ratios([ours[0] / theirs[0] for ours, theirs in zip(remote, plain, strict=True)]),
        "cpu_against_plain": _ratios([ours[1] / theirs[1] for ours, theirs in zip(remote, plain, strict=True)]),
    }


def show(result: dict[str, Any]) -> str:
    lines = [f"{result['server']}, {result['clients']} at once, {result['rounds']} rounds each"]
    for name in ("plain", "remote"):
        rate, cpu = result[name].values()
        lines.append(f"{name}: {rate:,.0f} tokens/s, {cpu:.1f} µs of a processor for a token")
    for name, of in (("rate_against_plain", "rate"), ("cpu_against_plain", "processor time")):
        found = result[name]
        lines.append(f"{of}: {found['median']:.3f} × ({found['quartiles'][0]:.3f} to {found['quartiles'][1]:.3f})")
    return "\n".join(lines)


def _texts(many: int) -> list[str]:
    return [TEXT.format(number) for number in range(many)]


def _middle(rounds: Sequence[tuple[float, float]]) -> dict[str, float]:
    rates, spent = zip(*rounds, strict=True)
    return {"tokens_per_second": round(median(rates), 1), "cpu_us_a_token": round(median(spent), 2)}


def _ratios(found: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(found)
    quartiles = [ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]]
    return {"median": round(median(ordered), 4), "quartiles": [round(each, 4) for each in quartiles]}


async def _measured(
    served: Served, prompts: Sequence[Prompt], clients: int, rounds: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(tokens a second, microseconds of processor time for a token) of each round, of both. Who comes first changes."""
    backend = RemoteBackend(served)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients, keepalive_expiry=KEPT_SECONDS)
    async with httpx.AsyncClient(
        base_url=served.url, headers=dict(served.headers), timeout=PATIENCE_SECONDS, limits=limits
    ) as client:

        async def by_remote(prompt: Prompt) -> int:
            async with aclosing(backend.stream(prompt)) as chunks:
                return sum([chunk.tokens async for chunk in chunks])

        ways: list[Ask] = [lambda prompt: _plainly(client, served, prompt), by_remote]
        found: list[list[tuple[float, float]]] = [[], []]
        for way in ways:  # connections, and what else is made once
            await _round(way, prompts, clients)
        for number in tqdm(range(rounds), unit="round"):
            for which in (0, 1) if number % 2 else (1, 0):
                found[which].append(await _round(ways[which], prompts, clients))
    await backend.close()
    return found[0], found[1]


async def _round(ask: Ask, prompts: Sequence[Prompt], clients: int) -> tuple[float, float]:
    room = asyncio.Semaphore(clients)

    async def one(prompt: Prompt) -> int:
        async with room:
            return await ask(prompt)

    began, spent = time.perf_counter(), time.process_time()
    tokens = sum(await asyncio.gather(*map(one, prompts)))
    return tokens / (time.perf_counter() - began), (time.process_time() - spent) / tokens * 1e6


async def _plainly(client: httpx.AsyncClient, served: Served, prompt: Prompt) -> int:
    """As anybody would write it."""
    body, _ = served.body(prompt)
    try:
        return await _answered(client, served.path, body)
    except httpx.RemoteProtocolError:  # a connection that was kept, and that the server closed just then
        return await _answered(client, served.path, body)


async def _answered(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> int:
    texts, tokens = [], 0
    async with client.stream("POST", path, json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                texts += [choice.get("text") or choice.get("delta", {}).get("content") for choice in event["choices"]]
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return tokens
