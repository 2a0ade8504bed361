"""The engine on this machine as a Backend: prompts in, whole characters out, many at once. Knows nothing of faces."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Self

import torch

from engine.errors import BackendError, ConfigError, TextTooLong
from engine.inference.batcher import Batcher, Generation
from engine.inference.loader import Loaded, load
from engine.inference.runner import Runner
from engine.inference.sampler import resolve
from engine.types import FinishReason, ModelInfo, Prompt, TokenChunk

CPU_SLOTS = 8  # more rows share the weights' reading, but one reader's share of two cores gets small
CUDA_SLOTS = 32
PROMPT_TOKENS = 1_024  # a template, the user's context and the text before, or terms; a padded slot is held whole
KV_SHARE = 0.8  # of the memory left beside the weights; the rest is for activations

log = logging.getLogger(__name__)
Told = tuple[int | None, FinishReason | None, BackendError | None]


class _Outbox:
    """What the generation thread tells the streams of one event loop. All of a step wakes the loop once: with 256
    streams a token takes 6 µs of Python so, and 13 µs when each wakes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._told: deque[tuple[asyncio.Queue[Told], Told]] = deque()
        self._woken = False

    def put(self, reader: asyncio.Queue[Told], told: Told) -> None:
        """Called on the generation thread."""
        self._told.append((reader, told))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before the reading, so that what comes meanwhile wakes the loop again
        while self._told:
            reader, told = self._told.popleft()
            reader.put_nowait(told)


def slot_tokens(info: ModelInfo) -> int:
    """The length of a slot: a prompt, its segment, and an answer of up to three times that."""
    return min(info.max_context_tokens, PROMPT_TOKENS + 4 * info.segment_tokens)


def slots_that_fit(wanted: int, slot_bytes: int, free_bytes: int) -> int:
    """As many slots as are wanted, or as the card has room for. Raises `ConfigError` when there is none for one."""
    room = int(free_bytes * KV_SHARE) // slot_bytes
    if room < 1:
        raise ConfigError(
            f"The card has {free_bytes / 1e9:.1f} GB left beside the model, and one translation takes "
            f"{slot_bytes / KV_SHARE / 1e9:.1f} GB; use a smaller model, or --devices cpu."
        )
    return min(wanted, room)


class LocalBackend:
    def __init__(self, loaded: Loaded, slots: int) -> None:
        self._tokenizer, self._recommended = loaded.tokenizer, loaded.sampling
        self._info = replace(loaded.info, max_context_tokens=slot_tokens(loaded.info))
        self._weights_bytes = sum(tensor.nbytes for tensor in [*loaded.model.parameters(), *loaded.model.buffers()])
        self._slot_tokens = self._info.max_context_tokens
        self._outbox: _Outbox | None = None
        self._batcher = Batcher(Runner(loaded.model, slots, self._slot_tokens), loaded.tokenizer.stop_ids)

    @classmethod
    def load(cls, model: str, device: str, precision: str, max_concurrent: int | None) -> Self:
        """Raises what `loader.load` raises."""
        loaded = load(model, device, precision)
        if loaded.info.device == "cpu":
            return cls(loaded, max_concurrent or CPU_SLOTS)
        free_bytes, _ = torch.cuda.mem_get_info(loaded.info.device)
        # the cache has the dtype of the norms, as `Runner` makes it
        slot_bytes = loaded.model.config.kv_bytes_a_token(loaded.model.norm.weight.dtype) * slot_tokens(loaded.info)
        slots = slots_that_fit(max_concurrent or CUDA_SLOTS, slot_bytes, free_bytes)
        log.info("slots=%d: each takes %.2f GB and %.1f GB are free", slots, slot_bytes / 1e9, free_bytes / 1e9)
        return cls(loaded, slots)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def slots(self) -> int:
        return self._batcher.slots

    @property
    def running(self) -> int:
        """Sequences in the batch right now."""
        return self._batcher.running

    def count_tokens(self, text: str) -> int:
        return self._tokenizer.count(text)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        ids = self._tokenizer.prompt(prompt.text)
        room = self._slot_tokens - len(ids)
        if room < 1:
            raise TextTooLong(
                f"A prompt of {len(ids)} tokens does not fit the model's {self._slot_tokens}; "
                "shorten the context or the terms."
            )
        outbox = self._outbox_of(asyncio.get_running_loop())
        told: asyncio.Queue[Told] = asyncio.Queue()

        def tell(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
            outbox.put(told, (token, finish, error))

        sampling = resolve(prompt.sampling, self._recommended)
        generation = Generation(ids, min(prompt.max_new_tokens, room), sampling, tell)
        decoder = self._tokenizer.decoder()
        self._batcher.submit(generation)
        try:
            finish: FinishReason | None = None
            while finish is None:
                token, finish, error = await told.get()
                if error is not None:
                    raise error
                text = "" if token is None else decoder.feed(token)
                if finish is not None:
                    text += decoder.rest()
                yield TokenChunk(text, tokens=0 if token is None else 1, finish=finish)
        finally:
            self._batcher.cancel(generation)

    def _outbox_of(self, loop: asyncio.AbstractEventLoop) -> _Outbox:
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = _Outbox(loop)
        return self._outbox

    def memory(self) -> dict[str, int]:
        used, total = self._batcher.kv_bytes
        return {"weights": self._weights_bytes, "kv_used": used, "kv_total": total} | self._batcher.device_bytes

    async def close(self) -> None:
        await asyncio.to_thread(self._batcher.close)
