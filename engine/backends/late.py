"""A backend that is still on its way: loaded in a thread of its own, while the server is up. Knows no model.

Until it is there every use raises `Loading`, which says how far it is; after a failure `LoadFailed`, which says why.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from math import ceil

from engine.backends.base import Backend
from engine.errors import Loading, StartupError
from engine.progress import Progress, Stopped
from engine.types import LoadState, ModelInfo, Prompt, TokenChunk

Load = Callable[[Progress], Backend]
MOST_RETRY_SECONDS = 5  # a document that waits goes on soon after, however long the rest was thought to take

log = logging.getLogger(__name__)


class LoadFailed(Loading):
    """It does not come any more; the program ends soon. Who waits for it waits on: the next start may have it."""

    code = "load_failed"


class LateBackend:
    """`load` is called on a thread, once `start` is. It raises `StartupError`; then `failed` is called there."""

    def __init__(self, load: Load, failed: Callable[[], None] = lambda: None) -> None:
        self.progress = Progress()
        self.failure: StartupError | None = None
        self._load, self._failed = load, failed
        self._backend: Backend | None = None
        self._coming: Future[Backend] = Future()
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)

    def start(self) -> None:
        self._coming.set_running_or_notify_cancel()  # who waits may leave, and the rest goes on waiting
        self._thread.start()

    async def loaded(self) -> Backend:
        """Waits for it. Raises `StartupError` where it does not come."""
        return await asyncio.wrap_future(self._coming)

    def stop(self, seconds: float) -> None:
        """Ends the loading at its next report, and waits so long for that."""
        self.progress.stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    @property
    def state(self) -> LoadState:
        return self.progress.state()

    @property
    def info(self) -> ModelInfo:
        return self._there().info

    @property
    def slots(self) -> int:
        return self._there().slots

    def count_tokens(self, text: str) -> int:
        return self._there().count_tokens(text)

    def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        return self._there().stream(prompt)

    def memory(self) -> dict[str, int]:
        return self._backend.memory() if self._backend else {}

    async def close(self) -> None:
        self.progress.stop()
        if self._backend:
            await self._backend.close()

    def _there(self) -> Backend:
        if self._backend:
            return self._backend
        if self.failure:
            raise LoadFailed(str(self.failure), MOST_RETRY_SECONDS)
        state = self.state
        raise Loading(state.reason, ceil(min(max(state.seconds_left or 1, 1), MOST_RETRY_SECONDS)))

    def _run(self) -> None:
        try:
            backend = self._load(self.progress)
        except Stopped as error:
            self._coming.set_exception(error)
        except StartupError as error:
            self._fail(error)
        except Exception as error:  # the thread ends here: without this the program would load for ever
            log.exception("the model could not be loaded")
            failure = StartupError(f"The model could not be loaded ({error!r}); the log says more.")
            failure.__cause__ = error
            self._fail(failure)
        else:
            self._backend = backend
            self._coming.set_result(backend)

    def _fail(self, error: StartupError) -> None:
        self.failure = error
        self.progress.fail(str(error))
        self._coming.set_exception(error)
        self._failed()
