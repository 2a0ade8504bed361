"""Cards whose steps take as long as a curve says, on a clock that jumps from one event to the next.

The turns of the scheduler, the batcher and its pages are the real ones; only the model is not there. So a simulated
minute of thousands of users takes seconds. Knows no texts, no network, and nothing of what happens around a step.
"""

import asyncio
import selectors
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Any, TypeVar

from engine.errors import BackendError
from engine.inference.batcher import Batcher, Generation
from engine.inference.kv_cache import PAGE_TOKENS, Table
from engine.inference.runner import Chunk
from engine.inference.sampler import GREEDY
from engine.scheduler import Scheduler
from engine.types import FinishReason, Sampling

BESIDE_SHARE = 3.0  # prompts come in beside rows as far as these wait no more than so many times as long: see `Runner`
LEAST_BESIDE = 8  # tokens, however long they take

Points = tuple[tuple[int, float], ...]  # (how many, seconds), in order
Result = TypeVar("Result")


@dataclass(frozen=True)
class Curve:
    """How long the steps of one engine take, and what it has room for."""

    name: str
    rows: Points  # of a step that makes so many rows longer by a token
    prompts: Points  # of a step that takes in so many tokens of prompts, alone
    shared: float  # seconds that a step of both is faster than one of each
    ahead: bool  # see `Runner`
    prefill_tokens: int
    slots: int
    kv_tokens: int
    segment_tokens: int  # the longest segment
    beside: tuple[tuple[int, int], ...] = ()  # (rows, tokens that come in beside them), where that is known

    def seconds(self, rows: int, tokens: int) -> float:
        """Of a step of so many rows, with so many tokens of prompts."""
        if not tokens:
            return self._rows[rows]
        alone = max(self._rows[1], between(self.prompts, tokens))  # the weights are read in either case
        return max(alone, self._rows[rows] + alone - self.shared) if rows else alone

    def reading(self, tokens: int) -> float:
        """Seconds that a prompt takes alone."""
        steps, rest = divmod(tokens, self.prefill_tokens)
        return steps * self.seconds(0, self.prefill_tokens) + self.seconds(0, rest)

    @cached_property
    def beside_tokens(self) -> list[int]:
        """How many come in beside 0, 1, 2, … rows."""
        known = dict(self.beside)
        return [known.get(rows) or self._reckoned(rows) for rows in range(self.slots + 1)]

    def _reckoned(self, rows: int) -> int:
        most = BESIDE_SHARE * self._rows[rows]
        sizes = range(LEAST_BESIDE, self.prefill_tokens + 1)
        return max(
            LEAST_BESIDE, LEAST_BESIDE - 1 + bisect_left(sizes, True, key=lambda n: self.seconds(rows, n) > most)
        )

    @cached_property
    def _rows(self) -> list[float]:
        return [0.0, *(between(self.rows, rows) for rows in range(1, self.slots + 1))]

    def work(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Seconds of a card that a segment takes where nothing is idle: its share of steps as full as they can be."""
        reading = prompt_tokens / self.prefill_tokens * self.seconds(0, self.prefill_tokens)
        return reading + answer_tokens * self._rows[self.slots] / self.slots


def between(points: Points, at: float) -> float:
    """On the line through the two nearest points; before the first and after the last it goes straight on."""
    if len(points) == 1:
        return points[0][1]
    place = min(max(1, bisect_left(points, (at, 0.0))), len(points) - 1)
    (low, before), (high, after) = points[place - 1 : place + 1]
    return before + (after - before) * (at - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Part:
    """A segment: the tokens of its prompt and of its answer."""

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Request:
    at: float  # seconds after the load begins
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """When, in seconds after the load began."""

    request: Request
    part: Part
    place: int  # of the part in its request
    came: float  # its first token
    ended: float


# (when its first token came, when its last) of a part, which is the first of its request, on the loop's clock
Answer = Callable[[Part, bool], Awaitable[tuple[float, float]]]


async def drive(requests: Sequence[Request], slots: int, answer: Answer) -> list[Answered]:
    """Asks at the given times and waits for all, whatever the loop's clock is."""
    loop = asyncio.get_running_loop()
    scheduler = Scheduler(slots, max(1, len(requests)))
    began = loop.time()

    async def part_of(name: str, request: Request, place: int) -> Answered:
        async with scheduler.slot(name) as first:
            came, ended = await answer(request.parts[place], first)
        return Answered(request, request.parts[place], place, came - began, ended - began)

    async def whole(name: str, request: Request) -> list[Answered]:
        with scheduler.admit(name):
            return await asyncio.gather(*(part_of(name, request, place) for place in range(len(request.parts))))

    tasks = []
    for number, request in enumerate(requests):
        await asyncio.sleep(max(0.0, began + request.at - loop.time()))
        tasks.append(asyncio.create_task(whole(str(number), request)))
    return [answered for answers in await asyncio.gather(*tasks) for answered in answers]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a simulated load."""

    answered: list[Answered]
    busy: float  # seconds that a card was at work, on average
    row_seconds: float  # the same times the rows that were in its steps
    preempted: int


def simulate(curve: Curve, cards: int, requests: Sequence[Request]) -> Run:
    return on_a_jumping_clock(_simulated(curve, cards, requests))


async def _simulated(curve: Curve, cards: int, requests: Sequence[Request]) -> Run:
    pool = [Card(curve) for _ in range(cards)]

    async def answer(part: Part, first: bool) -> tuple[float, float]:
        return await min(pool, key=Card.load).answer(part, first)

    answered = await drive(requests, cards * curve.slots, answer)
    steps = [card.steps for card in pool]
    busy = sum(each.busy for each in steps) / cards
    preempted = sum(card.counts.preempted for card in pool)
    return Run(answered, busy, sum(each.row_seconds for each in steps) / cards, preempted)


@dataclass(slots=True)
class Steps:
    """A runner without a model."""

    curve: Curve
    slots: int
    pages: int
    prefill_tokens: int
    ahead: bool
    device: str = "simulated"
    kernel: str = ""
    now: float = 0.0  # of who launches steps and waits for them
    free: float = 0.0  # when the last step launched ends
    busy: float = 0.0
    row_seconds: float = 0.0

    def beside(self, rows: int, before: int) -> int:
        return self.curve.beside_tokens[rows]

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        pass

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> "_Launched":
        seconds = self.curve.seconds(len(slots), sum(len(chunk.ids) for chunk in chunks))
        self.free = max(self.now, self.free) + seconds
        self.busy += seconds
        self.row_seconds += seconds * len(slots)
        return _Launched(self, self.free, len(slots) + sum(chunk.last for chunk in chunks))

    def memory(self) -> dict[str, int]:
        return {"kv_total": 0}


@dataclass(frozen=True, slots=True)
class _Launched:
    steps: Steps
    ends: float
    count: int

    def tokens(self) -> list[int]:
        self.steps.now = max(self.steps.now, self.ends)
        return [0] * self.count


class Card(Batcher):
    """The batcher, whose rounds are called by the loop's clock and not by a thread."""

    def __init__(self, curve: Curve) -> None:
        pages = ceil(curve.kv_tokens / PAGE_TOKENS)
        self.steps = Steps(curve, curve.slots, pages, curve.prefill_tokens, curve.ahead)
        self._loop = asyncio.get_running_loop()
        self._goes = False
        self._under_way = 0  # tokens of prompts and answers
        super().__init__(self.steps, frozenset(), share=False)

    def _run(self) -> None:
        """Of the thread, which has nothing to do."""

    def load(self) -> tuple[float, int]:
        """As the pool weighs its members: tokens under way, and then pages."""
        return self._under_way, self._pages.used

    async def answer(self, part: Part, first: bool) -> tuple[float, float]:
        """When the first token came, and the last."""
        done: asyncio.Future[tuple[float, float]] = self._loop.create_future()
        came: list[float] = []

        def tell(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
            if not came:
                came.append(self.steps.now)
            if finish:
                self._loop.call_at(self.steps.now, done.set_result, (came[0], self.steps.now))

        self._under_way += part.prompt + part.answer
        self.submit(Generation([0] * part.prompt, part.answer, GREEDY, tell, first))
        if not self._goes:
            self._goes = True
            self._loop.call_soon(self._turn)
        try:
            return await done
        finally:
            self._under_way -= part.prompt + part.answer

    def _turn(self) -> None:
        self.steps.now = self._loop.time()
        self._round()
        self._goes = bool(self._waiting or self._running)
        if self._goes:
            self._loop.call_at(self.steps.now, self._turn)


@dataclass
class _Jumps(selectors.SelectSelector):
    """Where others wait for the next event, it is then already."""

    now: float = field(default=0.0)

    def __post_init__(self) -> None:
        super().__init__()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Everybody waits, and nobody is at work.")
        self.now += max(0.0, timeout)
        return []


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now


def on_a_jumping_clock(work: Coroutine[Any, Any, Result]) -> Result:
    """Nothing in it may wait for a thread, a file or the network."""
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(work)
