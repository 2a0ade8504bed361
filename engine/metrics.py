"""What happened and what it cost: counts, latencies, tokens a second, memory. Knows no model; probes are handed in."""

import math
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

import psutil

from engine.errors import YiwenError
from engine.types import DocumentEvent, Finished, Started, TermResult, TextDelta, Translated, TranslationEvent, Warning

RATE_WINDOW_SECONDS = 5
LATENCIES_KEPT = 512  # the newest; enough for a 95th percentile that moves with the load
# Bounds of histograms, from a short text on a card to a book on a laptop
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
DONE, CANCELLED = "done", "cancelled"  # how a run ends that does not fail

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

    process: int  # resident, all of this program and of its workers
    weights: int
    kv_used: int
    kv_total: int
    workspace: int | None = None
    graphs: int | None = None
    context: int | None = None  # CUDA's own


def memory_of(by_use: Mapping[str, int], process_bytes: int) -> Memory:
    """`by_use`: see `Backend.memory`."""
    return Memory(
        process=process_bytes,
        weights=by_use.get("weights", 0),
        kv_used=by_use.get("kv_used", 0),
        kv_total=by_use.get("kv_total", 0),
        workspace=by_use.get("workspace"),
        graphs=by_use.get("graphs"),
        context=by_use.get("context"),
    )


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
    batch: int | None = None  # sequences that a step of the model works on; None where that is not told
    by_use: Mapping[str, int] = field(default_factory=dict)  # all that `Backend.memory` says


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


@dataclass(frozen=True, slots=True)
class Spread:
    """How values lie: `counts[n]` of them are at most `bounds[n]` and above the bound before, the last above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._total += seconds

    def read(self) -> Spread:
        return Spread(SECONDS, tuple(self._counts), self._total)


@dataclass(frozen=True, slots=True)
class Tallies:
    """All that was counted since the start, as a collector of metrics reads it."""

    runs: Mapping[str, int]  # by outcome: done, cancelled, or the code of an error
    segments: int
    input_tokens: int
    output_tokens: int
    terms_applied: int  # places where a term's target was found, …
    terms_missed: int  # … and where not
    warnings: Mapping[str, int]  # by code
    first_text_seconds: Spread
    whole_seconds: Spread
    uptime_seconds: float


@dataclass(slots=True)
class Run:
    """What became of one run. Times are of the metrics' clock; None for what it did not come to."""

    began: float
    outcome: str = CANCELLED
    started: float | None = None  # it had its first slot
    spoke: float | None = None  # its first text came
    ended: float = 0.0
    told: int = 0  # tokens that were counted as they came
    segments: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Metrics:
    """Counted on the event loop, read from any thread. `limit_bytes`: what the user lets us take of a card.

    Whoever is in `listeners` is told of each run as it ends, in the context of who asked for it.
    """

    def __init__(
        self,
        memory: Callable[[], Mapping[str, int]] = dict,
        process_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        limit_bytes: int | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.listeners: list[Callable[[Run], None]] = []
        self.clock = clock
        self._memory = memory
        self._process_bytes = process_bytes or resident_bytes
        self._lock = Lock()
        self._born = self._heard = clock()
        self._running = self._requests = 0
        self._outcomes: Counter[str] = Counter()
        self._segments = self._input_tokens = self._output_tokens = 0
        self._terms_applied = self._terms_missed = 0
        self._warnings: Counter[str] = Counter()
        self._rate = _Rate()
        self._first_text: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._whole: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._first_text_spread, self._whole_spread = Histogram(), Histogram()

    async def observe(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The same events, counted as they pass. Closing it closes `events`."""
        with self.run() as run:
            async with aclosing(events):
                async for event in events:
                    run.take(event)
                    yield event

    def run(self) -> "Running":
        """For work that is no stream of events; see `observe`."""
        return Running(self)

    def begin(self) -> Run:
        with self._lock:
            self._requests += 1
            self._running += 1
        return Run(self.clock())

    def count_text(self, run: Run, tokens: int = 1) -> None:
        now = self.clock()
        run.told += tokens
        with self._lock:
            self._heard = now
            self._rate.add(now, tokens)
            if run.spoke is None:
                run.spoke = now
                self._first_text.append(now - run.began)
                self._first_text_spread.add(now - run.began)

    def count_finished(self, run: Run, terms: Iterable[TermResult], warnings: Iterable[Warning]) -> None:
        now = self.clock()
        seconds = now - run.began
        run.outcome = DONE
        with self._lock:
            self._rate.add(now, max(0, run.output_tokens - run.told))
            self._segments += run.segments
            self._input_tokens += run.input_tokens
            self._output_tokens += run.output_tokens
            for term in terms:
                self._terms_applied += term.applied
                self._terms_missed += term.count - term.applied
            for warning in warnings:
                self._warnings[warning.code] += 1
            self._whole.append(seconds)
            self._whole_spread.add(seconds)

    def end(self, run: Run) -> None:
        run.ended = self.clock()
        with self._lock:
            self._outcomes[run.outcome] += 1
            self._running -= 1
        for tell in self.listeners:
            tell(run)

    def silent_seconds(self) -> float:
        """Since a text came last from the model, or since the start."""
        return self.clock() - self._heard

    def tallies(self) -> Tallies:
        with self._lock:
            return Tallies(
                runs=dict(self._outcomes),
                segments=self._segments,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
                terms_applied=self._terms_applied,
                terms_missed=self._terms_missed,
                warnings=dict(self._warnings),
                first_text_seconds=self._first_text_spread.read(),
                whole_seconds=self._whole_spread.read(),
                uptime_seconds=self.clock() - self._born,
            )

    def tokens_per_second(self) -> float:
        """Out, over the last few seconds."""
        with self._lock:
            return self._rate.per_second(self.clock())

    def held(self) -> Held:
        """Asks the probes now."""
        memory = self._memory()
        asked = memory.get("prompt_tokens", 0)
        return Held(
            memory=memory_of(memory, self._process_bytes()),
            pages=Pages(memory["pages_used"], memory["pages_free"], memory.get("preempted", 0))
            if "pages_used" in memory
            else None,
            hit_rate=memory["shared_tokens"] / asked if asked else None,
            batch=memory.get("batch"),
            by_use=memory,
        )

    def snapshot(self, held: Held | None = None) -> Snapshot:
        """`held`: what was asked of the probes before, so that they are not asked again."""
        held = held or self.held()
        with self._lock:
            now = self.clock()
            return Snapshot(
                uptime_seconds=now - self._born,
                running=self._running,
                requests=self._requests,
                finished=self._outcomes[DONE],
                cancelled=self._outcomes[CANCELLED],
                errors={code: count for code, count in self._outcomes.items() if code not in (DONE, CANCELLED)},
                segments=self._segments,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
                tokens_per_second=self._rate.per_second(now),
                first_text=_summary(self._first_text),
                whole=_summary(self._whole),
                memory=held.memory,
                pages=held.pages,
            )


class Running:
    """A run under way, from `with` on. What ends it says how it ended."""

    __slots__ = ("_metrics", "_run")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> Self:
        self._run = self._metrics.begin()
        return self

    def take(self, event: TranslationEvent | DocumentEvent) -> None:
        """What one event of a stream tells."""
        match event:
            case TextDelta():
                self.spoke()
            case Translated():
                self.spoke(event.tokens)
            case Started():
                self.started()
            case Finished():
                self.finished(event.segments, event.input_tokens, event.output_tokens, event.terms, event.warnings)

    def started(self) -> None:
        self._run.started = self._metrics.clock()

    def spoke(self, tokens: int = 1) -> None:
        """Some of its text came."""
        self._metrics.count_text(self._run, tokens)

    def finished(
        self,
        segments: int,
        input_tokens: int,
        output_tokens: int,
        terms: Iterable[TermResult] = (),
        warnings: Iterable[Warning] = (),
    ) -> None:
        run = self._run
        run.segments, run.input_tokens, run.output_tokens = segments, input_tokens, output_tokens
        self._metrics.count_finished(run, terms, warnings)

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """To leave before the last event is cancelling; after it that is none."""
        if isinstance(error, Exception):  # CancelledError and GeneratorExit are none
            self._run.outcome = error.code if isinstance(error, YiwenError) else YiwenError.code
        self._metrics.end(self._run)


class _Rate:
    """Tokens a second, in buckets of one second. A delta is one, give or take a half character held back."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_SECONDS + 1)

    def add(self, now: float, tokens: int) -> None:
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1] = (second, self._buckets[-1][1] + tokens)
        else:
            self._buckets.append((second, tokens))

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


def resident_bytes(pid: int | None = None) -> int:
    """Of this process, or of that one, and of those it has started."""
    total = 0
    with suppress(psutil.Error):  # it has ended
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended since
                total += int(process.memory_info().rss)
    return total
