"""How fast this model is on this machine, for 1, 2, 4, … segments at once: a few seconds on sentences of our own. They
wait for their turn as anybody's do, and share it as one request. Knows backends and turns; nothing is kept of what is
said.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from engine import prompts
from engine.backends.base import Backend
from engine.errors import BenchmarkRunning
from engine.scheduler import Scheduler
from engine.types import ModelInfo, Prompt

MOST_SECONDS = 10
POINT_SECONDS = 2.0  # of each number of streams, at the most: less where many numbers share the time
MAX_ANSWER_TOKENS = 128
SOURCE = "en"
RUN_ID = "yiwen-benchmark"
# Sentences differ from their first words on, so that no prompt finds more than the template in the cache
_WHO = (
    "the old teacher",
    "a small boat",
    "my neighbour",
    "the night train",
    "our doctor",
    "one of the birds",
    "a guide",
)
_DOES = ("comes back", "waits quietly", "is seen", "turns around", "stops for an hour", "can be heard")
_WHERE = (
    "near the harbour",
    "behind the school",
    "at the edge of the forest",
    "in front of the museum",
    "by the river",
)
_WHEN = ("before the rain begins", "when the shops are closed", "while everybody is asleep", "after the long winter")


@dataclass(frozen=True, slots=True)
class Point:
    streams: int
    tokens_per_second: float  # of all streams together
    first_token_ms: float | None  # the median; None where none came in time
    tokens: int


class Benchmark:
    """One at a time for each scheduler, whoever has begun it: there it is a request of its own name. It goes past the
    translator's checks: it is the model that is measured."""

    def __init__(self, backend: Backend, scheduler: Scheduler) -> None:
        self._backend, self._scheduler = backend, scheduler
        self._numbers = count()  # of sentences, so that none comes again soon

    @contextmanager
    def begun(self, seconds: float) -> Iterator[AsyncGenerator[Point, None]]:
        """The points as they are measured, in so many seconds at the most. Raises `BenchmarkRunning`, `Overloaded`, and
        while the model loads `Loading`; what is given raises what the backend raises."""
        if self._scheduler.has(RUN_ID):
            raise BenchmarkRunning("A benchmark is running already; wait a few seconds until it is done.")
        info = self._backend.info
        with self._scheduler.admit(RUN_ID):
            yield self._points(info, seconds)

    async def _points(self, info: ModelInfo, seconds: float) -> AsyncGenerator[Point, None]:
        ladder = rungs(self._scheduler.slots)
        each = min(POINT_SECONDS, seconds / len(ladder))
        end = time.perf_counter() + seconds
        for streams in ladder:
            if (left := end - time.perf_counter()) < each / 2:  # a slow model's first token took it all
                return
            yield await self._point(info, streams, min(each, left), left)

    async def _point(self, info: ModelInfo, streams: int, seconds: float, at_most: float) -> Point:
        """Goes on past its seconds until a first token has come."""
        began, tally = time.perf_counter(), _Tally()
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._stream(info, tally)) for _ in range(streams)]
        try:
            failed, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not failed and not tally.tokens:
                come = asyncio.create_task(tally.came.wait())
                tasks.append(come)
                failed, _ = await asyncio.wait(tasks, timeout=at_most - seconds, return_when=asyncio.FIRST_COMPLETED)
                failed.discard(come)
            for task in failed:
                task.result()  # raises
            taken = time.perf_counter() - began
            first = round(1000 * median(tally.first_seconds), 1) if tally.first_seconds else None
            return Point(streams, round(tally.tokens / taken, 1), first, tally.tokens)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(self, info: ModelInfo, tally: "_Tally") -> None:
        """Sentence after sentence, until it is cancelled."""
        target = next(code for code in info.languages if code != SOURCE)
        for number in self._numbers:
            source = sentence(number)
            prompt = Prompt(prompts.plain(info.family, SOURCE, target, source), source, MAX_ANSWER_TOKENS)
            asked, silent = time.perf_counter(), True
            async with self._scheduler.slot(RUN_ID), aclosing(self._backend.stream(prompt)) as chunks:
                async for chunk in chunks:
                    if silent and chunk.tokens:
                        silent = False
                        tally.first_seconds.append(time.perf_counter() - asked)
                        tally.came.set()
                    tally.tokens += chunk.tokens


@dataclass(slots=True)
class _Tally:
    tokens: int = 0
    first_seconds: list[float] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)


def rungs(slots: int) -> list[int]:
    """1, 2, 4, … and as many as there are slots."""
    return [*(1 << power for power in range(slots.bit_length()) if 1 << power < slots), slots]


def sentence(number: int) -> str:
    """About 30 tokens: two clauses, that two numbers near each other have none of in common."""
    whole = f"{_clause(number)}, and {_clause(11 * number + 5)}."
    return whole[0].upper() + whole[1:]


def _clause(number: int) -> str:
    parts = []
    for choices in (_WHO, _DOES, _WHERE, _WHEN):
        number, place = divmod(number, len(choices))
        parts.append(choices[place])
    return " ".join(parts)
