"""A backend with no model: it says the source text back. For tests, UI work and CI; knows nothing of languages."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import Future

from engine.errors import BackendError
from engine.languages import LANGUAGES
from engine.types import ModelInfo, Prompt, Replica, TokenChunk

TOKEN_CHARACTERS = 4  # about what a token of English prose has


class EchoBackend:
    """Counts what runs, the most that ever ran at once, and what was cancelled, so that tests can ask.

    `delay_seconds` is the time a token takes. `fail` makes it as useless as a model whose thread has died.
    """

    def __init__(
        self,
        delay_seconds: float = 0.0,
        languages: Iterable[str] = LANGUAGES,
        segment_tokens: int = 48,
        max_context_tokens: int = 8192,
        slots: int = 8,
    ) -> None:
        self.slots = slots
        self.info = ModelInfo(
            name="echo",
            family="hy-mt1.5",
            languages=tuple(languages),
            precision="none",
            device="none",
            max_context_tokens=max_context_tokens,
            segment_tokens=segment_tokens,
            translates=False,
        )
        self.running = 0
        self.peak = 0
        self.cancelled = 0
        self.failed: Future[BackendError] = Future()
        self._delay_seconds = delay_seconds
        self._closed = False

    def fail(self, error: BackendError) -> None:
        self.failed.set_result(error)

    def count_tokens(self, text: str) -> int:
        return -(-len(text) // TOKEN_CHARACTERS)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            ends = prompt.max_new_tokens * TOKEN_CHARACTERS
            for start in range(0, min(len(prompt.source), ends), TOKEN_CHARACTERS):
                await asyncio.sleep(self._delay_seconds)
                if self.failed.done():
                    raise type(self.failed.result())(str(self.failed.result()))
                if self._closed:
                    raise BackendError("The echo backend was closed while it was answering; start it again.")
                yield TokenChunk(prompt.source[start : start + TOKEN_CHARACTERS])
            yield TokenChunk("", tokens=0, finish="stop" if len(prompt.source) <= ends else "length")
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def memory(self) -> dict[str, int]:
        return {"weights": 0, "kv_used": 0, "kv_total": 0}

    def replicas(self) -> Sequence[Replica]:
        return ()

    async def close(self) -> None:
        self._closed = True
