"""What a backend is: prompts go in, tokens come out. Nothing here knows about translation."""

from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from typing import Protocol

from engine.errors import BackendError
from engine.types import ModelInfo, Prompt, Replica, TokenChunk


class Backend(Protocol):
    @property
    def info(self) -> ModelInfo: ...

    @property
    def slots(self) -> int:
        """How many prompts it works on at once; more may be streamed, they wait inside."""
        ...

    @property
    def failed(self) -> Future[BackendError]:
        """Done once nothing works any more, though nobody closed it: with the reason, as its streams were told it. It
        is then to be closed and loaded again, or after `DeviceLost` the process to be ended."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without the prompt around it. Called from any thread."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        """The answer to `prompt`, token by token. Closing the generator cancels the work at the next token.

        Raises `BackendError` when the model or its host fails, `TextTooLong` when the prompt cannot fit.
        """
        ...

    def memory(self) -> dict[str, int]:
        """Bytes by use, for the memory line: `weights`, `kv_used`, `kv_total` and, on a card, `workspace`, `graphs`,
        `context`. And counts, where the cache is paged: `pages_used`, `pages_free`, `preempted` (sequences that had to
        give their pages back and begin anew, since the start), and where prompts that begin alike are computed once,
        `prompt_tokens` and `shared_tokens` (those of them that were in the cache already) since the start; and `batch`,
        the sequences that a step works on. A model over several cards says what it takes on each of them again, as
        `cuda:1/weights`, and a process for another what it takes of this machine's memory, as `resident`; what comes to
        the device at every step is `offloaded`. It asks no device, which might hold up what runs there."""
        ...

    def replicas(self) -> Sequence[Replica]:
        """The backends that it is made of, where these are several."""
        ...

    async def close(self) -> None:
        """Free the model. Streams still open end with `BackendError`."""
        ...
