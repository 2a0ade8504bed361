"""A backend in a process of its own: a worker answers, and this side starts it, listens to it and ends it. So several
models on one machine share no Python lock, and one that dies or hangs takes nobody along. Knows no tokens but to count
them, and nothing of what the worker runs.
"""

import asyncio
import itertools
import logging
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, NamedTuple, Self

from engine import child
from engine.backends import messages
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
    error_of,
)
from engine.config import Config
from engine.errors import BackendError, StartupError, YiwenError
from engine.progress import Progress, Stopped
from engine.types import ModelInfo, Prompt, Replica, TokenChunk

if TYPE_CHECKING:
    from engine.inference.tokenizer import ChatTokenizer

# A worker is given up that says nothing for so long …
SILENT_SECONDS = 10.0  # on a machine with more to do than cores, beats come seconds late
LOADING_SILENT_SECONDS = 60.0  # where Python's lock may be held by what is imported or compiled
# … or computes nothing of what it was asked. A step of a card takes a second at the most; a CPU packs weights in its
# first one, those of a 7B for 80 s.
IDLE_SECONDS = 20.0
CPU_IDLE_SECONDS = 300.0
END_SECONDS = 2.0  # for a worker to end by itself, once nobody talks to it any more, …
KILL_SECONDS = 5.0  # … and for the system to end it

log = logging.getLogger(__name__)


class Line:
    """To a worker and back, over two binary files. Threads of its own write, so that nobody waits for a worker that
    does not read, and watch: one that is silent for too long is ended, which ends the reading too."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes], end: Callable[[float], str]) -> None:
        """`end` gives the worker so many seconds to end by itself, then ends it for good; it says how it ended, and
        may be called again and from any thread."""
        self.end = end
        self.hung = False
        self.incoming, self._outgoing = incoming, outgoing  # the first is closed by who reads
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()  # to be written; None: no more
        self._most_silent_seconds = LOADING_SILENT_SECONDS
        self._silent_beats = 0
        self._closed = threading.Event()
        threading.Thread(target=self._write, name="worker-writing", daemon=True).start()
        threading.Thread(target=self._watch, name="worker-watching", daemon=True).start()

    def send(self, message: Message) -> None:
        self._waiting.put(messages.written(message))

    def read(self) -> Message | None:
        """Waits for it. None: there comes no more."""
        try:
            message = messages.read(self.incoming)
        except (OSError, ValueError) as error:  # whose words may quote a text
            log.error("a worker said what nobody understands (%s)", type(error).__name__)
            return None
        self._silent_beats = 0
        return message

    def bear_silence(self, seconds: float) -> None:
        """So long from now on, and from now."""
        self._silent_beats, self._most_silent_seconds = 0, seconds

    def close(self) -> None:
        """Nothing more is sent, by which the worker ends."""
        self._closed.set()
        self._waiting.put(None)

    def _write(self) -> None:
        with suppress(OSError), self._outgoing:  # the worker has ended; who reads finds out
            while (data := self._waiting.get()) is not None:
                self._outgoing.write(data)
                self._outgoing.flush()

    def _watch(self) -> None:
        """In beats and not by the clock: who was stopped together with the worker, as by Ctrl-Z, finds it alive."""
        while not self._closed.wait(BEAT_SECONDS):
            self._silent_beats += 1
            if self._silent_beats * BEAT_SECONDS > self._most_silent_seconds:
                self.hung = True
                self.end(0.0)
                return


class _Reader(NamedTuple):
    """Who waits for what a stream says."""

    loop: asyncio.AbstractEventLoop
    told: asyncio.Queue[TokenChunk | YiwenError]


class ProcessBackend:
    def __init__(self, line: Line, ready: Ready, tokenizer: "ChatTokenizer") -> None:
        self.failed: Future[BackendError] = Future()
        self._line, self._ready, self._tokenizer = line, ready, tokenizer
        self._memory = ready.memory
        self._streams: dict[int, _Reader] = {}  # that the worker is at
        self._numbers = itertools.count()
        self._gone = ""  # why nothing is answered any more
        self._lock = threading.Lock()  # of the two: who asks is told of the end when it comes, or at once
        self._idle_beats = 0  # in which there was work and none was done
        line.bear_silence(SILENT_SECONDS)
        threading.Thread(target=self._listen, name="worker-listening", daemon=True).start()

    @classmethod
    def load(cls, config: Config, progress: Progress | None = None, cores: Sequence[int] = (), name: str = "") -> Self:
        """What `select` would load here for `config`, in a new process; on these cores, or on all. Raises the same, and
        `StartupError` where the process ends before."""
        return cls.over(start(cores), config, progress or Progress(), name)

    @classmethod
    def over(cls, line: Line, config: Config, progress: Progress, name: str = "") -> Self:
        """With a worker that runs already, at the other end of `line`."""
        try:
            line.send(Load(config, name))
            # Here, for they cost seconds, in which the worker imports the same
            from engine.inference.loader import folder_of
            from engine.inference.tokenizer import ChatTokenizer

            ready = _ready(line, progress, name)
            return cls(line, ready, ChatTokenizer(folder_of(config.model)))
        except BaseException:
            line.close()
            line.end(END_SECONDS)
            line.incoming.close()
            raise

    @property
    def info(self) -> ModelInfo:
        return self._ready.info

    @property
    def slots(self) -> int:
        return self._ready.slots

    @property
    def pid(self) -> int:
        """The worker's."""
        return self._ready.pid

    @property
    def running(self) -> int:
        """Streams that the worker is at, with those that wait there."""
        return len(self._streams)

    def count_tokens(self, text: str) -> int:
        return self._tokenizer.count(text)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        reader = _Reader(asyncio.get_running_loop(), asyncio.Queue())
        number = next(self._numbers)
        with self._lock:
            if self._gone:
                raise BackendError(self._gone)
            self._streams[number] = reader
        finish = None
        try:
            self._line.send(Open(number, prompt))
            while finish is None:
                told = await reader.told.get()
                if isinstance(told, YiwenError):
                    raise told
                finish = told.finish
                yield told
        finally:
            if self._streams.pop(number, None):
                self._line.send(Close(number))

    def memory(self) -> dict[str, int]:
        """As the worker said last."""
        return self._memory

    def replicas(self) -> Sequence[Replica]:
        return ()

    async def close(self) -> None:
        self._end("The model was shut down while translating.", "The model has been shut down; start Yiwen again.")
        await asyncio.to_thread(self._line.end, END_SECONDS)

    def _listen(self) -> None:
        """Until the worker has ended, which it is helped with where something is wrong with it."""
        try:
            while message := self._line.read():
                if wrong := self._hear(message):
                    self._fail(wrong)
                    self._line.end(END_SECONDS)
        finally:  # whatever it was: nobody may wait in vain
            how = self._line.end(END_SECONDS)
            self._line.incoming.close()
            self._fail(
                f"The model's process said nothing for {SILENT_SECONDS:.0f} s and is started again; try again in a few "
                "seconds."
                if self._line.hung
                else f"The model's process ended ({how}) and is started again; try again in a few seconds."
            )

    def _hear(self, message: Message) -> str:
        """What is wrong with a worker that says this; empty, as a rule."""
        match message:
            case Told(chunks):
                self._idle_beats = 0
                self._deliver(chunks)
            case Broken(stream, kind, sentence):
                self._deliver([(stream, error_of(kind, sentence))])
            case Beat(memory):
                return self._look(memory)
            case Failed(_, sentence):
                return sentence
        return ""

    def _look(self, memory: dict[str, int]) -> str:
        before, self._memory = self._memory, memory
        read = memory.get("prompt_tokens") != before.get("prompt_tokens")
        self._idle_beats = 0 if read or not self._streams else self._idle_beats + 1
        most = CPU_IDLE_SECONDS if self.info.device == "cpu" else IDLE_SECONDS
        if self._idle_beats * BEAT_SECONDS <= most:
            return ""
        return (
            f"The model's process did nothing of its work for {most:.0f} s and is started again; try again in a few "
            "seconds."
        )

    def _fail(self, why: str) -> None:
        self._end(why, why, BackendError(why))

    def _end(self, told: str, after: str, failed: BackendError | None = None) -> None:
        """Tells all who wait, and from now on whoever comes; once."""
        with self._lock:
            if self._gone:
                return
            self._gone = after
        self._line.close()
        if failed:
            self.failed.set_result(failed)  # before its streams are told: see `LateBackend`
        self._deliver([(number, BackendError(told)) for number in list(self._streams)])

    def _deliver(self, told: Sequence[tuple[int, TokenChunk | YiwenError]]) -> None:
        """Wakes an event loop once for all of its streams."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Reader, TokenChunk | YiwenError]]] = {}
        for number, each in told:
            last = isinstance(each, YiwenError) or each.finish
            if reader := self._streams.pop(number, None) if last else self._streams.get(number):
                by_loop.setdefault(reader.loop, []).append((reader, each))
        for loop, delivery in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(_put, delivery)


def _put(delivery: Sequence[tuple[_Reader, TokenChunk | YiwenError]]) -> None:
    for reader, told in delivery:
        reader.told.put_nowait(told)


def start(cores: Sequence[int] = ()) -> Line:
    """To a new process, on these cores or on all. Raises `StartupError`."""
    process = spawn(cores)
    assert process.stdin
    assert process.stdout
    return Line(process.stdout, process.stdin, partial(ended, process))


def spawn(
    cores: Sequence[int], incoming: int = subprocess.PIPE, outgoing: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """A worker. As `child.start`."""
    return child.start("engine.backends.worker", *map(str, cores), incoming=incoming, outgoing=outgoing)


def _ready(line: Line, progress: Progress, name: str) -> Ready:
    """Waits for the model."""
    while message := line.read():  # every beat, at the least
        if progress.stopped:
            raise Stopped
        match message:
            case Expected(step, seconds):
                progress.expect(step, seconds)
            case Reported(step, share):
                progress.report(step, share)
            case Failed(kind, sentence):
                raise error_of(kind, sentence)
            case Ready():
                log.info("the model%s is in process %s", f" of {name}" if name else "", message.pid)
                return message
    how = line.end(END_SECONDS)
    silent = f"said nothing for {LOADING_SILENT_SECONDS:.0f} s"
    raise StartupError(
        f"The process that loads the model {silent if line.hung else f'ended ({how})'}; the log may say why, or else "
        "memory was short."
    )


def ended(process: subprocess.Popen[bytes], seconds: float) -> str:
    """How, once it has; by itself within these seconds, or killed."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
    if process.returncode is None:  # it waits for a device that does not answer
        log.error("process %s cannot be ended", process.pid)
        return "it cannot be ended"
    return f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
