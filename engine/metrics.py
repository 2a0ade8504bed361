"""What happened and what it cost: counts, latencies, tokens a second, memory. Knows no model; probes are handed in."""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

import psutil

from engine.errors import YiwenError
from engine.types import DocumentEvent, Finished, TextDelta, Translated, TranslationEvent

RATE_WINDOW_SECONDS = 5
LATENCIES_KEPT = 512  # the newest; enough for a 95th percentile that moves with the load


Event = TypeVar("Event", bound=TranslationEvent | DocumentEvent)


@dataclass(frozen=True, slots=True)
class Latency:
    """Over the newest `LATENCIES_KEPT`; zeros before the first."""

    count: int
    median_seconds: float
    p95_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. Those with None are of a card, and None without one or where they are not measured."""

    process: int  # resident, all of this program
    weights: int
    kv_used: int
    kv_total: int
    device_used: int | None
    device_total: int | None
    workspace: int | None = None
    graphs: int | None = None
    context: int | None = None  # CUDA's own


@dataclass(frozen=True, slots=True)
class Pages:
    """Of the KV cache."""

    used: int
    free: int
    preempted: int  # sequences that had to give their pages back and begin anew, since the start


@dataclass(frozen=True, slots=True)
class Held:
    """What the probes of memory say, at one moment."""

    memory: Memory
    pages: Pages | None  # None where the cache has none
    hit_rate: float | None  # of the tokens of all prompts so far, those whose keys and values were in the cache already


@dataclass(frozen=True, slots=True)
class Snapshot:
    uptime_seconds: float
    running: int  # requests under way, those that wait among them
    requests: int  # all that ever came; each ends as finished, cancelled or an error
    finished: int
    cancelled: int
    errors: Mapping[str, int]  # by code
    segments: int
    input_tokens: int
    output_tokens: int
    tokens_per_second: float  # out, over the last few seconds
    first_text: Latency  # from asking to the first text
    whole: Latency  # from asking to the last text
    memory: Memory
    pages: Pages | None  # None where the cache has none


class Metrics:
    """Counted on the event loop, read from any thread. `limit_bytes`: what the user lets us take of a card."""

    def __init__(
        self,
        memory: Callable[[], Mapping[str, int]] = dict,
        process_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        limit_bytes: int | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._memory = memory
        process = psutil.Process()
        self._process_bytes = process_bytes or (lambda: int(process.memory_info().rss))
        self._clock = clock
        self._lock = Lock()
        self._born = clock()
        self._running = self._requests = self._finished = self._cancelled = 0
        self._errors: Counter[str] = Counter()
        self._segments = self._input_tokens = self._output_tokens = 0
        self._rate = _Rate()
        self._first_text: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._whole: deque[float] = deque(maxlen=LATENCIES_KEPT)

    async def observe(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The same events, counted as they pass. Closing it closes `events`."""
        began = self._clock()
        silent, done = True, False
        with self._lock:
            self._requests += 1
            self._running += 1
        try:
            async with aclosing(events):
                async for event in events:
                    match event:
                        case TextDelta() | Translated():
                            self._count_text(began if silent else None)
                            silent = False
                        case Finished():
                            self._count_finished(event, began)
                            done = True
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            with self._lock:
                self._cancelled += not done  # a reader may leave after the last event: that is no cancelling
            raise
        except Exception as error:
            with self._lock:
                self._errors[error.code if isinstance(error, YiwenError) else YiwenError.code] += 1
            raise
        finally:
            with self._lock:
                self._running -= 1

    def _count_text(self, began: float | None) -> None:
        now = self._clock()
        with self._lock:
            self._rate.add(now)
            if began is not None:
                self._first_text.append(now - began)

    def _count_finished(self, event: Finished, began: float) -> None:
        with self._lock:
            self._finished += 1
            self._segments += event.segments
            self._input_tokens += event.input_tokens
            self._output_tokens += event.output_tokens
            self._whole.append(self._clock() - began)

    def tokens_per_second(self) -> float:
        """Out, over the last few seconds."""
        with self._lock:
            return self._rate.per_second(self._clock())

    def held(self) -> Held:
        """Asks the probes now."""
        memory = self._memory()
        asked = memory.get("prompt_tokens", 0)
        return Held(
            memory=Memory(
                process=self._process_bytes(),
                weights=memory.get("weights", 0),
                kv_used=memory.get("kv_used", 0),
                kv_total=memory.get("kv_total", 0),
                device_used=memory.get("device_used"),
                device_total=memory.get("device_total"),
                workspace=memory.get("workspace"),
                graphs=memory.get("graphs"),
                context=memory.get("context"),
            ),
            pages=Pages(memory["pages_used"], memory["pages_free"], memory.get("preempted", 0))
            if "pages_used" in memory
            else None,
            hit_rate=memory["shared_tokens"] / asked if asked else None,
        )

    def snapshot(self, held: Held | None = None) -> Snapshot:
        """`held`: what was asked of the probes before, so that they are not asked again."""
        held = held or self.held()
        with self._lock:
            now = self._clock()
            return Snapshot(
                uptime_seconds=now - self._born,
                running=self._running,
                requests=self._requests,
                finished=self._finished,
                cancelled=self._cancelled,
                errors=dict(self._errors),
                segments=self._segments,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
                tokens_per_second=self._rate.per_second(now),
                first_text=_summary(self._first_text),
                whole=_summary(self._whole),
                memory=held.memory,
                pages=held.pages,
            )


class _Rate:
    """Deltas a second, in buckets of one second. A delta is a token, give or take a half character held back."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_SECONDS + 1)

    def add(self, now: float) -> None:
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1] = (second, self._buckets[-1][1] + 1)
        else:
            self._buckets.append((second, 1))

    def per_second(self, now: float) -> float:
        recent = [(second, count) for second, count in self._buckets if second > now - RATE_WINDOW_SECONDS - 1]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(1.0, now - recent[0][0])


def _summary(seconds: deque[float]) -> Latency:
    if not seconds:
        return Latency(0, 0.0, 0.0)
    ordered = sorted(seconds)
    return Latency(len(ordered), ordered[len(ordered) // 2], ordered[math.ceil(0.95 * len(ordered)) - 1])
