"""How many cards so many users need: a load made at random goes through the scheduler and the batcher on a simulated
clock, with the times of steps from a curve that was measured.

    python -m engine.tools.bench plan --users 10000 --words-per-minute 30 --curve engine/tools/curves/7b-int4-h200.json
    python -m engine.tools.bench plan --users 20 --words-per-minute 30 --measure
    python -m engine.tools.bench plan --check

A curve is what `bench engine` printed of the model on such a card, or what this one did; `--measure` takes it of
`--model` here, and `--check` then asks the same of model and simulation and says how far these are apart.
"""

import argparse
import asyncio
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, cycle
from itertools import count as numbers
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.backends.select import EMBEDDED, EMBEDDED_FOLDER
from engine.context import WINDOW_TOKENS
from engine.errors import ConfigError
from engine.footprint import CARD_SLOTS, CPU_SLOTS, LIVE_SEGMENTS, PACKED_PREFILL_TOKENS, PREFILL_TOKENS
from engine.shape import HY_MT_SEGMENT_TOKENS
from engine.tools.asked import amount, count, whole
from engine.tools.measured import Real, Step
from engine.tools.simulated import Answered, Curve, Part, Points, Request, between, drive, simulate

ABOUT = "cards that so many users need, simulated from a measured curve"

# The load. Of FLORES-200's English devtest: words a sentence, and of its nine other languages tokens of the translation
# for each of the source's, as the embedded model's tokenizer counts both (1.05 for Chinese, 1.41 for Russian)
SENTENCE_WORDS, SENTENCE_SPREAD = 21.6, 0.35  # the latter of the logarithm
TOKENS_PER_WORD = 1.67
ANSWER_SHARE, ANSWER_SPREAD = 1.23, 0.14
PARAGRAPH_SENTENCES = 4  # a segment never spans two lines
TEMPLATE_TOKENS = 16  # the longest of HY-MT's templates without terms, and the chat layout

# The simulation
REQUESTS = 3_000  # so that thirty are beyond the 99th percentile
LEAST_SECONDS = 60.0  # in which a load that is too much by a fiftieth makes the last wait for more than a second
WARM = 0.2  # of the time, of which nothing counts: the cards begin empty
LEAST_SHARE = 0.8  # of the cards that full use of them would take: prompts beside rows may cost less than reckoned
MOST_TIMES_CARDS = 16  # as many

# The check
CHECK_LOADS = (0.5, 1.2)  # of what the machine can do
CHECK_SECONDS = 45.0
CHECK_TURNS = 3
SAMPLE_SECONDS = 50_000.0  # of a word a second: a thousand requests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=count, help="who translate at the same time, in the busiest hour")
    parser.add_argument("--words-per-minute", type=amount, help="that each of them sends")
    parser.add_argument("--words-per-request", type=amount, default=50.0, help="on average; many are short, few long")
    parser.add_argument("--tokens-per-word", type=amount, default=TOKENS_PER_WORD, help="of the model's tokenizer")
    parser.add_argument("--first-token-ms", type=amount, default=1_000.0, help="that 99 of 100 requests wait at most")
    parser.add_argument("--card-price", type=amount, help="of a card an hour, in any currency")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--curve", type=Path, help="a file with the JSON of bench engine, or of this one")
    source.add_argument("--measure", action="store_true", help="take it here; this is done where there is no --curve")
    source.add_argument("--check", action="store_true", help="take it here, and ask model and simulation the same")
    parser.add_argument("--model", default=EMBEDDED, help=f"that is measured: {EMBEDDED}, or a folder")
    parser.add_argument("--device", default="auto", help="on which: auto, cpu or cuda:0")
    parser.add_argument("--slots", type=count, help="segments in one batch, as app.py's --max-concurrent")
    parser.add_argument("--kv-tokens", type=count, help="of the cache of a card; default: as the curve has, or plenty")
    parser.add_argument("--segment-tokens", type=count, help="of the longest segment; default: the model's")
    parser.add_argument("--seed", type=whole, default=1, help="of the load")


# ---------------------------------------------------------------------------------------------------------------------
# the load


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that come at random, independent of one another."""

    words_a_second: float
    words_a_request: float
    tokens_a_word: float
    segment_tokens: int

    def draw(self, seconds: float, seed: int) -> list[Request]:
        dice = random.Random(seed)
        requests, at = [], 0.0
        rate = self.words_a_second / self.words_a_request
        while (at := at + dice.expovariate(rate)) < seconds:
            requests.append(Request(at, self._parts(dice)))
        return requests

    def _parts(self, dice: random.Random) -> tuple[Part, ...]:
        """A text of sentences in paragraphs, cut as `segmenter` does: sentences of a line are put together while they
        fit, and one that does not is cut. Each is shown what of the text before it `context` lets it see."""
        left = max(1.0, dice.expovariate(1 / self.words_a_request))
        packs: list[int] = []
        pack = sentences = 0
        while left >= 1:
            words = min(left, dice.lognormvariate(math.log(SENTENCE_WORDS) - SENTENCE_SPREAD**2 / 2, SENTENCE_SPREAD))
            left -= words
            tokens = max(1, round(words * self.tokens_a_word))
            if pack and (pack + tokens > self.segment_tokens or sentences % PARAGRAPH_SENTENCES == 0):
                packs.append(pack)
                pack = 0
            while tokens > self.segment_tokens:
                packs.append(self.segment_tokens)
                tokens -= self.segment_tokens
            pack += tokens
            sentences += 1
        packs = [tokens for tokens in (*packs, pack) if tokens]
        before = [min(WINDOW_TOKENS, sum(packs[:place])) for place in range(len(packs))]
        return tuple(
            Part(TEMPLATE_TOKENS + shown + tokens, max(1, round(tokens * _share(dice))))
            for shown, tokens in zip(before, packs, strict=True)
        )


def _load(arguments: argparse.Namespace, segment_tokens: int, words_a_second: float = 1.0) -> Load:
    segment_tokens = arguments.segment_tokens or segment_tokens
    return Load(words_a_second, arguments.words_per_request, arguments.tokens_per_word, segment_tokens)


def _share(dice: random.Random) -> float:
    return ANSWER_SHARE * math.exp(dice.gauss(0, ANSWER_SPREAD))


# ---------------------------------------------------------------------------------------------------------------------
# the plan


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for a curve that is none, and for what no number of cards can do."""
    asked = arguments.users is not None and arguments.words_per_minute is not None
    if not asked and not arguments.check:
        raise ConfigError("A plan is for so many users and words; give --users and --words-per-minute.")
    curve = _read(arguments) if arguments.curve else None
    result: dict[str, Any] = {}
    if curve is None:
        curve, result = asyncio.run(_measured(arguments))
    if asked:
        result |= plan(curve, arguments)
    return result | {"curve": _written(curve)}


def plan(curve: Curve, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fewest cards of which 99 in 100 requests have their first token in time, and how these fare."""
    words = arguments.users * arguments.words_per_minute / 60
    load = _load(arguments, curve.segment_tokens, words)
    seconds = max(LEAST_SECONDS, REQUESTS / (1 - WARM) * arguments.words_per_request / words)
    requests = load.draw(seconds, arguments.seed)
    limit_ms: float = arguments.first_token_ms
    needed = work(curve, requests) / seconds
    tried: dict[int, Figures] = {}
    alone_ms = _percentiles(curve.reading(request.parts[0].prompt) for request in requests)["p99"]
    if alone_ms > limit_ms:
        raise ConfigError(
            f"The longest prompts take {alone_ms:g} ms alone, so no number of cards has a first token within "
            f"{limit_ms:g}; allow more by --first-token-ms."
        )

    def holds(cards: int) -> bool:
        if cards not in tried:
            tried[cards] = figures(curve, cards, requests, seconds)
            progress.update()
        return tried[cards].first_ms["p99"] <= limit_ms

    least, most = math.ceil(LEAST_SHARE * needed), math.ceil(needed)
    with tqdm(unit="simulation") as progress:
        while not holds(most):
            least, most = most + 1, 2 * most
            if most > MOST_TIMES_CARDS * math.ceil(needed):
                raise ConfigError(
                    f"Of {most // 2:,} cards the 99th percentile of the first token is "
                    f"{tried[most // 2].first_ms['p99']:g} ms, and more would hardly help; allow more than "
                    f"{limit_ms:g} by --first-token-ms."
                )
        while least < most:
            middle = (least + most) // 2
            least, most = (least, middle) if holds(middle) else (middle + 1, most)
    price = arguments.card_price
    return {
        "users": arguments.users,
        "words_a_second": round(words, 1),
        "requests": len(requests),
        "segments": sum(len(request.parts) for request in requests),
        "simulated_seconds": round(seconds, 1),
        "cards": most,
        "work_of_cards": round(needed, 2),
        "tried": {str(cards): asdict(each) for cards, each in sorted(tried.items())},
        **({"cost_a_million_words": round(most * price / (words * 3600) * 1e6, 2)} if price else {}),
    }


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a load on so many cards, without its beginning. Percentile → milliseconds."""

    first_ms: dict[str, float]  # from the request until the first token of its first segment
    segment_ms: dict[str, float]  # until the last one of a request's first segment
    tokens_a_second: float
    use: float  # of what the cards can do
    busy: float  # share of the time in which a card is at work, be it for one row
    rows: float  # in the steps of a card, on average
    at_once: int  # requests, at the most: what app.py's --max-waiting must let in
    preempted: int


def figures(curve: Curve, cards: int, requests: Sequence[Request], seconds: float) -> Figures:
    done = simulate(curve, cards, requests)
    ends = max(seconds, max(each.ended for each in done.answered))
    told = waits(done.answered, seconds)
    return Figures(
        first_ms=told["first_token_ms"],
        segment_ms=told["segment_ms"],
        tokens_a_second=told["tokens_a_second"],
        use=round(work(curve, requests) / seconds / cards, 3),
        busy=round(done.busy / ends, 3),
        rows=round(done.row_seconds / done.busy, 1),
        at_once=_at_once(done.answered),
        preempted=done.preempted,
    )


def work(curve: Curve, requests: Iterable[Request]) -> float:
    """Seconds of one card, were it never idle and always full."""
    return sum(curve.work(part.prompt, part.answer) for request in requests for part in request.parts)


def waits(answered: Sequence[Answered], seconds: float) -> dict[str, Any]:
    """What those waited who came after the beginning, and the tokens a second until the last came or ended."""
    warm = WARM * seconds
    firsts = [each for each in answered if each.place == 0 and each.request.at >= warm]
    if not firsts:
        raise ConfigError(f"In {seconds:.0f} s hardly anybody comes; plan for more users or words.")
    ended = [each for each in answered if warm <= each.ended]
    until = max(each.ended for each in answered)
    return {
        "first_token_ms": _percentiles(each.came - each.request.at for each in firsts),
        "segment_ms": _percentiles(each.ended - each.request.at for each in firsts),
        "tokens_a_second": round(sum(each.part.answer for each in ended) / (max(seconds, until) - warm), 1),
    }


def _at_once(answered: Iterable[Answered]) -> int:
    ends: dict[float, float] = {}  # of requests, by when they came
    for each in answered:
        ends[each.request.at] = max(each.ended, ends.get(each.request.at, 0.0))
    changes = sorted([*((came, 1) for came in ends), *((ended, -1) for ended in ends.values())])
    return max(accumulate(change for _, change in changes))


def _percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """The nearest rank."""
    ordered = sorted(seconds)
    return {f"p{part}": round(1000 * ordered[math.ceil(part / 100 * len(ordered)) - 1], 1) for part in (50, 99)}


# ---------------------------------------------------------------------------------------------------------------------
# curves


def _read(arguments: argparse.Namespace) -> Curve:
    """Raises `ConfigError`."""
    path: Path = arguments.curve
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
        described = json.loads(lines[-1] if len(lines) > 1 and lines[-1].startswith("{") else "\n".join(lines))
        own = described.get("curve")
        curve = _as_asked(_of_plan(own), arguments) if own else _of_engine(described, arguments)
        if min(seconds for _, seconds in (*curve.rows, *curve.prompts)) <= 0 or not curve.rows or not curve.prompts:
            raise ValueError("a step that takes no time")
        return curve
    except OSError as error:
        raise ConfigError(
            f"The curve {str(path)!r} cannot be read ({error.strerror}); give another --curve."
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{str(path)!r} holds no curve ({type(error).__name__}: {error}); save there what `python -m "
            "engine.tools.bench engine` prints last."
        ) from error


def _of_engine(told: dict[str, Any], arguments: argparse.Namespace) -> Curve:
    """Of what `bench engine` says: two sizes of prompt steps; and of each batch what its tokens took after that."""
    card = str(told["device"]).startswith("cuda")
    speeds = {int(size): each["tokens_a_second"]["ours"] for size, each in told["batches"].items()}
    slots = arguments.slots or min(max(speeds), CARD_SLOTS if card else CPU_SLOTS)
    prefill = (
        next(tokens for at_least, tokens in PREFILL_TOKENS if slots >= at_least) if card else PACKED_PREFILL_TOKENS
    )
    at_once = told["first_token_at_once"]
    tokens = told["prompt_tokens"] * at_once["prompts"]
    steps = math.ceil(tokens / prefill)
    one = (told["prompt_tokens"], told["first_token_ms"]["ours"] / 1000)
    full = (round(tokens / steps), at_once["last_ms"]["ours"] / 1000 / steps)
    prompts = tuple(sorted({one, full}))
    new = told["new_tokens"]
    rows = tuple(
        (size, (size * new / speed - between(prompts, size * told["prompt_tokens"])) / (new - 1))
        for size, speed in sorted(speeds.items())
    )
    segment = arguments.segment_tokens or HY_MT_SEGMENT_TOKENS
    machine = told.get("machine") or {}
    return Curve(
        name=f"{told['model']}, {told['precision']}, {machine.get('gpu') or machine.get('cpu') or told['device']}",
        rows=rows,
        prompts=prompts,
        shared=rows[0][1],  # the weights are read once for both
        ahead=card,
        prefill_tokens=prefill,
        slots=slots,
        kv_tokens=arguments.kv_tokens or slots * LIVE_SEGMENTS * segment,
        segment_tokens=segment,
    )


def _written(curve: Curve) -> dict[str, Any]:
    def in_ms(points: Points) -> dict[str, float]:
        return {str(size): round(1000 * seconds, 3) for size, seconds in points}

    told = {"row_ms": in_ms(curve.rows), "prompt_ms": in_ms(curve.prompts), "shared_ms": round(1000 * curve.shared, 3)}
    kept = ("name", "ahead", "prefill_tokens", "slots", "kv_tokens", "segment_tokens")
    return {name: getattr(curve, name) for name in kept} | told | {"beside": dict(curve.beside)}


def _of_plan(told: dict[str, Any]) -> Curve:
    def points(of: dict[str, float]) -> Points:
        return tuple(sorted((int(size), ms / 1000) for size, ms in of.items()))

    return Curve(
        name=str(told["name"]),
        rows=points(told["row_ms"]),
        prompts=points(told["prompt_ms"]),
        shared=told["shared_ms"] / 1000,
        ahead=bool(told["ahead"]),
        prefill_tokens=int(told["prefill_tokens"]),
        slots=int(told["slots"]),
        kv_tokens=int(told["kv_tokens"]),
        segment_tokens=int(told["segment_tokens"]),
        beside=tuple((int(rows), int(tokens)) for rows, tokens in told["beside"].items()),
    )


def _as_asked(curve: Curve, arguments: argparse.Namespace) -> Curve:
    return replace(
        curve,
        slots=arguments.slots or curve.slots,
        kv_tokens=arguments.kv_tokens or curve.kv_tokens,
        segment_tokens=arguments.segment_tokens or curve.segment_tokens,
    )


# ---------------------------------------------------------------------------------------------------------------------
# the model itself


async def _measured(arguments: argparse.Namespace) -> tuple[Curve, dict[str, Any]]:
    """The curve, taken here; and with `--check` what the model and the simulation say to the same load."""
    folder = EMBEDDED_FOLDER if arguments.model == EMBEDDED else Path(arguments.model)
    real = await asyncio.to_thread(Real, folder, arguments.device, arguments.slots)
    try:
        if arguments.check:
            return await _checked(real, arguments)
        steps = await _steps(real, _load(arguments, real.segment_tokens), arguments.seed)
        return _as_asked(real.curve(steps), arguments), {}
    finally:
        await real.close()


async def _steps(real: Real, load: Load, seed: int) -> list[Step]:
    """Of segments as they are in such a load: what a row takes grows with what it looks back at."""
    parts = [part for request in load.draw(SAMPLE_SECONDS, seed) for part in request.parts]
    return await real.measured(cycle(parts))


async def _checked(real: Real, arguments: argparse.Namespace) -> tuple[Curve, dict[str, Any]]:
    """The curve; and for each share of what the machine can do what came of it, there and in the simulation, by turns:
    the curve of one is what was measured before and after it, since others may be at work here too. With the curve of
    the very steps of that turn the error is that of the simulation alone."""
    load = _load(arguments, real.segment_tokens)
    seeds = numbers(arguments.seed)
    every = before = await _steps(real, load, next(seeds))
    curve = _as_asked(real.curve(before), arguments)
    a_word = work(curve, load.draw(SAMPLE_SECONDS, arguments.seed)) / SAMPLE_SECONDS
    result: dict[str, Any] = {}
    for share, turn in tqdm([(share, turn) for share in CHECK_LOADS for turn in range(CHECK_TURNS)], unit="turn"):
        requests = replace(load, words_a_second=share / a_word).draw(CHECK_SECONDS, arguments.seed + turn)
        requests = [replace(each, parts=tuple(map(real.prepared, each.parts))) for each in requests]
        true = waits(await drive(requests, curve.slots, real.answer), CHECK_SECONDS)
        own = real.taken()
        after = await _steps(real, load, next(seeds))
        said = await asyncio.to_thread(_said, _as_asked(real.curve(before + after), arguments), requests)
        of_own = await asyncio.to_thread(_said, _as_asked(real.curve(own), arguments), requests)
        told = {"measured": true, "simulated": said, "error": _errors(said, true), "own_error": _errors(of_own, true)}
        result.setdefault(f"{share:g}", []).append({"requests": len(requests)} | told)
        before, every = after, every + after
    return _as_asked(real.curve(every), arguments), {"check": result}


def _said(curve: Curve, requests: Sequence[Request]) -> dict[str, Any]:
    return waits(simulate(curve, 1, requests).answered, CHECK_SECONDS)


def _errors(said: dict[str, Any], true: dict[str, Any]) -> dict[str, float]:
    """Shares of what is true."""
    found = {"tokens_a_second": said["tokens_a_second"] / true["tokens_a_second"] - 1}
    for name in ("first_token", "segment"):
        for part, ms in true[f"{name}_ms"].items():
            found[f"{name}_{part}"] = said[f"{name}_ms"][part] / ms - 1
    return {name: round(error, 3) for name, error in found.items()}


def show(result: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = [f"curve: {result['curve']['name']}, {result['curve']['slots']} segments at once"]
    for share, turns in result.get("check", {}).items():
        for turn in turns:
            said = [f"{name} {turn['simulated'][name]} for {turn['measured'][name]}" for name in turn["measured"]]
            lines.append(f"load {share}: {turn['requests']} requests; {'; '.join(said)}")
        for kind, words in (("error", "median error"), ("own_error", "with the curves of these very steps")):
            errors = {name: median(turn[kind][name] for turn in turns) for name in turns[0][kind]}
            lines.append(f"  {words}: {', '.join(f'{name} {error:+.1%}' for name, error in errors.items())}")
    if "cards" in result:
        lines.append(
            f"{result['users']:,} users, {result['words_a_second']:,} words/s: {result['cards']} cards; always full "
            f"they would be {result['work_of_cards']}"
        )
        for cards, each in result["tried"].items():
            first, segment = each["first_ms"], each["segment_ms"]
            lines.append(
                f"{cards} cards: first token p50 {first['p50']} ms, p99 {first['p99']} ms; segment p50 "
                f"{segment['p50']} ms, p99 {segment['p99']} ms; {each['tokens_a_second']:,} tokens/s; used "
                f"{each['use']:.0%}, at work {each['busy']:.0%} of the time with {each['rows']} rows; "
                f"{each['at_once']} requests at once; {each['preempted']} preempted"
            )
    if "cost_a_million_words" in result:
        lines.append(f"a million words cost {result['cost_a_million_words']:,}")
    return "\n".join(lines)
