"""Times one model on one card against the same divided over several, as `--split` has it, or held under a ceiling.

    python -m engine.tools.bench split --model FOLDER --devices cuda:0,cuda:1
    python -m engine.tools.bench split --model FOLDER --devices cuda:0 --max-vram-gb 10

Each way has a process of its own, one after the other, since not all would have the room at once. Greedy answers are
compared with those of the first.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count as numbers
from itertools import islice
from statistics import fmean, median
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.backends.base import Backend
from engine.backends.process import ProcessBackend
from engine.backends.select import resolved
from engine.config import Config
from engine.errors import ConfigError
from engine.tools.asked import amount, count, counts
from engine.tools.asking import as_app
from engine.tools.bench_cards import question
from engine.types import Prompt

ABOUT = "one model on one card, against divided over several or held under a ceiling"
SPLITS = ("tensor", "layers")
WARM_TOKENS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument("--devices", type=as_app("--devices"), default="cuda:0,cuda:1", help="the cards, by commas")
    parser.add_argument("--max-vram-gb", type=amount, help="the first card under this ceiling, too")
    parser.add_argument("--precision", type=as_app("--precision"), default="auto", help="as app.py's")
    parser.add_argument("--streams", type=counts, default=(1, 8), help="at once (default 1,8)")
    parser.add_argument("--new-tokens", type=count, default=128, help="of each answer")
    parser.add_argument("--repeat", type=count, default=3, help="rounds of each; the figures are medians")
    parser.add_argument("--deterministic", action="store_true", help="as app.py's, where the model is not divided")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its ids, and when each came, in seconds after all were asked for."""

    ids: list[int]
    times: list[float]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError`."""
    found: dict[str, dict[str, Any]] = {}
    true: list[list[int]] = []
    for name, config in _ways(arguments).items():
        found[name], answers = asyncio.run(_measured(config, arguments, name))
        tqdm.write(f"{name}: {found[name]['tokens_per_second']} tokens/s", file=sys.stderr)  # the next may be very slow
        true = true or answers
        found[name]["same_answers"] = sum(one == other for one, other in zip(true, answers, strict=True))
        found[name]["same_tokens"] = round(fmean(map(_agreeing, true, answers)), 3)
    return {"new_tokens": arguments.new_tokens, "answers_compared": len(true), "ways": found}


def _ways(arguments: argparse.Namespace) -> dict[str, Config]:
    cards = arguments.devices.split(",")
    if not all(card.startswith("cuda:") for card in cards):
        raise ConfigError("A model is divided over cards, and a ceiling is of one; name them, such as cuda:0,cuda:1.")
    asked = [f"--model={arguments.model}", f"--precision={arguments.precision}", f"--devices={cards[0]}"]
    asked += [f"--max-concurrent={max(arguments.streams)}", f"--deterministic={str(arguments.deterministic).lower()}"]
    whole = resolved(Config.load(asked, {}))
    ways = {cards[0]: whole}
    if len(cards) > 1:
        group = "+".join(cards)
        divided = replace(whole, devices=group, deterministic=False)
        ways |= {f"{group}, {split}": replace(divided, split=split) for split in SPLITS}
    if arguments.max_vram_gb:
        ways[f"{cards[0]}, {arguments.max_vram_gb:g} GB"] = replace(whole, max_vram_gb=arguments.max_vram_gb)
    if len(ways) == 1:
        raise ConfigError("There is nothing to compare; name several --devices, or --max-vram-gb.")
    return ways


async def _measured(config: Config, arguments: argparse.Namespace, name: str) -> tuple[dict[str, Any], list[list[int]]]:
    """What is told of one way, and its greedy answers."""
    began = time.perf_counter()
    backend = await asyncio.to_thread(ProcessBackend.load, config)
    ready = time.perf_counter() - began
    rounds: dict[int, list[list[Said]]] = {streams: [] for streams in arguments.streams}
    asked = numbers()  # no prompt comes again, whose pages would still be there
    try:
        await _said(backend, [next(asked)], WARM_TOKENS)
        with tqdm(total=arguments.repeat * len(rounds), desc=name, unit="round") as bar:
            for _ in range(arguments.repeat):
                for streams, said in rounds.items():
                    said.append(await _said(backend, [*islice(asked, streams)], arguments.new_tokens))
                    bar.update()
        info, memory = backend.info, backend.memory()
    finally:
        await backend.close()
    told = {
        "precision": info.precision,
        "kernel": info.kernel,
        "plan": info.plan,
        "ready_after_seconds": round(ready, 1),
        "weights_mb": memory.get("weights", 0) // 1_000_000,
        "offloaded_mb": memory.get("offloaded", 0) // 1_000_000,
        "tokens_per_second": {streams: [round(_rate(each), 1) for each in said] for streams, said in rounds.items()},
        "first_token_ms": {streams: [round(_first_ms(each), 1) for each in said] for streams, said in rounds.items()},
    }
    return told, [said.ids for said in rounds[max(rounds)][0]]


async def _said(backend: Backend, asked: Sequence[int], new_tokens: int) -> list[Said]:
    async def one(prompt: Prompt) -> Said:
        said = Said([], [])
        async with aclosing(backend.stream(replace(prompt, max_new_tokens=new_tokens))) as chunks:
            async for chunk in chunks:
                said.ids.extend(chunk.ids)
                said.times.extend([time.perf_counter() - began] * chunk.tokens)
        return said

    began = time.perf_counter()
    return await asyncio.gather(*(one(question(number, new_tokens)) for number in asked))


def _rate(said: Sequence[Said]) -> float:
    """Tokens a second, once all prompts are in."""
    start, end = max(each.times[0] for each in said), max(each.times[-1] for each in said)
    return sum(time_ > start for each in said for time_ in each.times) / (end - start) if end > start else 0.0


def _first_ms(said: Sequence[Said]) -> float:
    return 1000 * median(each.times[0] for each in said)


def _agreeing(one: Sequence[int], other: Sequence[int]) -> float:
    """The share of tokens before the first that differs."""
    same = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
    return same / len(one) if one else 1.0


def show(result: dict[str, Any]) -> str:
    ways: dict[str, dict[str, Any]] = result["ways"]
    first = next(iter(ways.values()))
    streams = list(first["tokens_per_second"])
    heads = [f"{each} at once" for each in streams] + [f"first token of {each}" for each in streams] + ["same answers"]
    lines = [f"| {' | '.join(['', *heads])} |", "|---" * (len(heads) + 1) + "|"]
    for name, told in ways.items():
        cells = []
        for each in streams:
            rate, alone = median(told["tokens_per_second"][each]), median(first["tokens_per_second"][each])
            cells.append(f"{rate:,.1f} tokens/s, {rate / alone:.2f} ×" if alone else "–")
        cells += [f"{median(told['first_token_ms'][each]):.1f} ms" for each in streams]
        cells.append(f"{told['same_answers']} of {result['answers_compared']}, {told['same_tokens']:.0%} of tokens")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join([*lines, "", *(f"{name}: {told['plan']}" for name, told in ways.items())])
