"""Asking a backend, and what it says."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace

from engine.backends.base import Backend
from engine.backends.echo import TOKEN_CHARACTERS, EchoBackend
from engine.errors import BackendError
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


class Numbering(EchoBackend):
    """Says what it is asked from where another left off: a token's id is its place. After `silent_after` of them it
    says no more, and is said to have so many free pages."""

    numbers, silent_after, pages_free = True, 1_000, 0

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        said = len(prompt.made)
        assert prompt.made == tuple(range(said))
        rest = prompt.source[said * TOKEN_CHARACTERS :]
        prompt = replace(prompt, source=rest, max_new_tokens=prompt.max_new_tokens - said)
        async with aclosing(super().stream(prompt)) as chunks:
            async for chunk in chunks:
                ids = tuple(range(said, said + chunk.tokens)) if self.numbers else ()
                said += chunk.tokens
                while said > self.silent_after:
                    await asyncio.sleep(0.001)
                    if self.failed.done():
                        raise BackendError(str(self.failed.result()))
                yield replace(chunk, ids=ids)

    def memory(self) -> dict[str, int]:
        return super().memory() | {"pages_free": self.pages_free}
