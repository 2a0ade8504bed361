"""While the model loads the server is up, says how far it is and refuses what needs it; then all goes on by itself."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.errors import BackendError, ModelNotFound, Overloaded, UnsupportedModel
from engine.progress import Progress, Stopped
from engine.scheduler import Scheduler
from engine.shape import ModelShape
from tests.conftest import Serve, soon
from tests.hubs import a_hub, point_to
from tests.streams import answer, ask

ASKED = {"text": "Hello there.", "source_lang": "en", "target_lang": "fr"}
SLOTS = 3
MODEL_IS_MISSING = "There is no such model; give another."


class Gated(LateBackend):
    """Half of its weights are read; the rest when told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        super().__init__(self._half)

    def _half(self, progress: Progress) -> Backend:
        progress.report("weights", 0.5)
        assert self.gate.wait(50)
        return EchoBackend(slots=SLOTS)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def readiness(url: str) -> dict[str, Any]:
    said: dict[str, Any] = httpx.get(f"{url}/readyz").json()
    return said


@pytest.fixture(scope="module")
def loading(serve: Serve) -> Iterator[str]:
    backend = Gated()
    url = serve(backend, page=True, slots=1, tested=False)
    soon(lambda: httpx.get(f"{url}/system").json()["state"]["done"] > 0.3)
    yield url
    backend.gate.set()


def test_the_page_is_up_while_the_model_loads(loading: str) -> None:
    page = httpx.get(loading)
    assert (page.status_code, page.headers["Content-Type"][:9]) == (200, "text/html")
    assert httpx.get(f"{loading}/healthz").status_code == 200


def test_what_needs_no_model_is_answered_while_it_loads(loading: str) -> None:
    detected = httpx.post(f"{loading}/detect", json={"text": "Guten Tag, wie geht es Ihnen heute?"})
    assert detected.json()["detection"][0]["lang"] == "de"
    kept = {"name": "Books", "source_lang": "en", "target_lang": "fr", "glossary": {"book": "livre"}}
    assert httpx.post(f"{loading}/glossaries", json=kept).status_code == 201


def test_the_state_says_the_stage_and_how_far_it_is(loading: str) -> None:
    said = httpx.get(f"{loading}/system").json()
    assert said["model"] is None
    state = said["state"]
    assert (state["status"], state["stage"]) == ("loading", "weights")
    assert 0.3 < state["done"] < 1
    answer = httpx.get(f"{loading}/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "loading")
    assert "its weights are being read" in answer.json()["reason"]


@pytest.mark.parametrize("path", ["/translate", "/languages", "/documents"])
def test_what_needs_the_model_is_told_how_far_it_is_and_when_to_come_again(loading: str, path: str) -> None:
    if path == "/languages":
        answer = httpx.get(f"{loading}{path}")
    elif path == "/documents":
        answer = httpx.post(f"{loading}{path}", files={"file": ("a.txt", b"Hello.")}, data={"target_lang": "fr"})
    else:
        answer = httpx.post(f"{loading}{path}", json=ASKED)
    assert (answer.status_code, answer.json()["code"]) == (503, "loading")
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert "% of all is done" in answer.json()["error"]


def test_a_run_on_a_socket_is_told_that_the_model_loads(loading: str) -> None:
    with connect(f"ws{loading[4:]}/ws/translate") as socket:
        socket.send(json.dumps({"type": "start", "id": "r", **ASKED}))
        said = json.loads(socket.recv(9))
    assert (said["type"], said["id"], said["code"]) == ("error", "r", "loading")


def test_once_the_model_is_there_it_is_tested_and_runs_in_all_its_slots(serve: Serve) -> None:
    backend = Gated()
    url = serve(backend, slots=1, tested=False)
    assert httpx.post(f"{url}/translate", json=ASKED).status_code == 503
    backend.gate.set()
    soon(lambda: readiness(url)["status"] == "ready")
    said = httpx.get(f"{url}/system").json()
    assert said["scheduler"]["slots"] == SLOTS
    assert said["state"] == {"status": "ready", "stage": "", "done": 1.0, "seconds_left": 0.0, "reason": ""}
    assert httpx.post(f"{url}/translate", json=ASKED).json()["translation"] == "Hello there."


def test_a_document_left_unfinished_goes_on_once_the_model_is_there(serve: Serve, tmp_path: Path) -> None:
    lines = "\n".join(f"This is line {number} of a book." for number in range(60))
    url = serve(EchoBackend(delay_seconds=0.02), slots=1, data_dir=tmp_path)
    sent = httpx.post(f"{url}/documents", files={"file": ("book.txt", lines.encode())}, data={"target_lang": "fr"})
    document = f"/documents/{sent.json()['id']}"
    soon(lambda: httpx.get(f"{url}{document}").json()["segments_done"] > 5)
    serve.stop(last=True)
    backend = Gated()
    url = serve(backend, data_dir=tmp_path, tested=False)
    time.sleep(2.5)  # it asks more often than a failing model would be asked
    assert httpx.get(f"{url}{document}").json()["status"] == "queued"
    backend.gate.set()
    soon(lambda: httpx.get(f"{url}{document}").json()["status"] == "done")


def test_a_model_that_does_not_load_is_told_and_asked_for_no_more(serve: Serve) -> None:
    def load(_progress: Progress) -> Backend:
        raise ModelNotFound(MODEL_IS_MISSING)

    ended = threading.Event()
    backend = LateBackend(load, ended.set)
    url = serve(backend, tested=False)
    assert ended.wait(9)
    assert readiness(url) == {"status": "failed", "reason": MODEL_IS_MISSING}
    assert httpx.get(f"{url}/system").json()["state"]["reason"] == MODEL_IS_MISSING
    answer = httpx.post(f"{url}/translate", json=ASKED)
    assert (answer.status_code, answer.json()) == (503, {"error": MODEL_IS_MISSING, "code": "load_failed"})
    assert str(backend.failure) == MODEL_IS_MISSING


def test_a_document_waits_on_after_a_failure_for_the_next_start_may_have_the_model(
    serve: Serve, tmp_path: Path
) -> None:
    def load(_progress: Progress) -> Backend:
        raise ModelNotFound(MODEL_IS_MISSING)

    url = serve(EchoBackend(delay_seconds=5), slots=1, data_dir=tmp_path, tested=False)
    sent = httpx.post(f"{url}/documents", files={"file": ("a.txt", b"A line.")}, data={"target_lang": "fr"})
    serve.stop(last=True)
    ended = threading.Event()
    url = serve(LateBackend(load, ended.set), data_dir=tmp_path, tested=False)
    assert ended.wait(9)
    time.sleep(0.1)
    assert httpx.get(f"{url}/documents/{sent.json()['id']}").json()["status"] == "queued"


@pytest.mark.parametrize("size", ["big", 1.5, True, 0, -8, [64], {}])
def test_a_size_that_is_none_is_told_in_a_sentence(tiny_checkpoint: Path, size: object) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    for name in ("hidden_size", "head_dim", "max_position_embeddings"):
        with pytest.raises(
            UnsupportedModel, match=rf"^config.json says {name} .*; it must be a whole number above 0\.$"
        ):
            ModelShape.read({**config, name: size})


def test_a_mistake_of_ours_while_loading_ends_it_with_a_sentence() -> None:
    def load(_progress: Progress) -> Backend:
        raise ZeroDivisionError("oh")

    ended = threading.Event()
    backend = LateBackend(load, ended.set)
    backend.start()
    assert ended.wait(9)
    assert str(backend.failure).startswith("The model could not be loaded (ZeroDivisionError('oh'))")


def test_loading_stops_at_its_next_step_when_nobody_waits_any_more() -> None:
    reached = threading.Event()

    def load(progress: Progress) -> Backend:
        while True:
            progress.report("weights", 0.1)
            reached.set()

    backend = LateBackend(load)
    backend.start()
    assert reached.wait(9)
    backend.stop(9)
    with pytest.raises(Stopped):
        backend.progress.report("weights")
    assert backend.failure is None


def test_a_model_that_comes_once_nobody_waits_any_more_is_closed() -> None:
    reached, gate, echo = threading.Event(), threading.Event(), EchoBackend()

    def load(_progress: Progress) -> Backend:
        reached.set()
        assert gate.wait(9)
        return echo

    backend = LateBackend(load)
    backend.start()
    assert reached.wait(9)
    asyncio.run(backend.close())
    gate.set()
    backend.stop(9)
    with pytest.raises(BackendError, match="closed"):
        asyncio.run(answer(echo, ask("Hello")))
    assert (backend.memory(), backend.failure) == ({}, None)


def test_progress_never_goes_back_and_ends_at_one() -> None:
    clock = Clock()
    progress = Progress(clock)
    seen = [progress.state()]
    for step in ("download", "libraries", "weights", "prepare", "test"):
        for share in (0.0, 0.6, 0.3, 0.9):
            clock.now += 0.7
            progress.report(step, share)
            if (step, share) == ("download", 0.6):
                progress.expect("download", 50.0)  # so that all that was done becomes a smaller part of the whole
            seen.append(progress.state())
    progress.end()
    done = [state.done for state in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] < 1
    assert progress.state().done == 1
    assert list(dict.fromkeys(state.stage for state in seen[1:])) == ["download", "weights", "prepare", "test"]


def test_the_time_left_of_a_download_is_that_of_its_own_speed() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.expect("download", 10.0)
    progress.report("download")
    assert progress.state().seconds_left is None
    for second in range(1, 31):
        clock.now += 1
        progress.report("download", second / 100)
    left = progress.state().seconds_left
    assert left is not None
    assert 70 <= left <= 80  # and what comes after it


def test_a_machine_half_as_fast_is_given_twice_the_time() -> None:
    clock = Clock()
    progress = Progress(clock)
    for step in ("libraries", "weights", "prepare", "test"):
        progress.expect(step, 100.0)
    progress.report("libraries")
    clock.now += 200
    progress.report("weights")
    left = progress.state().seconds_left
    assert left is not None
    assert left == pytest.approx(600, rel=0.02)


def test_slots_that_come_late_go_to_those_who_wait() -> None:
    async def run() -> int:
        scheduler, held, release = Scheduler(1, 9), 0, asyncio.Event()

        async def hold(name: str) -> None:
            nonlocal held
            async with scheduler.slot(name):
                held += 1
                await release.wait()

        tasks = [asyncio.create_task(hold(str(number))) for number in range(4)]
        await asyncio.sleep(0)
        scheduler.grow(3)
        for _ in range(3):
            await asyncio.sleep(0)
        most = held
        release.set()
        await asyncio.gather(*tasks)
        return most

    assert asyncio.run(run()) == 3


def test_what_is_not_there_yet_is_something_to_try_again() -> None:
    backend = LateBackend(lambda _: EchoBackend())
    with pytest.raises(Overloaded):
        backend.count_tokens("word")
    assert backend.memory() == {}


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the hub's files are kept once they are fetched."""
    with a_hub(tiny_checkpoint) as server:
        point_to(server, tmp_path, monkeypatch)
        yield tmp_path


def test_a_download_tells_which_share_of_all_bytes_is_there(hub: Path, tiny_checkpoint: Path) -> None:
    from engine.inference.loader import folder_of  # here, since torch costs seconds

    told, expected = list[float](), list[int]()
    folder = folder_of("x/tiny", told.append, expected.append)
    assert folder.is_relative_to(hub)
    assert (folder / "model.safetensors").read_bytes() == (tiny_checkpoint / "model.safetensors").read_bytes()
    assert expected == [sum(file.stat().st_size for file in folder.iterdir())]
    assert len(told) >= 4
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    told.clear()
    assert folder_of("x/tiny", told.append, expected.append) == folder
    assert told == []
    assert expected[1] == 0


def test_a_download_that_nobody_waits_for_is_left(hub: Path) -> None:
    from engine.inference.loader import folder_of

    progress = Progress()
    progress.stop()
    with pytest.raises(Stopped):
        folder_of("x/tiny", progress.told("download"))
