"""The generation thread: prompts join the running batch between two steps, finished and cancelled ones leave it.

Prompts come in by chunks beside the tokens of those who run. The first prompt of a request goes before all others, so
that a line is answered at once beside a book. Where pages run short, or slots for a first prompt, who came last steps
back and is computed again later. Knows tokens only, no text, and nothing of how a step is done.
"""

import gc
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch

from engine.errors import BackendError, DeviceLost, TextTooLong
from engine.inference.kv_cache import PAGE_TOKENS, Pages, Table
from engine.inference.runner import BESIDE_CHUNKS, Chunk, Pending, Runner
from engine.types import FinishReason, Sampling

CROWD = 4  # who can come in, at the least, to do so at full speed; fewer come in beside those who run
MOST_FAILURES = 3  # of steps one after the other, each with other requests: then it is not the requests
CLOSE_SECONDS = 10.0  # for the step under way; one that takes longer may never come back, and is left
GOOD_STEPS = 1_000  # after which twice as many may run again: 5 to 50 s after a device had no room

# How a RuntimeError says that there is no memory, where it is not `torch.OutOfMemoryError`
NO_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # for want of memory, as a rule
    "CUDA error: out of memory",  # past torch's allocator: graphs, events, pinned memory
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # Windows
    "std::bad_alloc",  # OpenVINO's
    "Failed to allocate memory",  # ONNX Runtime's
)

log = logging.getLogger(__name__)

# What a sequence is told after each step: its new token (None with the stop token), why it ended, or what failed.
Tell = Callable[[int | None, FinishReason | None, BackendError | None], None]


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt on its way: ids in, ids out through `tell`, which is called on the generation thread; who raises there
    is cancelled."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling  # resolved
    tell: Tell
    first: bool = False  # of a request: see `Prompt`
    cancelled: bool = False
    made: list[int] = field(default_factory=list)  # the tokens read so far
    ids: Sequence[int] = ()  # to be computed before the next token is chosen: the prompt, and what was made of old
    taken: int = 0  # how many of them are in steps launched
    launched: int = 0  # tokens that steps launched have chosen or will choose
    tried_alone: bool = False  # there was no room for it then
    slot: int = -1
    table: Table | None = None  # while it is in the batch

    @property
    def left(self) -> int:
        """Ids still to be computed."""
        return len(self.ids) - self.taken


@dataclass(frozen=True, slots=True)
class Counts:
    """What the batcher has done so far, and how full its memory is."""

    preempted: int  # times that a sequence stepped back
    computed_tokens: int  # of prompts
    shared_tokens: int  # of prompts, found in the pages of another
    pages_used: int
    pages_free: int  # some of them still hold what may be found again

    @property
    def prompt_tokens(self) -> int:
        """Those of who stepped back and came again count again, with what they had said."""
        return self.computed_tokens + self.shared_tokens


class Batcher:
    """Prompts start in the order they came in, first ones before the rest. So one that takes many steps to come in
    holds up those of its kind behind it, however short they are: a book as one prompt beside many who run. Prompts here
    are of a page or two at the most."""

    def __init__(self, runner: Runner, stop_ids: frozenset[int], window: int | None = None, share: bool = True) -> None:
        """`window`: tokens that a sequence keeps beside its first page; `share`: whether prompts that begin alike are
        computed once."""
        self._runner, self._stop_ids = runner, stop_ids
        self._pages = Pages(runner.pages, window, share)
        self._page_bytes = runner.memory()["kv_total"] // runner.pages
        self._waiting: deque[Generation] = deque()  # first prompts stand before the rest
        self._running: list[Generation] = []  # who came first stands first
        self._rows_waited = False  # while a first prompt came in, in the last step
        self._most_running = runner.slots  # fewer after the device ran out of memory
        self._good_steps = 0  # since then
        self._failures = 0  # of steps, since one was read
        self._free_slots = list(range(runner.slots))  # a heap
        self._unread: list[tuple[Pending, list[Generation]]] = []  # the step launched, and whom its tokens are for
        self._preempted = self._computed_tokens = self._shared_tokens = 0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self.failed: Future[BackendError] = Future()  # see `Backend.failed`
        self._lost: BackendError | None = None  # the runner, and why
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        return self._runner.slots

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def kv_bytes(self) -> tuple[int, int]:
        """(in pages that a sequence holds, total)"""
        return self._pages.used * self._page_bytes, self._pages.count * self._page_bytes

    @property
    def shares(self) -> bool:
        """Whether prompts that begin alike are computed once."""
        return self._pages.shares

    @property
    def counts(self) -> Counts:
        used = self._pages.used
        return Counts(self._preempted, self._computed_tokens, self._shared_tokens, used, self._pages.count - used)

    def submit(self, sequence: Generation) -> None:
        """Raises `TextTooLong` for what could not even run alone, `BackendError` after `close` or its own end."""
        tokens = len(sequence.prompt) + sequence.max_new_tokens - 1  # the last one made is never looked back at
        if self._pages.most(tokens) > self._pages.count:
            raise TextTooLong(
                f"A prompt of {len(sequence.prompt)} tokens and an answer of up to {sequence.max_new_tokens} do not "
                f"fit the memory for {self._pages.count * PAGE_TOKENS} tokens; shorten the text, or give the model "
                "more memory."
            )
        with self._lock:
            if self._closed:
                if self.failed.done():
                    raise BackendError(str(self.failed.result()))
                raise BackendError("The model has been shut down; start Yiwen again.")
            self._waiting.insert(self._firsts() if sequence.first else len(self._waiting), sequence)
            self._wake.notify()

    def cancel(self, sequence: Generation) -> None:
        """Leaves the batch before the next step; nothing is told any more."""
        sequence.cancelled = True

    def abandon(self, why: BackendError) -> None:
        """The runner has ended by itself: no step can follow. Called from any thread."""
        with self._lock:
            self._lost = why
            self._wake.notify()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._wake.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        broken: BackendError | None = None
        try:
            self._work()
        except BaseException as error:  # the thread ends here, whatever it was: nobody may wait in vain
            log.exception("the model can do nothing any more")
            kind = DeviceLost if isinstance(error, DeviceLost) else BackendError  # anew: its frames hold the model
            broken = kind(str(error) if isinstance(error, BackendError) else _broken(error))
        self._end(broken)

    def _work(self) -> None:
        """Until it is closed. Raises what nothing can be done after."""
        while True:
            with self._lock:
                while not (self._waiting or self._running or self._closed or self._lost):
                    self._most_running = self._runner.slots
                    self._wake.wait()
                if self._closed:
                    break
                if self._lost:
                    raise BackendError(str(self._lost))
            failed: Exception | None = None
            try:
                self._round()
            except Exception as error:  # the thread's last resort: whoever is in the batch is told, the next go on
                failed = error
            if failed and self._lost:  # by which it failed: nobody is to ask again before the end is told
                continue
            if failed and _is_out_of_memory(failed):
                self._step_back(_bare(failed))
            elif failed:
                told = f"The model failed while translating ({type(failed).__name__}); try again."
                self._fail(BackendError(told), failed)
                self._check()
                self._failures += 1
                if self._failures >= MOST_FAILURES:
                    raise BackendError(_broken(failed)) from failed
        with suppress(Exception):  # a step under way writes to memory that is about to be given back
            self._read_all()

    def _check(self) -> None:
        """Raises `DeviceLost` where a card answers to nothing any more."""
        if self._runner.device.startswith("cuda"):
            try:
                torch.cuda.synchronize(self._runner.device)
            except RuntimeError as error:  # it will say so to whatever is asked from now on
                raise DeviceLost(
                    f"The card {self._runner.device} has failed ({type(error).__name__}) and can only be used by a new "
                    "process; Yiwen ends now, so that it can be started again."
                ) from error

    def _end(self, broken: BackendError | None) -> None:
        """Tells all who run or wait, and from now on whoever comes."""
        if broken:
            self.failed.set_result(broken)
        with self._lock:
            self._closed = True
            sequences = dict.fromkeys([*self._running, *self._waiting])
            self._waiting.clear()
        # another than `failed` has: who raises it adds the frames it passes
        told = BackendError(str(broken or "The model was shut down while translating."))
        self._tell(sequences, told)
        with suppress(Exception):  # the books may not be right any more
            self._forget()
            for sequence in list(self._running):
                self._leave(sequence)

    def _round(self) -> None:
        """Launches a step: a token more of everyone whose prompt is in, and as much of the next prompts as may go
        beside. Then reads it, or the one before where the runner works ahead."""
        for sequence in [each for each in self._running if each.cancelled]:
            self._leave(sequence)
        self._make_way()
        idle = not self._unread
        rows = self._rows()
        chunks, comers = self._firsts_alone(len(rows))
        self._rows_waited = bool(chunks)
        if chunks:
            rows = []
        else:
            chunks, comers = self._chunks(len(rows))
        before, self._unread = self._unread, []
        if rows or chunks:
            tables = [each.table for each in rows if each.table]
            pending = self._runner.step(chunks, [each.slot for each in rows], tables)
            for chunk in chunks:
                self._pages.advance(chunk.table, len(chunk.ids))
                self._computed_tokens += len(chunk.ids)
            for table in tables:
                self._pages.advance(table, 1)
            for sequence in (takers := [*comers, *rows]):
                sequence.launched += 1
            self._unread = [(pending, takers)]
            if self._most_running < self._runner.slots:
                self._grow_again()
        elif idle and self._running:
            raise AssertionError("Nobody of the batch can go on.")  # never; but rather told than waited for in vain
        self._read(before)
        if not self._runner.ahead:
            self._read_all()

    def _rows(self) -> list[Generation]:
        """Those who get a token, with a page for it. Where pages run short, some may have ended in the step not yet
        read; else who came last steps back."""
        rows = [each for each in self._running if not each.left and each.launched < each.max_new_tokens]
        for each in rows:
            while each.table and not self._pages.grow(each.table, 1):
                if self._unread:
                    self._read_all()
                else:
                    self._preempt(self._running[-1])
        return [each for each in rows if each.table]

    def _make_way(self) -> None:
        """Where a first prompt finds no slot, who came last of the others steps back for it."""
        if len(self._running) < self._most_running or not self._first_waits():
            return
        self._read_all()
        others = [each for each in self._running if not each.first]
        if others and len(self._running) >= self._most_running:
            self._preempt(others[-1])

    def _firsts_alone(self, rows: int) -> tuple[list[Chunk], list[Generation]]:
        """As `_chunks`: the first prompts that come in by a step of their own, while those who run wait no longer than
        they would beside as much of any prompt; not twice in succession. For runners whose step takes as long as it has
        tokens, those of the CPU: to the embedded model a line's prompt takes 12 ms so, and 20 beside seven rows (two
        cores, 2026-11-22)."""
        if not rows or self._rows_waited or self._runner.ahead:
            return [], []
        with self._lock:
            waiting = self._firsts()
        if self._is_crowd(waiting, rows):  # which comes in at full speed
            return [], []
        return self._chunks(rows, firsts=True)

    def _chunks(self, rows: int, *, firsts: bool = False) -> tuple[list[Chunk], list[Generation]]:
        """What comes in beside so many who run, and whose prompt is in with it. A crowd goes first, which keeps fewer
        waiting. `firsts`: first prompts only, and a crowd of others is none."""
        chunks: list[Chunk] = []
        comers: list[Generation] = []
        halves = [each for each in self._running if each.left and (each.first or not firsts)]  # in by half
        halves.sort(key=lambda each: not each.first)
        crowd = not rows or (not firsts and self._is_crowd(len(self._waiting), rows))
        budget, most = self._runner.prefill_tokens, self._runner.slots if crowd else BESIDE_CHUNKS
        while budget and len(chunks) < most and (sequence := self._next(halves, firsts)) and sequence.table:
            if not crowd:
                room = self._runner.beside(rows, sequence.taken) - sum(len(chunk.ids) for chunk in chunks)
                budget = max(0, min(budget, room))
                if not budget:
                    break
            count = self._pages.span(sequence.table, min(budget, sequence.left))
            if not self._pages.grow(sequence.table, count):
                break
            ids = sequence.ids[sequence.taken : sequence.taken + count]
            self._pages.share(sequence.table, ids)
            sequence.taken += count
            budget -= count
            chunks.append(Chunk(sequence.slot, ids, sequence.table, last=not sequence.left))
            if sequence.left:
                break
            comers.append(sequence)
        return chunks, comers

    def _next(self, halves: list[Generation], firsts: bool) -> Generation | None:
        """Whose prompt comes in next: a first before the rest, and of each kind who is in by half before who waits."""
        waits = self._first_waits()
        if halves and (halves[0].first or not waits):
            return halves.pop(0)
        comer = self._admit() if waits or not firsts else None
        return comer or (halves.pop(0) if halves else None)

    def _is_crowd(self, waiting: int, rows: int) -> bool:
        """Whether there are slots for at least as many of those who wait as run."""
        return min(waiting, self._most_running - len(self._running)) >= max(CROWD, rows)

    def _first_waits(self) -> bool:
        with self._lock:
            head = self._head()
        return head is not None and head.first

    def _head(self) -> Generation | None:
        """Of those who wait. To be called with the lock."""
        while self._waiting and self._waiting[0].cancelled:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def _firsts(self) -> int:
        """How many first prompts wait. To be called with the lock."""
        return next((place for place, each in enumerate(self._waiting) if not each.first), len(self._waiting))

    def _admit(self) -> Generation | None:
        """Takes in the first who waits, if there is a slot, and pages beside one for each that runs."""
        if len(self._running) >= self._most_running:
            return None
        with self._lock:
            if (sequence := self._head()) is None:
                return None
            sequence.ids = [*sequence.prompt, *sequence.made]
            sequence.table = self._pages.open(sequence.ids, spare=len(self._running))
            if sequence.table is None:
                return None
            self._running.append(sequence)  # before all that may fail; somewhere it stands at every moment
            self._waiting.popleft()
        sequence.slot = heappop(self._free_slots)  # the lowest: the ONNX runner computes what lies between them, too
        sequence.taken, sequence.launched = sequence.table.length, len(sequence.made)
        self._shared_tokens += sequence.taken
        self._runner.begin(sequence.slot, sequence.sampling, sequence.ids, len(sequence.made))
        return sequence

    def _read_all(self) -> None:
        launched, self._unread = self._unread, []
        self._read(launched)

    def _read(self, launched: Sequence[tuple[Pending, list[Generation]]]) -> None:
        for pending, takers in launched:
            for sequence, token in zip(takers, pending.tokens(), strict=True):
                self._failures = 0
                if sequence.table:  # else it has left since the launch
                    self._accept(sequence, token)

    def _accept(self, sequence: Generation, token: int) -> None:
        """Tells a token, and lets out who has ended."""
        sequence.made.append(token)
        finish: FinishReason | None = None
        if sequence.cancelled:
            self._leave(sequence)
            return
        if token in self._stop_ids:
            finish = "stop"
        elif len(sequence.made) >= sequence.max_new_tokens:
            finish = "length"
        try:  # in place: a call more for each token takes 4 µs of a round of 128 rows
            sequence.tell(None if finish == "stop" else token, finish, None)
        except Exception:
            _give_up(sequence)
        if finish:
            self._leave(sequence)

    def _leave(self, sequence: Generation) -> None:
        assert sequence.table
        self._pages.close(sequence.table)
        sequence.table = None
        heappush(self._free_slots, sequence.slot)
        self._running.remove(sequence)

    def _preempt(self, sequence: Generation) -> None:
        """Back to the head of its kind of those who wait; its answer goes on where it is. Nothing launched may be
        unread."""
        with self._lock:
            self._waiting.insert(0 if sequence.first else self._firsts(), sequence)
        self._leave(sequence)
        self._preempted += 1

    def _step_back(self, error: Exception) -> None:
        """The device has no room for this step. Half as many may have; who fails alone is tried once more, with all
        that can be had, and then told."""
        self._forget()
        alone = self._running[0] if len(self._running) == 1 else None
        if alone and alone.tried_alone:
            told = BackendError("The device has too little memory for this translation; shorten the text.")
            self._fail(told, error)
            self._check()
            return
        if alone:
            alone.tried_alone = True
            gc.collect()
        self._most_running, self._good_steps = max(1, len(self._running) // 2), 0
        while self._running:
            self._preempt(self._running[-1])
        if self._runner.device.startswith("cuda"):
            with suppress(RuntimeError):  # of a card that is lost; the next step says so
                torch.cuda.empty_cache()

    def _grow_again(self) -> None:
        self._good_steps += 1
        if self._good_steps == GOOD_STEPS:
            self._most_running, self._good_steps = min(self._runner.slots, 2 * self._most_running), 0

    def _fail(self, told: BackendError, cause: Exception) -> None:
        """Tells all who run, and lets them out."""
        told.__cause__ = cause
        self._forget()
        self._tell(self._running, told)
        for sequence in list(self._running):
            self._leave(sequence)

    def _tell(self, sequences: Iterable[Generation], told: BackendError) -> None:
        for sequence in sequences:
            if not sequence.cancelled:
                try:
                    sequence.tell(None, None, told)
                except Exception:
                    _give_up(sequence)

    def _forget(self) -> None:
        """What a step not yet read has chosen and written; all of it can be computed again."""
        self._unread = []
        self._pages.forget()


def _give_up(sequence: Generation) -> None:
    log.exception("A listener failed; its generation is cancelled.")
    sequence.cancelled = True


def _broken(error: BaseException) -> str:
    return f"The model failed ({type(error).__name__}) and is started again; try again in a few seconds."


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _bare(error: Exception) -> Exception:
    """Without the frames it passed, which hold what the step had made."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
