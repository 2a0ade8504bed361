"""Times one model on several devices against fewer of them, in turns: a process on each, as `--devices` has them.

    python -m engine.tools.bench cards --devices cpu,cpu
    python -m engine.tools.bench cards --model FOLDER --devices cuda:0,cuda:1,cuda:2,cuda:3 --kill

All are kept full by streams that ask again as soon as they have an answer; answers are of different lengths, so that
streams do not come to read their prompts all at once. `--kill` ends a process under that load with
SIGKILL and looks at what is lost, and how long the others and then all of them take to be as fast as they were.
"""

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count as numbers
from random import Random
from statistics import fmean, median
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine import prompts
from engine.backends.base import Backend
from engine.backends.late import LateBackend
from engine.backends.pool import Pool
from engine.backends.process import ProcessBackend
from engine.backends.select import cores_of, resolved
from engine.cards import Cards
from engine.config import Config
from engine.errors import BackendError, ConfigError, Loading
from engine.inference.sampler import GREEDY
from engine.progress import Progress
from engine.tools.asked import amount, count, counts
from engine.tools.asking import as_app
from engine.types import Prompt

ABOUT = "one model on several devices, against fewer; what a process costs that dies"
SENTENCES = 6  # of a prompt
TEXT = "The committee has not yet decided whether the new bridge should be built next to the old one. "
SAME = 16  # answers that are compared
BIN_SECONDS = 0.25  # of the rate after a kill
RATE_SECONDS = 1.0  # that a rate is looked at over
AS_BEFORE = 0.95  # of the rate that is to be expected
REJOIN_SECONDS = 240.0  # that one that was killed has to be back

Share = tuple[str, tuple[int, ...]]  # a device, and the cores of its process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument("--backend", type=as_app("--backend"), default="auto", help="as app.py's; echo: the way alone")
    parser.add_argument("--devices", type=as_app("--devices"), default="cpu,cpu", help="several, parted by commas")
    parser.add_argument("--precision", type=as_app("--precision"), default="auto", help="as app.py's")
    parser.add_argument("--counts", type=counts, help="how many of them (default: one, and all)")
    parser.add_argument("--streams", type=count, help="at once on each device (default: as many as it takes)")
    parser.add_argument("--new-tokens", type=count, default=128, help="of an answer, on average")
    parser.add_argument("--seconds", type=amount, default=10.0, help="of each turn, after a quarter of it to fill up")
    parser.add_argument("--repeat", type=count, default=3, help="turns of each; the figures are medians")
    parser.add_argument("--deterministic", action="store_true", help="as app.py's, so that answers may be compared")
    parser.add_argument("--kill", action="store_true", help="end a process under load, and look at what becomes of it")


@dataclass(slots=True)
class Load:
    """Streams that ask again as soon as they are answered, and what came of it."""

    pool: Pool
    new_tokens: int
    asked: "numbers[int]"  # of prompts: where one comes again, its pages are still there
    tokens: int = 0  # that have come
    answers: int = 0
    lost: list[str] = field(default_factory=list)  # why, each

    async def stream(self) -> None:
        while True:
            prompt = question(next(self.asked), self.new_tokens)
            try:
                made = await self._answer(prompt)
            except (BackendError, Loading) as error:
                self.lost.append(str(error))
                await asyncio.sleep(BIN_SECONDS)
                continue
            self.answers += 1
            if made > prompt.max_new_tokens:
                self.lost.append(f"{made} tokens came, and {prompt.max_new_tokens} at the most were asked for")

    async def _answer(self, prompt: Prompt) -> int:
        made = 0
        async with aclosing(self.pool.stream(prompt)) as chunks:
            async for chunk in chunks:
                made += chunk.tokens
                self.tokens += chunk.tokens
        return made

    @asynccontextmanager
    async def running(self, streams: int) -> AsyncGenerator[None, None]:
        tasks = [asyncio.create_task(self.stream()) for _ in range(streams)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        if errors := [error for error in ended if not isinstance(error, asyncio.CancelledError)]:
            raise AssertionError(f"{len(errors)} streams ended by themselves") from errors[0]


def question(number: int, new_tokens: int) -> Prompt:
    """Of which no two begin alike; with half as many tokens up to half as many more."""
    text = f"Number {number}. {TEXT * SENTENCES}"
    tokens = Random(number).randint(-(-new_tokens // 2), new_tokens + new_tokens // 2)
    return Prompt(prompts.plain("hy-mt2", "en", "fr", text), text, tokens, GREEDY)


class Members:
    """Each device's process is started once, and is in every number of them that it is asked for."""

    def __init__(self, arguments: argparse.Namespace, settings: Sequence[Sequence[Share]]) -> None:
        asked = Config.load(
            [
                f"--model={arguments.model}",
                f"--backend={arguments.backend}",
                f"--precision={arguments.precision}",
                f"--max-concurrent={arguments.streams or 'auto'}",
                f"--deterministic={str(arguments.deterministic).lower()}",
            ],
            {},
        )
        config = resolved(asked)
        self.asked = numbers(SAME)
        self._cards = Cards()
        self._pids: dict[Share, int] = {}  # of the last of each
        self._late = {
            share: LateBackend(partial(self._load, replace(config, devices=share[0]), share), patient=True)
            for share in dict.fromkeys(share for setting in settings for share in setting)
        }

    def _load(self, config: Config, share: Share, progress: Progress) -> Backend:
        backend = ProcessBackend.load(config, progress, share[1])
        self._pids[share] = backend.pid
        return backend

    def load(self) -> None:
        """Raises what the first raised."""
        for late in self._late.values():
            late.start()
        while not all(self.is_there(share) or late.trouble for share, late in self._late.items()):
            time.sleep(BIN_SECONDS)
        for late in self._late.values():
            if late.trouble:
                raise late.trouble

    def of(self, setting: Sequence[Share]) -> Pool:
        return Pool([self._late[share] for share in setting], [device for device, _ in setting])

    def kill(self, share: Share) -> None:
        os.kill(self._pids[share], signal.SIGKILL)

    def is_there(self, share: Share) -> bool:
        try:
            return self._late[share].slots > 0
        except Loading:
            return False

    def used(self, setting: Sequence[Share]) -> dict[str, list[int]]:
        """Bytes of each of them by kind, where all tell; now. Of a card: whoever uses it."""
        cards = {card.device: card.used_bytes for card in self._cards.read()}
        kinds = {
            "card": [cards.get(device) for device, _ in setting],
            "kv": [self._late[share].memory().get("kv_used") for share in setting],
        }
        return {kind: [each for each in used if each is not None] for kind, used in kinds.items() if None not in used}

    async def close(self) -> None:
        await asyncio.gather(*(late.close() for late in self._late.values()))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    devices = arguments.devices.split(",")
    if len(devices) < 2:
        raise ConfigError("--devices must name several, parted by commas; one alone is timed by `bench engine`.")
    wanted = arguments.counts or (1, len(devices))
    if wanted[-1] > len(devices):
        raise ConfigError(f"--counts asks for {wanted[-1]} devices, and --devices names {len(devices)}.")
    settings = {each: _shares(devices[:each]) for each in wanted}
    members = Members(arguments, list(settings.values()))
    members.load()
    return asyncio.run(_measured(arguments, settings, members))


def _shares(devices: Sequence[str]) -> list[Share]:
    return list(zip(devices, cores_of(devices), strict=True))


async def _measured(
    arguments: argparse.Namespace, settings: dict[int, list[Share]], members: Members
) -> dict[str, Any]:
    pools = {each: members.of(setting) for each, setting in settings.items()}
    most = max(settings)
    rates: dict[int, list[float]] = {each: [] for each in settings}
    used: dict[str, list[list[int]]] = {}  # by kind: of each device, again and again
    try:
        info = pools[most].info
        answers = {each: [await _said(pool, arguments.new_tokens) for _ in range(2)] for each, pool in pools.items()}
        with tqdm(total=arguments.repeat * len(settings), desc="turns", unit="turn") as bar:
            await _rate(arguments, pools[most], settings[most], members, {})  # all are warm then
            for _ in range(arguments.repeat):
                for each, pool in pools.items():
                    told = used if each == most else {}
                    rates[each].append(await _rate(arguments, pool, settings[each], members, told))
                    bar.update()
        killed = await _killed(arguments, pools[most], settings[most], members) if arguments.kill else None
    finally:
        await members.close()
    one = median(rates[min(settings)])
    return {
        "model": info.name,
        "precision": info.precision,
        "devices": arguments.devices,
        "new_tokens": arguments.new_tokens,
        "tokens_per_second": {each: [round(rate, 1) for rate in found] for each, found in rates.items()},
        "ratio": {each: round(median(found) / one, 3) for each, found in rates.items()},
        "imbalance": {kind: round(imbalance(found), 4) for kind, found in used.items() if most > 1},
        "same_answers": all(said == answers[min(settings)][0] for each in answers.values() for said in each),
        "answers_compared": SAME,
        "kill": killed,
    }


async def _said(pool: Pool, new_tokens: int) -> list[str]:
    """Greedy answers, all asked for at once."""

    async def one(number: int) -> str:
        return "".join([chunk.text async for chunk in pool.stream(question(number, new_tokens))])

    return await asyncio.gather(*(one(number) for number in range(SAME)))


async def _rate(
    arguments: argparse.Namespace,
    pool: Pool,
    setting: Sequence[Share],
    members: Members,
    used: dict[str, list[list[int]]],
) -> float:
    """Tokens a second of all streams together. Adds to `used`."""
    load = Load(pool, arguments.new_tokens, members.asked)
    async with load.running(pool.slots):
        await asyncio.sleep(arguments.seconds / 4)
        began, before = time.perf_counter(), load.tokens
        while time.perf_counter() < began + arguments.seconds:
            await asyncio.sleep(BIN_SECONDS)
            for kind, each in members.used(setting).items():
                used.setdefault(kind, []).append(each)
        rate = (load.tokens - before) / (time.perf_counter() - began)
    if load.lost:
        raise BackendError(f"{len(load.lost)} of {load.answers + len(load.lost)} answers were lost: {load.lost[0]}")
    return rate


def imbalance(used: Sequence[Sequence[int]]) -> float:
    """How much less than the fullest device the emptiest had over the time, as a share of it."""
    means = [fmean(each) for each in zip(*used, strict=True)]
    return 1 - min(means) / max(means) if max(means) else 0.0


async def _killed(
    arguments: argparse.Namespace, pool: Pool, setting: Sequence[Share], members: Members
) -> dict[str, Any]:
    """What becomes of a full load when the process of the last device is killed."""
    load = Load(pool, arguments.new_tokens, members.asked)
    marks: list[tuple[float, int]] = []  # (seconds, tokens until then)
    killed_at = rejoined_at = ended_at = 0.0
    async with load.running(pool.slots):
        began = time.perf_counter()
        while not ended_at or marks[-1][0] < ended_at:
            await asyncio.sleep(BIN_SECONDS)
            now = time.perf_counter() - began
            marks.append((now, load.tokens))
            if not killed_at and now > 1.25 * arguments.seconds:
                members.kill(setting[-1])
                killed_at = now
            elif killed_at and not rejoined_at and now > killed_at + 2 * BIN_SECONDS and members.is_there(setting[-1]):
                rejoined_at, ended_at = now, now + arguments.seconds
            elif killed_at and not rejoined_at and now > killed_at + REJOIN_SECONDS:
                raise BackendError(f"The process that was killed was not back after {REJOIN_SECONDS:.0f} s.")
    rate = _between(marks, 0.25 * arguments.seconds, killed_at)
    others = AS_BEFORE * rate * (len(setting) - 1) / len(setting)
    return {
        "tokens_per_second_before": round(rate, 1),
        "tokens_per_second_without": round(_between(marks, killed_at + RATE_SECONDS, rejoined_at), 1),
        "tokens_per_second_after": round(_between(marks, ended_at - arguments.seconds / 2, ended_at), 1),
        "seconds_until_others_as_before": _until(marks, killed_at, others),
        "seconds_until_back": round(rejoined_at - killed_at, 2),
        "seconds_until_all_as_before": _until(marks, rejoined_at, AS_BEFORE * rate),
        "answers": load.answers,
        "lost": len(load.lost),
        "why": sorted(set(load.lost))[:3],
    }


def _between(marks: Sequence[tuple[float, int]], start: float, end: float) -> float:
    """Tokens a second, 0 where that is no time."""
    inside = [mark for mark in marks if start <= mark[0] <= end]
    if len(inside) < 2:
        return 0.0
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def _until(marks: Sequence[tuple[float, int]], start: float, rate: float) -> float | None:
    """Seconds from `start` to the end of the first second with such a rate; None: there was none."""
    for now, _ in marks:
        if now - RATE_SECONDS >= start and _between(marks, now - RATE_SECONDS - BIN_SECONDS / 2, now) >= rate:
            return round(now - start, 2)
    return None


def show(result: dict[str, Any]) -> str:
    lines = [f"{result['model']}, {result['precision']}, on {result['devices']}", "", "| devices | tokens/s | ratio |"]
    lines.append("|---|---|---|")
    for each, found in result["tokens_per_second"].items():
        lines.append(
            f"| {each} | {median(found):,.0f} ({min(found):,.0f}–{max(found):,.0f}) | {result['ratio'][each]:.2f} |"
        )
    same = "identical" if result["same_answers"] else "NOT identical"
    lines += ["", f"Greedy answers of all of them: {same} ({result['answers_compared']} compared)."]
    for kind, found in result["imbalance"].items():
        lines.append(f"Imbalance of memory under load ({kind}): {found:.1%}.")
    if killed := result["kill"]:
        lines.append(f"A process killed: {json.dumps(killed)}")
    return "\n".join(lines)
