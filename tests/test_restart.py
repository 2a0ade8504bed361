"""A model that fails is loaded again by itself: who asked is told, who comes later is served, documents go on."""

import asyncio
import ctypes
import gc
import json
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from websockets.sync.client import connect

from engine.backends import late as late_module
from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import BackendError, DeviceLost, StartupError
from engine.inference import batcher as batcher_module
from engine.inference.batcher import MOST_FAILURES
from engine.inference.sampler import GREEDY
from engine.progress import Progress
from engine.types import Prompt
from tests.conftest import Serve, soon
from tests.test_batcher import FAR, Answer, FalseRunner, ask, some_ids
from tests.test_batcher import batch as batch

ASKED = {"text": "Hello there.", "source_lang": "en", "target_lang": "fr"}
WHY = "The model failed (Oh) and is started again; try again in a few seconds."
LINES = "\n".join(f"This is line {number} of a book." for number in range(60))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_module, "PAUSE_SECONDS", 0.05)


class Lives:
    """Loads an echo backend each time, when the gate is open; none is loaded while another is in memory."""

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.delay_seconds = delay_seconds
        self.made: list[weakref.ref[EchoBackend]] = []
        self.beside = 0
        self.refusal: StartupError | None = None

    def __call__(self, _progress: Progress) -> Backend:
        assert self.gate.wait(30)
        if self.refusal:
            raise self.refusal
        self.beside += sum(other() is not None for other in self.made)
        backend = EchoBackend(self.delay_seconds)
        self.made.append(weakref.ref(backend))
        return backend

    def fail(self, error: BackendError | None = None) -> None:
        backend = self.made[-1]()
        assert backend
        backend.fail(error or BackendError(WHY))


def ready(url: str) -> Callable[[], bool]:
    return lambda: httpx.get(f"{url}/readyz").status_code == 200


def test_who_runs_is_told_and_who_comes_later_is_served_by_another(serve: Serve) -> None:
    lives = Lives(0.02)
    url = serve(LateBackend(lives))
    lives.gate.clear()
    with connect(f"ws{url[4:]}/ws/translate") as socket:
        socket.send(json.dumps({"type": "start", "id": "r", **ASKED, "text": LINES}))
        while json.loads(socket.recv(9))["type"] != "delta":
            pass
        lives.fail()
        while (said := json.loads(socket.recv(9)))["type"] != "error":
            pass
    assert said["code"] in ("backend_failed", "loading")
    assert said["error"].startswith(WHY)
    answer = httpx.post(f"{url}/translate", json=ASKED)
    assert (answer.status_code, answer.json()["code"]) == (503, "loading")
    assert int(answer.headers["Retry-After"]) >= 1
    soon(lambda: "This is attempt 1." in httpx.get(f"{url}/readyz").json()["reason"])
    assert httpx.get(f"{url}/readyz").json() == {"status": "loading", "reason": f"{WHY} This is attempt 1."}
    assert httpx.get(f"{url}/languages").status_code == 200  # which needs no model
    lives.gate.set()
    soon(ready(url))
    assert httpx.post(f"{url}/translate", json=ASKED).json()["translation"] == "Hello there."
    assert (len(lives.made), lives.beside) == (2, 0)


def test_a_document_waits_and_goes_on(serve: Serve) -> None:
    lives = Lives(0.01)
    url = serve(LateBackend(lives))
    sent = httpx.post(f"{url}/documents", files={"file": ("book.txt", LINES.encode())}, data={"target_lang": "fr"})
    assert sent.status_code == 202, sent.text
    document = f"{url}/documents/{sent.json()['id']}"
    soon(lambda: httpx.get(document).json()["segments_done"] > 5)
    lives.fail()
    soon(lambda: httpx.get(document).json()["status"] == "done", seconds=40)
    assert httpx.get(f"{document}/result").text == LINES


def test_the_pause_doubles_while_it_fails_and_whatever_fails_is_told() -> None:
    lives, backend = Lives(), None
    backend = LateBackend(lives)
    backend.start()
    soon(lambda: bool(backend.memory()))
    lives.refusal = StartupError("The card is full.")
    began = time.monotonic()
    lives.fail()
    soon(lambda: backend.state.reason == "The card is full. This is attempt 4.")
    assert time.monotonic() - began >= 0.05 + 0.1 + 0.2
    lives.refusal = None
    soon(lambda: bool(backend.memory()))
    backend.stop(9)
    assert lives.beside == 0


def test_after_a_lost_device_nothing_is_loaded_again_and_the_program_is_told() -> None:
    lives, ended = Lives(), threading.Event()
    backend = LateBackend(lives, ended.set)
    backend.start()
    soon(lambda: bool(backend.memory()))
    lives.fail(DeviceLost("The card is lost."))
    assert ended.wait(9)
    assert isinstance(backend.failure, DeviceLost)
    assert backend.state.reason == "The card is lost."
    assert len(lives.made) == 1


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_when_the_generation_thread_is_killed_nobody_waits_in_vain(batch, raised) -> None:  # type: ignore[no-untyped-def]
    batcher = batch(FalseRunner(slots=2))
    answers = [ask(batcher, some_ids(8, seed), FAR, then=lambda _: time.sleep(0.0005)) for seed in range(6)]
    soon(lambda: bool(answers[0].tokens))
    batcher._round = lambda: (_ for _ in ()).throw(raised)
    for answer in answers:
        answer.wait()
        assert raised.__name__ in str(answer.error)
    with pytest.raises(BackendError, match="is started again"):
        ask(batcher, some_ids(8), 5)
    assert "is started again" in str(batcher.failed.result())


def test_a_thread_killed_at_any_moment_leaves_nobody_waiting(batch, request) -> None:  # type: ignore[no-untyped-def]
    gc.disable()  # what is raised where the collector calls back ends nothing and is only told of
    request.addfinalizer(gc.enable)
    for moment in range(20):
        batcher = batch(FalseRunner(slots=4, pages=12))  # few pages: some step back all the time
        answers = [ask(batcher, some_ids(20, seed), 60) for seed in range(12)]
        time.sleep(moment / 10_000)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(batcher._thread.ident), ctypes.py_object(SystemExit))
        late = Answer(some_ids(8), 5)
        try:
            batcher.submit(late.generation)
            answers.append(late)
        except BackendError:
            pass
        for answer in answers:
            assert answer.done.wait(9)


def test_steps_that_fail_one_after_the_other_end_it_and_one_between_that_works_does_not(batch) -> None:  # type: ignore[no-untyped-def]
    runner, failing = FalseRunner(slots=1), [True]
    batcher, real = batch(runner), runner.step

    def step(*args: object) -> object:
        if failing[0]:
            raise RuntimeError("the card is gone")
        return real(*args)

    runner.step = step
    for failing[0] in [True] * (MOST_FAILURES - 1) + [False] + [True] * (MOST_FAILURES - 1):
        ask(batcher, some_ids(8), 5).wait()
    assert not batcher.failed.done()
    ask(batcher, some_ids(8), 5).wait()
    soon(batcher.failed.done)


def test_a_step_that_never_ends_does_not_keep_the_program_from_ending(batch, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(batcher_module, "CLOSE_SECONDS", 0.1)
    runner, never = FalseRunner(), threading.Event()
    batcher, runner.step = batch(runner), lambda *_: never.wait(30)
    ask(batcher, some_ids(8), 5)
    soon(lambda: batcher.running == 1)
    batcher.close()
    assert batcher._thread.is_alive()
    never.set()


def test_a_card_that_answers_to_nothing_is_lost(batch, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def gone(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    runner = FalseRunner()
    batcher, runner.device, runner.step = batch(runner), "cuda:0", gone
    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    answer = ask(batcher, some_ids(8), 5)
    answer.wait()
    soon(batcher.failed.done)
    assert isinstance(batcher.failed.result(), DeviceLost)


def test_a_real_model_whose_thread_is_killed_is_loaded_again(tiny_checkpoint: Path) -> None:
    config = Config(model=str(tiny_checkpoint), devices="cpu")
    backend = LateBackend(lambda progress: LocalBackend.load(config, progress))
    backend.start()

    async def go() -> tuple[str, int]:
        first = await backend.loaded()
        loaded = backend._backend
        assert isinstance(loaded, LocalBackend)
        ref, ident = weakref.ref(loaded), loaded._batcher._thread.ident
        del loaded
        told = ""
        try:
            async for _ in backend.stream(Prompt("A sentence.", "", 4_000, GREEDY)):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident or 0), ctypes.py_object(SystemExit))
        except BackendError as error:
            told = str(error)
        assert first.failed.done()
        await backend.loaded()
        assert ref() is None
        chunks = [chunk async for chunk in backend.stream(Prompt("A sentence.", "", 9, GREEDY))]
        await backend.close()
        return told, sum(chunk.tokens for chunk in chunks)

    told, tokens = asyncio.run(asyncio.wait_for(go(), 60))
    assert "SystemExit" in told
    assert tokens == 9
