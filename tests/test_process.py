"""A model in a process of its own: whatever becomes of that process, whoever waits for it is told, and nothing of it
stays behind.
"""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import psutil
import pytest

from engine.backends import late as late_module
from engine.backends import messages
from engine.backends import process as process_module
from engine.backends.late import LateBackend
from engine.backends.messages import Beat, Broken, Close, Failed, Load, Message, Open, Ready, Reported, Told
from engine.backends.process import Line, ProcessBackend
from engine.backends.select import choose
from engine.child import ROOT
from engine.config import Config
from engine.errors import BackendError, DeviceLost, StartupError, TextTooLong, UnsupportedModel
from engine.inference.sampler import GREEDY
from engine.progress import Progress, Step, Stopped
from engine.types import ModelInfo, Prompt, TokenChunk
from tests.conftest import soon
from tests.streams import LONG, answer, ask, text_of

INFO = ModelInfo("tiny", "hy-mt1.5", ("en", "fr"), "fp32", "cpu", 1_024, 64, planned_bytes={"weights": 7})
TEXT = "The committee has not decided yet. 我昨天去了图书馆。"
BOOK = 10_000 * TEXT


@pytest.fixture
def config(tiny_checkpoint: Path) -> Config:
    """Of a worker that is there at once; here its tokens are counted as the model's."""
    return Config(model=str(tiny_checkpoint), backend="echo")


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    yield
    soon(lambda: not any("engine.backends.worker" in child.cmdline() for child in psutil.Process().children()))
    soon(lambda: not any(thread.name.startswith("worker-") for thread in threading.enumerate()))


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # of a parent that is not ours, or has died
    except psutil.NoSuchProcess:
        return True


async def told_after(sent: signal.Signals, backend: ProcessBackend) -> str:
    """The one sentence that three are told who have read a token when its worker gets a signal, and who comes later."""
    streams = [backend.stream(ask(BOOK, LONG)) for _ in range(3)]
    for stream in streams:
        await anext(stream)
    os.kill(backend.pid, sent)
    told = set()
    for stream in [*streams, backend.stream(ask(TEXT))]:
        with pytest.raises(BackendError) as caught:
            async for _ in stream:
                pass
        told.add(str(caught.value))
    assert told == {str(backend.failed.result(0))}
    return told.pop()


def test_one_that_dies_or_hangs_is_told_and_comes_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_module, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(process_module, "SILENT_SECONDS", 1.0)
    made: list[ProcessBackend] = []

    def load(progress: Progress) -> ProcessBackend:
        made.append(ProcessBackend.load(config, progress))
        return made[-1]

    async def go() -> None:
        late = LateBackend(load)
        late.start()
        await late.loaded()
        pids = [made[0].pid]
        told = await told_after(signal.SIGKILL, made.pop())
        assert told == "The model's process ended (signal 9) and is started again; try again in a few seconds."
        await late.loaded()
        pids.append(made[0].pid)
        for sent in (signal.SIGINT, signal.SIGTERM):  # as all of a group gets it; but we alone end the worker
            os.kill(made[0].pid, sent)
        assert text_of(await answer(late, ask(TEXT, LONG))) == TEXT
        told = await told_after(signal.SIGSTOP, made.pop())
        assert told == "The model's process said nothing for 1 s and is started again; try again in a few seconds."
        late.stop(9)  # while the third is on its way
        await late.close()
        assert list(map(ended, pids)) == [True, True]

    asyncio.run(asyncio.wait_for(go(), 50))


class Kept(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, float]] = []

    def expect(self, step: Step, seconds: float) -> None:
        self.kept.append((step, seconds))

    def report(self, step: Step, share: float = 0.0) -> None:
        self.kept.append((step, share))


def test_a_model_that_cannot_be_loaded_is_told_as_without_a_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config, here, there = Config(model=str(tmp_path), backend="local", devices="cpu"), Kept(), Kept()
    with pytest.raises(StartupError) as without:
        choose(config)(here)
    with pytest.raises(StartupError) as within:
        ProcessBackend.load(config, there)
    assert (type(within.value), str(within.value)) == (type(without.value), str(without.value))
    assert there.kept == here.kept
    assert ("weights", 0.0) in there.kept


def test_a_loading_that_nobody_waits_for_ends_its_process(config: Config) -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Stopped):
        ProcessBackend.load(config, progress)


def test_a_worker_does_not_outlive_who_started_it() -> None:
    program = (
        "import time\n"
        "from engine.backends import messages, process\n"
        "from engine.config import Config\n"
        "line = process.start()\n"
        "line.send(messages.Load(Config(backend='echo')))\n"
        "while not isinstance(said := line.read(), messages.Ready): pass\n"
        "print(said.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert not ended(pid)
        parent.kill()
    soon(lambda: ended(pid))


def test_a_worker_that_nobody_talks_to_ends() -> None:
    command = [sys.executable, "-m", "engine.backends.worker"]
    left = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=50)
    assert (left.returncode, left.stdout) == (1, b"")
    assert left.stderr.decode() == "A worker is started by Yiwen itself; start app.py.\n"


def test_each_line_of_a_workers_log_says_whose_it_is(config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    backend = ProcessBackend.load(config, name="cpu#2")
    asyncio.run(backend.close())
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "backend=echo" in line)
    assert line.endswith(" device=cpu#2")


class Acted:
    """A worker that a test plays, at the other end of a pair of sockets."""

    def __init__(self, end: socket.socket, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self.outgoing = incoming, outgoing
        self.leaves = partial(end.shutdown, socket.SHUT_RDWR)

    def hears(self) -> Message | None:
        return messages.read(self._incoming)

    def says(self, *said: Message) -> None:
        self.outgoing.write(b"".join(map(messages.written, said)))
        self.outgoing.flush()


@contextmanager
def acted(config: Config, *said: Message) -> Iterator[tuple[Callable[[Progress], ProcessBackend], Acted]]:
    ours, theirs = socket.socketpair()

    def end(_seconds: float) -> str:
        ours.shutdown(socket.SHUT_RDWR)
        return "as it was told"

    with ours, theirs, theirs.makefile("rb") as incoming, theirs.makefile("wb") as outgoing:
        line, worker = Line(ours.makefile("rb"), ours.makefile("wb"), end), Acted(theirs, incoming, outgoing)
        worker.says(*said)
        yield lambda progress: ProcessBackend.over(line, config, progress), worker


def test_one_that_lives_and_does_nothing_of_its_work_is_ended(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "CPU_IDLE_SECONDS", 1.0)
    with acted(config, Ready(INFO, 3, {"prompt_tokens": 0}, 1)) as (load, worker):
        backend = load(Progress())
        assert isinstance(worker.hears(), Load)
        numbers = itertools.count()

        def beat(*prompt_tokens: int) -> None:
            last = {"number": next(numbers)}
            worker.says(*(Beat({"prompt_tokens": count}) for count in prompt_tokens), Beat(last))
            soon(lambda: backend.memory() == last)

        async def opened() -> int:
            message = await asyncio.to_thread(worker.hears)
            assert isinstance(message, Open)
            return message.stream

        async def go() -> None:
            stream = backend.stream(ask(TEXT))
            first = asyncio.create_task(anext(stream))
            number = await opened()
            worker.says(Told([(number, TokenChunk("Le")), (number, TokenChunk("", 0, "stop"))]))
            assert await first == TokenChunk("Le")
            beat(*9 * [0])  # it has done its work, and who reads takes their time
            assert [chunk.finish async for chunk in stream] == ["stop"]
            task = asyncio.create_task(answer(backend, ask(TEXT)))
            await opened()
            beat(*range(9))  # it reads a long prompt
            assert not backend.failed.done()
            worker.says(*3 * [Beat({})])
            with pytest.raises(BackendError, match=r"^The model's process did nothing of its work for 1 s and is "):
                await task
            assert backend.failed.done()
            await backend.close()

        asyncio.run(asyncio.wait_for(go(), 20))


def test_a_model_that_fails_there_has_failed_here(config: Config) -> None:
    with acted(config, Ready(INFO, 3, {}, 1)) as (load, worker):
        backend = load(Progress())
        worker.says(Failed("BackendError", "The card has failed."))
        assert repr(backend.failed.result(9)) == "BackendError('The card has failed.')"
        with pytest.raises(BackendError, match=r"^The card has failed\.$"):
            asyncio.run(answer(backend, ask(TEXT)))
        asyncio.run(backend.close())


def test_one_that_makes_no_sense_is_ended(config: Config) -> None:
    with acted(config, Ready(INFO, 3, {}, 1)) as (load, worker):
        backend = load(Progress())
        worker.outgoing.write(b"\x09\x00\x00\x00\x02{}")
        worker.outgoing.flush()
        assert "as it was told" in str(backend.failed.result(9))
        asyncio.run(backend.close())


def test_a_worker_that_ends_while_it_loads_is_told(config: Config) -> None:
    progress = Progress()
    with acted(config, Beat({}), Reported("weights", 0.5)) as (load, worker):
        worker.leaves()
        with pytest.raises(StartupError, match=r"ended \(as it was told\); the log may say why"):
            load(progress)
    assert progress.state().stage == "weights"


def test_what_is_said_is_heard_word_for_word() -> None:
    chunk = TokenChunk('书\u2028"\\\0', 2, "length", (7, 120_817))
    said: list[Message] = [
        Load(Config(model="a b", max_vram_gb=7.5, trusted_proxies=("::1", "10.0.0.0/8"))),
        Open(3, Prompt("Übersetze", "ü", 9, GREEDY, True, (1, 2))),
        Close(3),
        Ready(INFO, 3, {"weights": 10**12}, 77),
        Told([(3, chunk), (4, TokenChunk(""))]),
        Broken(3, "TextTooLong", "Too long."),
        Failed("UnsupportedModel", "Not that one."),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("wb") as outgoing, theirs.makefile("rb") as incoming:
        outgoing.write(b"".join(map(messages.written, said)) + b"\x00\x00")  # and the beginning of what never comes
        outgoing.close()
        ours.shutdown(socket.SHUT_WR)
        heard = [messages.read(incoming) for _ in range(len(said) + 1)]
    assert heard == [*said, None]
    for kind in (TextTooLong, UnsupportedModel):
        assert type(messages.error_of(messages.kind_of(kind("Oh.")), "Oh.")) is kind
    assert messages.kind_of(DeviceLost("Oh.")) == "BackendError"  # for a new process may have it
