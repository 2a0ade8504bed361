"""The generation thread: new prompts join the running batch between two steps, finished and cancelled ones leave it.

Padded slots for now (see `kv_cache`); pages and mixed prefill are the engine issue's. Knows tokens only, no text.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from engine.errors import BackendError
from engine.inference.runner import Runner
from engine.inference.sampler import Chooser, choose
from engine.types import FinishReason, Sampling

PREFILL_TOKENS = 1_024  # padded tokens of new prompts taken in at once, so that running rows never wait long
CUDA_PREFILL_TOKENS = 4_096  # there a step of either size takes a small model as long: launching is what costs

# What a sequence is told after each step: its new token (None with the stop token), why it ended, or what failed.
Tell = Callable[[int | None, FinishReason | None, BackendError | None], None]


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt on its way: ids in, ids out through `tell`, which is called on the generation thread."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling
    tell: Tell
    made: int = 0
    cancelled: bool = False
    chooser: Chooser | None = field(default=None, repr=False)


class Batcher:
    def __init__(self, runner: Runner, stop_ids: frozenset[int]) -> None:
        self._runner, self._stop_ids = runner, stop_ids
        self._prefill_tokens = CUDA_PREFILL_TOKENS if runner.device.startswith("cuda") else PREFILL_TOKENS
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []  # by slot
        self._tokens: list[int] = []  # the newest token of each running sequence, not yet in the cache
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        return self._runner.cache.slots

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def kv_bytes(self) -> tuple[int, int]:
        """(used, total)"""
        return self._runner.cache.used_bytes, self._runner.cache.total_bytes

    @property
    def device_bytes(self) -> dict[str, int]:
        """Of the whole card, whoever uses it; empty on the CPU."""
        if not self._runner.device.startswith("cuda"):
            return {}
        free, total = torch.cuda.mem_get_info(self._runner.device)
        return {"device_used": total - free, "device_total": total}

    def submit(self, sequence: Generation) -> None:
        with self._wake:
            if self._closed:
                raise BackendError("The model has been shut down; start Yiwen again.")
            self._waiting.append(sequence)
            self._wake.notify()

    def cancel(self, sequence: Generation) -> None:
        """Leaves the batch before the next step; nothing is told any more."""
        sequence.cancelled = True

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._running or self._closed):
                    self._wake.wait()
                if self._closed:
                    break
            try:
                self._step()
            except Exception as error:  # the thread's last resort: whoever is in the batch is told, the next go on
                self._fail(
                    BackendError(f"The model failed while translating ({type(error).__name__}); try again."), error
                )
        self._fail(BackendError("The model was shut down while translating."), None)

    def _step(self) -> None:
        for slot in reversed(range(len(self._running))):
            if self._running[slot].cancelled:
                self._leave(slot)
        self._admit()
        if self._running:
            device = self._runner.device
            scores = self._runner.decode(torch.tensor(self._tokens, device=device))
            self._accept(scores, range(len(self._running)))

    def _admit(self) -> None:
        """Prefills as many waiting prompts as there are slots, within the tokens of one prefill."""
        free = self._runner.cache.slots - len(self._running)
        group: list[Generation] = []
        with self._wake:
            while self._waiting and len(group) < free:
                following = self._waiting[0]
                longest = max(len(each.prompt) for each in [*group, following])
                if group and longest * (len(group) + 1) > self._prefill_tokens:
                    break
                self._waiting.popleft()
                if not following.cancelled:
                    group.append(following)
        if not group:
            return
        first = len(self._running)
        self._running += group  # before all that may fail, so that they are told
        self._tokens += [0] * len(group)
        vocab_size = self._runner.model.config.vocab_size
        for each in group:
            each.chooser = Chooser.of(each.sampling, each.prompt, vocab_size, self._runner.device)
        scores = self._runner.prefill([each.prompt for each in group])
        self._accept(scores, range(first, first + len(group)))

    def _accept(self, scores: torch.Tensor, slots: range) -> None:
        """Chooses a token for each of these slots, tells it, and lets out who has ended."""
        choosers = [chooser for slot in slots if (chooser := self._running[slot].chooser) is not None]
        tokens = choose(scores, choosers)
        for slot, token in reversed(list(zip(slots, tokens, strict=True))):
            sequence = self._running[slot]
            self._tokens[slot] = token
            sequence.made += 1
            if sequence.cancelled:
                self._leave(slot)
            elif token in self._stop_ids:
                sequence.tell(None, "stop", None)
                self._leave(slot)
            elif sequence.made >= sequence.max_new_tokens:
                sequence.tell(token, "length", None)
                self._leave(slot)
            else:
                sequence.tell(token, None, None)

    def _leave(self, slot: int) -> None:
        moved = self._runner.cache.remove(slot)
        self._running[slot], self._tokens[slot] = self._running[moved], self._tokens[moved]
        self._running.pop()
        self._tokens.pop()

    def _fail(self, told: BackendError, cause: Exception | None) -> None:
        told.__cause__ = cause
        with self._wake:
            sequences = [*self._running, *self._waiting] if self._closed else list(self._running)
            if self._closed:
                self._waiting.clear()
        for sequence in sequences:
            if not sequence.cancelled:
                sequence.tell(None, None, told)
        self._running.clear()
        self._tokens.clear()
        self._runner.cache.lengths.clear()
