"""Times the engine, alone and beside its peers in alternating rounds, on a checkpoint or on random weights.

    python -m engine.tools.bench engine --model embedded --batch 1,8 --greedy --compare transformers,llama.cpp
    python -m engine.tools.bench engine --synthetic 7b --compare vllm --png chart.png

Everything asked of an engine is a list of jobs; what it gives back is when each token came, and all figures are made of
that. No token ends an answer, so that every one has its full length, and no two prompts are the same.
"""

import argparse
import math
import random
import resource
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.backends.select import EMBEDDED, EMBEDDED_FOLDER
from engine.errors import ConfigError
from engine.inference.kv_cache import PAGE_TOKENS, pages_of
from engine.inference.sampler import GREEDY
from engine.tools import bench_chart, synthetic
from engine.tools.asked import count, counts
from engine.tools.bench_ours import Engine, Job, Room, ThroughBackend, ThroughBatcher, Times
from engine.tools.bench_peers import PEERS, Peer, Setting
from engine.tools.machine import machine
from engine.types import Sampling

ABOUT = "tokens/s, waiting times, memory, and peers beside it"
HY_MT = Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05, seed=1)  # as its cards recommend
OURS = "ours"
REST_SECONDS = 0.2  # between two runs, so that the threads of one are asleep when the other begins
ARRIVE = 32  # prompts at once, for the time to their first tokens
LOADS = ("long", "mixed")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "int4")
LONG_PROMPT_TOKENS = 2_048
LINES = (1, 7)  # running while a long prompt comes
LONG_AT = 0.3  # when it comes, as a share of the time that the lines take alone
MIXED_LOAD = 0.7  # tokens asked for a second, as a share of what the largest batch gave
# What changes, and counts
NO_PEAKS = {"kv_used", "pages_used", "pages_free", "preempted", "prompt_tokens", "shared_tokens"}
MIXED_PROMPT, MIXED_ANSWER = 4, 2  # times the usual length, the longest; the shortest has 8 tokens
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}  # far beyond the caches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--model", default=EMBEDDED, help=f"{EMBEDDED}, or a folder")
    weights.add_argument("--synthetic", choices=list(synthetic.SHAPES), help="random INT4 weights of these shapes")
    parser.add_argument("--batch", type=counts, help="streams at once; default 1,2,4,…,256 for --synthetic, else 1,8")
    parser.add_argument("--prompt-tokens", type=count, help="default 128 for --synthetic, else 64")
    parser.add_argument("--new-tokens", type=count, help="default 256 for --synthetic, else 48")
    parser.add_argument("--greedy", action="store_true", help="else as HY-MT recommends: T 0.7, p 0.6, k 20, 1.05")
    parser.add_argument("--repeat", type=count, default=3, help="rounds; the figures are medians")
    parser.add_argument("--loads", default="long,mixed", help='besides the ladder: long,mixed, one of them, or ""')
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of a checkpoint, as app.py's")
    parser.add_argument("--kv-dtype", default="auto", choices=["auto", "fp8"], help="of the cache, for --synthetic")
    parser.add_argument("--compare", default="", help=f"whom to run beside it: {','.join(PEERS)}")
    parser.add_argument("--png", type=Path, help="where to draw the chart")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    batches: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    sampling: Sampling
    rounds: int
    loads: tuple[str, ...]
    peers: tuple[str, ...]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """Raises `ConfigError`."""
        made_up = arguments.synthetic is not None
        plan = cls(
            batches=arguments.batch or ((1, 2, 4, 8, 16, 32, 64, 128, 256) if made_up else (1, 8)),
            prompt_tokens=arguments.prompt_tokens or (128 if made_up else 64),
            new_tokens=arguments.new_tokens or (256 if made_up else 48),
            sampling=GREEDY if arguments.greedy else HY_MT,
            rounds=arguments.repeat,
            loads=_named(arguments.loads, LOADS),
            peers=_named(arguments.compare, PEERS),
        )
        if plan.new_tokens < 2:
            raise ConfigError("With one new token there is no time between two; ask for --new-tokens 2 or more.")
        if arguments.png and find_spec("matplotlib") is None:
            raise ConfigError("--png draws with matplotlib, which is not installed; pip install matplotlib.")
        if arguments.png and not arguments.png.parent.is_dir():
            raise ConfigError(f"There is no folder {str(arguments.png.parent)!r} for the chart; make it first.")
        if arguments.kv_dtype != "auto" and not made_up:
            raise ConfigError("--kv-dtype is of the cache of random weights; give --synthetic with it.")
        return plan

    @property
    def slots(self) -> int:
        beside = max(LINES) + 1 if "long" in self.loads else 0
        return max(*self.batches, beside)

    @property
    def job_tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens

    def room(self, fp8: bool) -> Room:
        longest = self.job_tokens
        if "long" in self.loads:
            longest = max(longest, LONG_PROMPT_TOKENS)
        if "mixed" in self.loads:
            longest = max(longest, MIXED_PROMPT * self.prompt_tokens + MIXED_ANSWER * self.new_tokens)
        return Room(self.slots, self.pages, longest, fp8)

    @property
    def pages(self) -> int:
        """Of the cache: for the largest batch, and for the lines with a long prompt beside them."""
        beside = max(LINES) * pages_of(self.job_tokens) + pages_of(LONG_PROMPT_TOKENS) if "long" in self.loads else 0
        return max(max(self.batches) * pages_of(self.job_tokens), beside)


def _named(given: str, known: Iterable[str]) -> tuple[str, ...]:
    names = tuple(name for name in given.split(",") if name)
    if unknown := set(names) - set(known):
        raise ConfigError(f"{', '.join(sorted(unknown))}: unknown here; there are {', '.join(known)}.")
    return names


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for a model that cannot be had or run, and for settings that make no sense."""
    plan = Plan.of(arguments)
    device = _device(arguments.device)
    card_before = card_bytes_before(device) if device.startswith("cuda") else 0
    began = time.perf_counter()
    engine: Engine
    if arguments.synthetic:
        engine = ThroughBatcher(arguments.synthetic, device, plan.room(arguments.kv_dtype == "fp8"), plan.sampling)
    else:
        folder = EMBEDDED_FOLDER if arguments.model == EMBEDDED else Path(arguments.model)
        engine = ThroughBackend(folder, device, arguments.precision, plan.slots, plan.sampling)
    result: dict[str, Any] = {
        "model": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "ready_after_seconds": round(time.perf_counter() - began, 1),
        "sampling": "greedy" if arguments.greedy else "temperature 0.7, top_p 0.6, top_k 20, repetition penalty 1.05",
        "prompt_tokens": plan.prompt_tokens,
        "new_tokens": plan.new_tokens,
    }
    try:
        if plan.job_tokens > engine.longest:
            raise ConfigError(
                f"A prompt of {plan.prompt_tokens} tokens with {plan.new_tokens} new ones does not fit the "
                f"{engine.longest} that one sequence may have here; ask for fewer."
            )
        result |= measure(engine, plan, card_before)
    finally:
        engine.close()
    if arguments.png:
        described = machine()
        bench_chart.draw(result, described["gpu"] or described["cpu"], arguments.png)
    return result


def _device(asked: str) -> str:
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if asked == "auto":
        return next(iter(cards), "cpu")
    if asked not in ("cpu", *cards):
        raise ConfigError(f"There is no device {asked!r}: this machine has {len(cards)} CUDA cards; use --device cpu.")
    return asked


def measure(engine: Engine, plan: Plan, card_before: int) -> dict[str, Any]:
    """All loads, ours first. `card_before`: bytes in use on the card before the engine was loaded."""
    dice = random.Random(1)
    result: dict[str, Any] = {}
    engine.run(_jobs(engine, plan, min(plan.batches), dice))  # warm
    speed = _tokens_a_second(engine.run(_jobs(engine, plan, max(plan.batches), dice)))
    if "long" in plan.loads:
        result["long_prompt"] = {str(lines): long_prompt(engine, plan, lines, dice) for lines in LINES}
    if "mixed" in plan.loads:
        result["mixed"] = mixed(engine, plan, MIXED_LOAD * speed, dice)
    # before the peers are loaded, and before there is anything to copy
    result["memory_mb"] = memory(engine, card_before)
    copied = copy_bytes_a_second(engine.device)
    result["copy_gb_a_second"] = round(copied / 1e9, 1)
    with TemporaryDirectory() as temporary:
        peers, result["peers"] = load_peers(engine, plan, Path(temporary))
        result |= ladder(engine, peers, plan, copied, dice)
        for peer in peers.values():
            peer.close()
    return result


def load_peers(engine: Engine, plan: Plan, folder: Path) -> tuple[dict[str, Peer], dict[str, str]]:
    """(the peers that could be loaded, what is to be said of each that was asked for)"""
    peers: dict[str, Peer] = {}
    said: dict[str, str] = {}
    checkpoint: Path | None = None
    for name in plan.peers:
        kind = PEERS[name]
        if not kind.installed:
            said[name] = "not installed"
            continue
        try:
            checkpoint = checkpoint or engine.checkpoint(folder / "checkpoint")
            sequences = max(plan.slots, ARRIVE)
            peer = kind.load(
                Setting(checkpoint, folder, engine.device, plan.sampling, sequences, plan.job_tokens, engine.threads)
            )
            for size in (min(plan.batches), max(plan.batches)):  # warm
                peer.generate([job.ids for job in _jobs(engine, plan, size, random.Random(0))], 2)
        except Exception as error:  # another's program: whatever it raises, our own figures are kept
            said[name] = f"failed: {type(error).__name__}: {error}"
        else:
            peers[name], said[name] = peer, peer.about
    return peers, said


def ladder(
    engine: Engine, peers: dict[str, Peer], plan: Plan, copied_a_second: float, dice: random.Random
) -> dict[str, Any]:
    """First tokens, and tokens/s of each batch size: ours and the peers' in turns, on the same prompts."""
    sides = [OURS, *peers]
    first: dict[str, list[float]] = {side: [] for side in sides}
    last: dict[str, list[float]] = {side: [] for side in sides}
    middle: list[float] = []
    speeds: dict[int, dict[str, list[float]]] = {size: {side: [] for side in sides} for size in plan.batches}
    gaps: dict[int, list[float]] = {size: [] for size in plan.batches}
    for _ in tqdm(range(plan.rounds), unit="round"):
        alone, *together = _jobs(engine, plan, 1 + ARRIVE, dice, new_tokens=1)
        for side in sides:
            time.sleep(REST_SECONDS)
            if side == OURS:
                first[side].append(engine.run([alone])[0][0])
                came = [times[0] for times in engine.run(together)]
                middle.append(median(came))
                last[side].append(max(came))
            else:
                first[side].append(peers[side].generate([alone.ids], 1))
                last[side].append(peers[side].generate([job.ids for job in together], 1))
        for size in plan.batches:
            jobs = _jobs(engine, plan, size, dice)
            for side in sides:
                time.sleep(REST_SECONDS)
                if side == OURS:
                    times = engine.run(jobs)
                    speeds[size][side].append(_tokens_a_second(times))
                    gaps[size] += _gaps(times)
                else:
                    seconds = peers[side].generate([job.ids for job in jobs], plan.new_tokens)
                    speeds[size][side].append(size * plan.new_tokens / seconds)
    return {
        "first_token_ms": {side: _ms(median(values)) for side, values in first.items()},
        "first_token_at_once": {
            "prompts": ARRIVE,
            "median_ms": {OURS: _ms(median(middle))},
            "last_ms": {side: _ms(median(values)) for side, values in last.items()},
        },
        "batches": {
            str(size): compared(speeds[size])
            | {"inter_token_ms": _percentiles(gaps[size])}
            | bandwidth(engine, plan, size, fmean(gaps[size]), copied_a_second)
            for size in plan.batches
        },
    }


def compared(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of tokens/s, all values, and for each peer the median of the ratios of each round."""
    ours = speeds[OURS]
    return {
        "tokens_a_second": {side: round(median(values), 1) for side, values in speeds.items()},
        "ratio": {
            side: round(median(mine / theirs for mine, theirs in zip(ours, values, strict=True)), 2)
            for side, values in speeds.items()
            if side != OURS
        },
        "rounds": {side: [round(value, 1) for value in values] for side, values in speeds.items()},
    }


def bandwidth(engine: Engine, plan: Plan, size: int, step_seconds: float, copied_a_second: float) -> dict[str, float]:
    """What a step reads: its weights once, and the cache of each row, on average half of its answer long."""
    row = engine.kv_token_bytes * (plan.prompt_tokens + plan.new_tokens / 2)
    read = engine.weights_read + size * row
    return {
        "read_gb_a_second": round(read / step_seconds / 1e9, 1),
        "share_of_copy": round(read / step_seconds / copied_a_second, 3),
        "limit_tokens_a_second": round(size * copied_a_second / read, 1),
    }


def long_prompt(engine: Engine, plan: Plan, lines: int, dice: random.Random) -> dict[str, Any]:
    """The time between tokens of running lines, alone and while a long prompt is taken in."""
    tokens = min(LONG_PROMPT_TOKENS, engine.longest) - 1
    idle: list[float] = []
    beside: list[float] = []
    first: list[float] = []
    for _ in range(plan.rounds):
        times = engine.run(_jobs(engine, plan, lines, dice))
        idle += _gaps(times)
        begins = LONG_AT * max(own[-1] for own in times)
        long = replace(engine.prompt(tokens, dice), new_tokens=1, at=begins)
        *running, (came,) = engine.run([*_jobs(engine, plan, lines, dice), long])
        first.append(came - begins)
        beside += _gaps(running, (begins, came))
    return {
        "prompt_tokens": tokens,
        "first_token_ms": _ms(median(first)),
        "inter_token_ms": _percentiles(idle),
        "inter_token_beside_ms": _percentiles(beside),
        "ratio": round(_percentile(beside, 99) / median(idle), 2),  # the 99th percentile against the idle median
    }


def mixed(engine: Engine, plan: Plan, tokens_a_second: float, dice: random.Random) -> dict[str, Any]:
    """Prompts and answers of all lengths that arrive at random, so many that `tokens_a_second` are asked for."""
    half = min(engine.longest, plan.pages * PAGE_TOKENS) // 2
    prompts, answers = MIXED_PROMPT * plan.prompt_tokens, MIXED_ANSWER * plan.new_tokens
    lengths = [
        (_log_uniform(dice, 8, prompts, half), _log_uniform(dice, 8, answers, half))
        for _ in range(max(16, 3 * plan.slots))
    ]
    rate = tokens_a_second / fmean(new for _, new in lengths)  # requests a second
    at, jobs = 0.0, []
    for prompt_tokens, new_tokens in lengths:
        jobs.append(replace(engine.prompt(prompt_tokens, dice), new_tokens=new_tokens, at=at))
        at += dice.expovariate(rate)
    times = engine.run(jobs)
    first = [own[0] - job.at for own, job in zip(times, jobs, strict=True)]
    return {
        "requests": len(jobs),
        "asked_tokens_a_second": round(sum(new for _, new in lengths) / at, 1),
        "tokens_a_second": round(_tokens_a_second(times), 1),
        "first_token_ms": _percentiles(first),
        "inter_token_ms": _percentiles(_gaps(times)),
    }


def memory(engine: Engine, card_before: int) -> dict[str, int]:
    """The most memory so far in 10⁶ bytes: by kind as the engine says, and of the process as the system sees it."""
    found = {kind: value for kind, value in engine.memory().items() if kind not in NO_PEAKS}
    found["process_rss"] = peak_rss_bytes()
    if engine.device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(engine.device)
        # torch gives nothing back by itself, so what the card misses now is the peak, the context of CUDA with it
        found |= {
            "torch_peak": torch.cuda.max_memory_reserved(engine.device),
            "process_on_card": total - free - card_before,
        }
    return {kind: value // 1_000_000 for kind, value in found.items()}


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def card_bytes_before(device: str) -> int:
    """What others hold on the card, as its driver says; asked before CUDA is started, which takes some itself."""
    try:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        query.append(f"--id={torch.device(device).index or 0}")
        return int(subprocess.run(query, capture_output=True, check=True, text=True).stdout) << 20
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0  # nothing is known: what others hold counts as ours


def copy_bytes_a_second(device: str) -> float:
    """Bytes read and written a second by the best of some copies far larger than the caches."""
    kind = torch.device(device).type
    source = torch.empty(COPY_BYTES[kind], dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)

    def seconds() -> float:
        began = time.perf_counter()
        target.copy_(source)
        if kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return 2 * source.nbytes / min(seconds() for _ in range(10))


def _jobs(engine: Engine, plan: Plan, count: int, dice: random.Random, new_tokens: int | None = None) -> list[Job]:
    tokens = new_tokens or plan.new_tokens
    return [replace(engine.prompt(plan.prompt_tokens, dice), new_tokens=tokens) for _ in range(count)]


def _tokens_a_second(times: Sequence[Times]) -> float:
    return sum(map(len, times)) / max(own[-1] for own in times)


def _gaps(times: Iterable[Times], window: tuple[float, float] = (0.0, math.inf)) -> list[float]:
    """Seconds between each job's tokens, where they overlap the window."""
    start, end = window
    pairs = (pair for own in times for pair in pairwise(own))
    return [after - before for before, after in pairs if before < end and after > start]


def _percentile(values: Sequence[float], share: int) -> float:
    """The nearest rank."""
    return sorted(values)[max(0, math.ceil(share / 100 * len(values)) - 1)]


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": _ms(_percentile(seconds, share)) for share in (50, 99)} | {"max": _ms(max(seconds))}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _log_uniform(dice: random.Random, low: int, high: int, bound: int) -> int:
    return min(bound, round(math.exp(dice.uniform(math.log(low), math.log(high)))))


def show(result: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = [f"{result['model']}, {result['precision']}, {result['device']}, {result['sampling']}"]
    lines += [f"{name}: {said}" for name, said in result["peers"].items()]
    at_once = result["first_token_at_once"]
    lines.append(f"first token: {_listed(result['first_token_ms'])} ms")
    lines.append(f"last first token of {at_once['prompts']} at once: {_listed(at_once['last_ms'])} ms")
    for size, figures in result["batches"].items():
        ratios = "".join(f", {ratio:.2f} × {side}" for side, ratio in figures["ratio"].items())
        gaps = figures["inter_token_ms"]
        lines.append(
            f"tokens/s, batch {size}: {_listed(figures['tokens_a_second'])}{ratios}; "
            f"{figures['read_gb_a_second']} GB/s, {figures['share_of_copy']:.0%} of a copy's; "
            f"between tokens {gaps['p50']} ms, p99 {gaps['p99']} ms"
        )
    for lines_beside, figures in result.get("long_prompt", {}).items():
        idle, beside = figures["inter_token_ms"], figures["inter_token_beside_ms"]
        lines.append(
            f"{figures['prompt_tokens']} tokens beside {lines_beside}: between tokens p99 {beside['p99']} ms, "
            f"{figures['ratio']} × the idle median of {idle['p50']} ms; first token {figures['first_token_ms']} ms"
        )
    if load := result.get("mixed"):
        lines.append(
            f"mixed lengths: {load['tokens_a_second']} of {load['asked_tokens_a_second']} tokens/s asked for; between "
            f"tokens p99 {load['inter_token_ms']['p99']} ms; first token p99 {load['first_token_ms']['p99']} ms"
        )
    lines.append("memory: " + ", ".join(f"{kind} {value} MB" for kind, value in result["memory_mb"].items()))
    return "\n".join(lines)


def _listed(by_side: dict[str, float]) -> str:
    return ", ".join(f"{side} {value}" for side, value in by_side.items())
