"""Asking a backend, and what it says."""

import asyncio
import time
from collections.abc import Iterable

from engine.backends.base import Backend
from engine.inference.sampler import GREEDY
from engine.types import Prompt, Sampling, TokenChunk

LONG = 10**6  # tokens, more than there is ever room for


def ask(text: str, max_new_tokens: int = 12, sampling: Sampling = GREEDY) -> Prompt:
    return Prompt(text, text, max_new_tokens, sampling)


async def answer(backend: Backend, prompt: Prompt) -> list[TokenChunk]:
    return [chunk async for chunk in backend.stream(prompt)]


def text_of(chunks: Iterable[TokenChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def is_at_rest(backend: Backend, seconds: float = 2.0) -> None:
    """Waits until it is; the test fails if it is not in time."""
    deadline = time.perf_counter() + seconds
    while backend.running or backend.memory()["kv_used"]:
        assert time.perf_counter() < deadline
        await asyncio.sleep(0.001)
