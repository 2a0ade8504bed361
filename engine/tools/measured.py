"""A model on this machine as `bench plan` asks it: answers of given lengths, and the curve of its steps.

Steps are timed where the batcher launches and reads them, under the whole backend, so that what is done around them
counts. Knows no users and no cards.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from engine import prompts
from engine.backends.local import LocalBackend, prepared, runner_of
from engine.config import Config
from engine.inference.kv_cache import PAGE_TOKENS, Table
from engine.inference.runner import Chunk, Pending, Runner
from engine.tools.bench_ours import filled
from engine.tools.simulated import Curve, Part, Points, between
from engine.types import Prompt

PROBES = (8, 16, 32, 64, 128, 256, 512, 1_024, 2_048)  # tokens of a prompt that comes alone
PROBED = 7  # times
ASKED_EACH = 3  # prompts that each of some clients asks one after the other


@dataclass(frozen=True, slots=True)
class Step:
    rows: int
    tokens: int  # of prompts
    seconds: float


class Timed:
    """Notes the steps of a runner. One is over when it is read; it began when the last one was, so that what the
    batcher and its listeners do in between counts, or where there was none to be done, when it was launched."""

    def __init__(self, runner: Runner, running: Callable[[], int]) -> None:
        """`running`: how many sequences are in the batch."""
        self.steps: list[Step] = []
        self._running, self._step, self._last = running, runner.step, 0.0
        runner.step = self._noted  # type: ignore[method-assign]

    def _noted(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> "_Noted":
        launched = time.perf_counter() if not slots and self._running() == len(chunks) else 0.0
        tokens = sum(len(chunk.ids) for chunk in chunks)
        return _Noted(self, launched, len(slots), tokens, self._step(chunks, slots, tables))

    def read(self, launched: float, rows: int, tokens: int) -> None:
        began = max(launched, self._last)
        self._last = time.perf_counter()
        self.steps.append(Step(rows, tokens, self._last - began))


@dataclass(frozen=True, slots=True)
class _Noted:
    timed: Timed
    launched: float  # 0 where others were under way
    rows: int
    prompt_tokens: int
    pending: Pending

    def tokens(self) -> list[int]:
        tokens = self.pending.tokens()
        self.timed.read(self.launched, self.rows, self.prompt_tokens)
        return tokens


class Real:
    """No token ends an answer. Raises what `LocalBackend.load` raises."""

    def __init__(self, folder: Path, device: str, slots: int | None) -> None:
        config = Config(model=str(folder), devices=device, max_concurrent=slots)
        loaded, plan = prepared(config)
        loaded.tokenizer.stop_ids = frozenset()
        self._tokenize = loaded.tokenizer.prompt
        self._start = prompts.plain(loaded.info.family, "en", "fr", "")
        self._runner = runner_of(loaded, plan, config)
        self._backend = LocalBackend(loaded, plan, self._runner)
        self._timed = Timed(self._runner, lambda: self._backend.running)
        self._dice = random.Random(1)
        self._texts: defaultdict[int, list[str]] = defaultdict(list)  # of so many tokens, each for one answer

    def prepared(self, part: Part) -> Part:
        """Has a text made for a part, whose prompt is a word shorter than asked for at the most."""
        text = filled(self._start, part.prompt, lambda text: len(self._tokenize(text)), self._dice)
        part = replace(part, prompt=len(self._tokenize(text)))
        self._texts[part.prompt].append(text)
        return part

    async def answer(self, part: Part, first: bool) -> tuple[float, float]:
        """Of a part that was prepared: when its first token came, and the last."""
        loop, came = asyncio.get_running_loop(), 0.0
        text = self._texts[part.prompt].pop()
        async with aclosing(self._backend.stream(Prompt(text, text, part.answer, first=first))) as chunks:
            async for _ in chunks:
                came = came or loop.time()
        return came, loop.time()

    async def close(self) -> None:
        await self._backend.close()

    @property
    def segment_tokens(self) -> int:
        return self._backend.info.segment_tokens

    async def measured(self, parts: Iterator[Part]) -> list[Step]:
        """Steps of all numbers of rows, while some clients ask one of `parts` after the other, and of prompts of all
        sizes that come alone."""
        runner = self._runner
        await self._ask([self.prepared(next(parts))])  # warm
        self.taken()
        ladder = [*(2**power for power in range(12) if 2**power < runner.slots), runner.slots]
        for clients in ladder:
            asked = [[self.prepared(next(parts)) for _ in range(ASKED_EACH)] for _ in range(clients)]
            await asyncio.gather(*map(self._ask, asked))
        most = min(runner.prefill_tokens, self._backend.info.max_context_tokens - 1)
        await self._ask([self.prepared(Part(tokens, 1)) for tokens in PROBES if tokens <= most for _ in range(PROBED)])
        return self.taken()

    def taken(self) -> list[Step]:
        """Since the last time that somebody asked."""
        steps, self._timed.steps = self._timed.steps, []
        return steps

    def curve(self, steps: Sequence[Step]) -> Curve:
        runner, info = self._runner, self._backend.info
        rows, alone, beside, token = fitted(steps)
        alone = max(rows[0][1], alone)  # the weights are read in either case; what was measured varies
        return Curve(
            name=f"{info.name}, {info.precision}, {info.device}",
            rows=rows,
            prompts=((0, alone), (runner.prefill_tokens, alone + runner.prefill_tokens * token)),
            shared=alone - beside,
            ahead=runner.ahead,
            prefill_tokens=runner.prefill_tokens,
            slots=runner.slots,
            kv_tokens=runner.pages * PAGE_TOKENS,
            segment_tokens=info.segment_tokens,
            beside=tuple((rows, runner.beside(rows, 0)) for rows in range(1, runner.slots + 1)),
        )

    async def _ask(self, parts: Sequence[Part]) -> None:
        for part in parts:
            await self.answer(part, False)


def fitted(steps: Sequence[Step]) -> tuple[Points, float, float, float]:
    """(rows → seconds of their steps; what a step with prompts takes besides its rows, where there are none and where
    there are some; and each token of a prompt). Means and least squares: what takes long now and then counts too."""
    by_rows = defaultdict[int, list[float]](list)
    for step in steps:
        if not step.tokens:
            by_rows[step.rows].append(step.seconds)
    rows = tuple((number, fmean(seconds)) for number, seconds in sorted(by_rows.items()))
    mixed = [step for step in steps if step.tokens]
    known = np.array([[not step.rows, bool(step.rows), step.tokens] for step in mixed], dtype=float)
    left = np.array([step.seconds - (between(rows, step.rows) if step.rows else 0.0) for step in mixed])
    alone, beside, token = np.linalg.lstsq(known, left, rcond=None)[0].tolist()
    return rows, alone, beside, token
