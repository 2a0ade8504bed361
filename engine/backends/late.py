"""A backend that is on its way: loaded in a thread of its own while the server is up, and again whenever it has broken.
Knows no model.

While it is not there every use raises `Loading`, which says how far it is or why it comes again; when it does not come
any more `LoadFailed`, which says why.
"""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import ceil

from engine.backends.base import Backend
from engine.errors import BackendError, DeviceLost, Loading, NotThereYet, StartupError
from engine.progress import Progress, Stopped
from engine.types import LoadState, ModelInfo, Prompt, Replica, TokenChunk

Load = Callable[[Progress], Backend]
MOST_RETRY_SECONDS = 5  # a document that waits goes on soon after, however long the rest was thought to take
PAUSE_SECONDS = 1.0  # before it is loaded again; twice as many each time that it failed, …
MOST_PAUSE_SECONDS = 60.0
GOOD_SECONDS = 60.0  # … until it has been there for so long
LET_GO_SECONDS = 10.0  # in which the last one's memory is free, or else the next is loaded beside it

log = logging.getLogger(__name__)


class LoadFailed(Loading):
    """It does not come any more; the program ends soon. Who waits for it waits on: the next start may have it."""

    code = "load_failed"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A backend is there, until it has `failed`."""

    slots: int
    failed: Future[BackendError]


class LateBackend:
    """`load` is called on a thread, once `start` is. Where it raises the first time, or the device is lost, there is a
    `failure`, and `gave_up` is called on that thread; but for what is merely `NotThereYet`. One that is `patient` goes
    on after the first time as after any other. Whoever is in `listeners` is told, on any thread, that it has come,
    broken, or could not be loaded."""

    def __init__(
        self, load: Load, gave_up: Callable[[], None] = lambda: None, patient: bool = False, name: str | None = None
    ) -> None:
        self.progress = Progress()
        self.listeners: list[Callable[[], None]] = []
        self.trouble: StartupError | None = None  # why it could not be loaded the last time
        self.failure: StartupError | DeviceLost | None = None
        self.failed: Future[BackendError] = Future()
        self._load, self._gave_up, self._patient = load, gave_up, patient
        self._log = logging.LoggerAdapter(log, {"fields": {"device": name}})
        self._backend: Backend | None = None
        self._info: ModelInfo | None = None  # also of the last one
        self._coming = _waited_for()
        self._lock = threading.Lock()  # of the two above: they change together
        self._wake = threading.Event()  # it has broken, or nobody waits any more
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def loaded(self) -> Arrival:
        """Waits for it. Raises `StartupError` or `DeviceLost` where it does not come."""
        return await asyncio.wrap_future(self._coming)

    def stop(self, seconds: float) -> None:
        """Ends the loading at its next report, and waits so long for that."""
        self._stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    @property
    def state(self) -> LoadState:
        return self.progress.state()

    @property
    def info(self) -> ModelInfo:
        return self._info or self._there().info

    @property
    def slots(self) -> int:
        return self._there().slots

    def count_tokens(self, text: str) -> int:
        return self._there().count_tokens(text)

    def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        return self._there().stream(prompt)

    def memory(self) -> dict[str, int]:
        backend = self._backend
        return backend.memory() if backend else {}

    def replicas(self) -> Sequence[Replica]:
        backend = self._backend
        return backend.replicas() if backend else ()

    async def close(self) -> None:
        """Also of one that is still to come."""
        self._stop()
        with self._lock:
            backend = self._backend
        if backend:
            await backend.close()

    def _stop(self) -> None:
        self.progress.stop()
        self._wake.set()

    def _there(self) -> Backend:
        if backend := self._backend:
            return backend
        if self.failure:
            raise LoadFailed(str(self.failure), MOST_RETRY_SECONDS)
        state = self.state
        raise Loading(state.reason, ceil(min(max(state.seconds_left or 1, 1), MOST_RETRY_SECONDS)))

    def _run(self) -> None:
        """One after the other, until nobody waits any more or no more can come."""
        pause, attempt, told = PAUSE_SECONDS, 0, ""
        failure: StartupError | None
        while not self.progress.stopped:
            began, failure = time.monotonic(), None
            try:
                broken = self._live()
            except Stopped as error:
                return self._coming.set_exception(error)
            except StartupError as error:
                failure = error
            except Exception as error:  # the thread ends here: without this the program would load for ever
                self._log.exception("the model could not be loaded")
                failure = StartupError(f"The model could not be loaded ({error!r}); the log says more.")
                failure.__cause__ = error
            else:
                if broken is None or isinstance(broken, DeviceLost):
                    return self._give_up(broken) if broken else None
                if time.monotonic() - began > GOOD_SECONDS:
                    pause, attempt = PAUSE_SECONDS, 0
            is_away = isinstance(failure, NotThereYet)
            if failure and not (self._info or self._patient or is_away):
                return self._give_up(failure)
            attempt += 1
            if failure:
                broken, self.trouble = BackendError(str(failure)), type(failure)(str(failure))  # without its frames
            self.progress.again(f"{broken} This is attempt {attempt}.")
            self._tell()
            level = logging.DEBUG if is_away and str(broken) == told else logging.WARNING
            self._log.log(level, "the model is loaded again in %.0f s, attempt %s: %s", pause, attempt, broken)
            told = str(broken)
            self._wake.wait(pause)
            if not is_away:  # to ask for it costs nothing, and it is to be found as soon as it is there
                pause = min(2 * pause, MOST_PAUSE_SECONDS)

    def _live(self) -> BackendError | None:
        """The life of one, from its loading until its memory is free: why it broke, or None where nobody waits any
        more. Raises `Stopped` where nobody did as it came, and what loading it raises."""
        backend = self._load(self.progress)
        backend.failed.add_done_callback(self._broke)  # before all others, who look for the next one then
        with self._lock:
            if not self.progress.stopped:  # else whoever closed this found none to close
                self._info, self._backend, self.trouble = backend.info, backend, None
                self._coming.set_result(Arrival(backend.slots, backend.failed))
        if self._backend:
            self._tell()
            if backend.failed.done():  # since before it was there
                self._broke(backend.failed)
            self._wake.wait()
            if self._backend:  # nobody waits any more, and `close` has it
                return None
        asyncio.run(backend.close())
        self._wake.clear()
        if self.progress.stopped:
            raise Stopped
        broken, last = backend.failed.result(), weakref.ref(backend)
        del backend
        until = time.monotonic() + LET_GO_SECONDS
        gc.collect()
        while last():  # those who were told have frames that hold it
            if time.monotonic() > until or self._wake.wait(0.05):
                self._log.warning("the model that failed is still held")
                break
            gc.collect()
        return broken

    def _broke(self, failed: Future[BackendError]) -> None:
        """Called before its streams are told, so that none of them finds it here any more."""
        with self._lock:
            if self._backend:
                self.progress.again(str(failed.result()))
                self._backend, self._coming = None, _waited_for()
                self._wake.set()
        self._tell()

    def _give_up(self, error: StartupError | DeviceLost) -> None:
        self.failure = error
        self.progress.fail(str(error))
        self._coming.set_exception(error)
        if isinstance(error, DeviceLost):
            self.failed.set_result(error)
        self._tell()
        self._gave_up()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()


def _waited_for() -> Future[Arrival]:
    coming: Future[Arrival] = Future()
    coming.set_running_or_notify_cancel()  # who waits may leave, and the rest goes on waiting
    return coming
