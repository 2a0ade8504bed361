"""A process with a backend in it, for a `ProcessBackend` in another: prompts come in over its standard input, tokens go
out over its standard output, and the end of its input is its own. Knows nobody else, so that it outlives nobody.

    python -m engine.backends.worker [CORE …]
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import IO

import psutil

from engine.backends.base import Backend
from engine.backends.messages import (
    BEAT_SECONDS,
    Beat,
    Broken,
    Close,
    Expected,
    Failed,
    Load,
    Message,
    Open,
    Ready,
    Reported,
    Told,
    kind_of,
    read,
    written,
)
from engine.backends.select import choose
from engine.config import GC_THRESHOLD, Config
from engine.errors import BackendError, DeviceLost, StartupError, YiwenError
from engine.log import start as start_log
from engine.progress import Progress, Step
from engine.types import Prompt, TokenChunk

log = logging.getLogger(__name__)


class Passed(Progress):
    """Passes on what it is told, to who waits."""

    def __init__(self, tell: Callable[[Message], None]) -> None:
        super().__init__()
        self._tell = tell

    def expect(self, step: Step, seconds: float) -> None:
        self._tell(Expected(step, seconds))

    def report(self, step: Step, share: float = 0.0) -> None:
        self._tell(Reported(step, share))


class Worker:
    """All of it on one event loop, but for the thread that reads and those of the backend."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._loop = asyncio.get_running_loop()
        self._backend: Backend | None = None
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._chunks: dict[int, TokenChunk] = {}  # that are to be told

    async def run(self, config: Config) -> None:
        """For ever."""
        threading.Thread(target=self._listen, name="listening", daemon=True).start()
        self._beat()
        await self._load(config)
        await asyncio.Event().wait()

    async def _load(self, config: Config) -> None:
        progress = Passed(self._tell_from_thread)
        try:
            backend = await asyncio.to_thread(lambda: choose(config)(progress))
        except StartupError as error:
            self._tell(Failed(kind_of(error), str(error)))
        except Exception as error:  # the task ends here: whoever waits for the model is to hear of it
            log.exception("the model could not be loaded")
            told = f"The model could not be loaded ({error!r}); the log says more."
            self._tell(Failed(StartupError.__name__, told))
        else:
            self._backend = backend
            self._tell(Ready(backend.info, backend.slots, _memory(backend), os.getpid()))
            backend.failed.add_done_callback(lambda failed: self._tell_from_thread(_failed(failed.result())))

    def _listen(self) -> None:
        """Whatever the rest is at, a process that nobody talks to any more ends at once; so it takes nothing down in
        order, which around a model at work may crash."""
        try:
            while message := read(self._incoming):
                self._loop.call_soon_threadsafe(self._hear, message)
        finally:
            os._exit(0)

    def _hear(self, message: Message) -> None:
        match message:
            case Open(stream, prompt):
                task = self._streams[stream] = asyncio.create_task(self._answer(stream, prompt))
                task.add_done_callback(lambda _: self._streams.pop(stream))
            case Close(stream) if stream in self._streams:
                self._streams[stream].cancel()

    async def _answer(self, stream: int, prompt: Prompt) -> None:
        assert self._backend
        try:
            async with aclosing(self._backend.stream(prompt)) as chunks:
                async for chunk in chunks:
                    self._say(stream, chunk)
        except YiwenError as error:
            self._tell(Broken(stream, kind_of(error), str(error)))
        except Exception as error:  # the stream's task ends here: its reader is to hear of it
            log.exception("an answer failed")
            told = f"The model failed while translating ({type(error).__name__}); try again."
            self._tell(Broken(stream, BackendError.__name__, told))

    def _say(self, stream: int, chunk: TokenChunk) -> None:
        """With what it and the others say in this turn of the loop: a backend tells the tokens of a step, or of more,
        at once. What one stream says in a turn is one chunk, for a hundred streams on each of four cards are more
        than one process could pass on token by token."""
        if not self._chunks:
            self._loop.call_soon(self._flush)
        if before := self._chunks.get(stream):
            text, tokens = before.text + chunk.text, before.tokens + chunk.tokens
            chunk = TokenChunk(text, tokens, chunk.finish, before.ids + chunk.ids)
        self._chunks[stream] = chunk

    def _flush(self) -> None:
        if self._chunks:
            chunks, self._chunks = self._chunks, {}
            self._write(Told([*chunks.items()]))

    def _tell(self, message: Message) -> None:
        self._flush()
        self._write(message)

    def _tell_from_thread(self, message: Message) -> None:
        self._loop.call_soon_threadsafe(self._tell, message)

    def _write(self, message: Message) -> None:
        try:
            self._outgoing.write(written(message))
            self._outgoing.flush()
        except OSError:  # nobody is there any more
            os._exit(0)

    def _beat(self) -> None:
        self._tell(Beat(_memory(self._backend) if self._backend else {}))
        self._loop.call_later(BEAT_SECONDS, self._beat)


def _memory(backend: Backend) -> dict[str, int]:
    return backend.memory() | {"resident": int(psutil.Process().memory_info().rss)}


def _failed(error: BackendError) -> Failed:
    if isinstance(error, DeviceLost):  # to this process
        return Failed(kind_of(error), "The card has failed and is taken by a new process; try again in a few seconds.")
    return Failed(kind_of(error), str(error))


def serve(incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    """For ever: the process ends here."""
    first = read(incoming)
    if not isinstance(first, Load):
        sys.exit("A worker is started by Yiwen itself; start app.py.")
    start_log(first.config.log_level, first.config.log_format, {"device": first.name} if first.name else None)
    gc.set_threshold(*GC_THRESHOLD)

    async def work() -> None:
        await Worker(incoming, outgoing).run(first.config)

    asyncio.run(work())


def main() -> None:
    for stopping in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, or a service that is stopped, means all processes of it;
        signal.signal(stopping, signal.SIG_IGN)  # but answers under way may be waited for
    if cores := [int(core) for core in sys.argv[1:]]:
        os.sched_setaffinity(0, cores)  # before a library counts them
    nothing = os.open(os.devnull, os.O_RDONLY)
    with os.fdopen(_own(0, nothing), "rb") as incoming, os.fdopen(_own(1, 2), "wb") as outgoing:
        serve(incoming, outgoing)


def _own(descriptor: int, instead: int) -> int:
    """A standard file that nobody else in this process, nor a program it starts, reads or writes any more."""
    own = os.dup(descriptor)
    os.dup2(instead, descriptor)
    return own


if __name__ == "__main__":
    main()
