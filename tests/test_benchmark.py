"""The short benchmark that a user starts: points as they come, one at a time, in turn with everybody else."""

import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.benchmark import Benchmark, rungs, sentence
from engine.errors import BackendError, BenchmarkRunning
from engine.scheduler import Scheduler
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon


@pytest.fixture(scope="module")
def echo() -> EchoBackend:
    return EchoBackend(delay_seconds=0.005)


@pytest.fixture(scope="module")
def url(serve: Serve, echo: EchoBackend) -> str:
    return serve(echo)


def points(url: str, seconds: float = 1) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/bench", json={"seconds": seconds}, timeout=30)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


@contextmanager
def under_way(url: str) -> Iterator[None]:
    with httpx.stream("POST", f"{url}/bench", json={"seconds": 10}, timeout=30) as answer:
        assert answer.status_code == 200
        yield


def test_a_point_comes_for_each_number_of_streams_then_the_end(url: str) -> None:
    *found, end = points(url)
    assert [point["streams"] for point in found] == [1, 2, 4, 8]
    assert all(point["tokens_per_second"] > 0 and point["first_token_ms"] > 0 for point in found)
    assert found[0].keys() == {"type", "streams", "tokens_per_second", "first_token_ms"}
    assert end == {"type": "done"}


def test_the_embedded_model_is_measured(serve: Serve, embedded: Backend) -> None:
    *found, end = points(serve(embedded, slots=2), seconds=2)
    assert [point["streams"] for point in found] == [1, 2]
    assert all(point["tokens_per_second"] > 0 for point in found)
    assert end == {"type": "done"}


def test_only_one_runs_at_a_time(url: str) -> None:
    with under_way(url):
        second = httpx.post(f"{url}/bench")
    assert (second.status_code, second.json()["code"]) == (409, "benchmark_running")
    assert second.json()["error"].startswith("A benchmark is running already")


def test_only_one_runs_whichever_face_has_begun_it() -> None:
    backend, scheduler = EchoBackend(), Scheduler(8, 256)
    with Benchmark(backend, scheduler).begun(1):
        with pytest.raises(BenchmarkRunning), Benchmark(backend, scheduler).begun(1):
            pass
        assert scheduler.requests == 1
    assert scheduler.requests == 0


def test_it_stops_when_the_reader_leaves(url: str, echo: EchoBackend) -> None:
    soon(lambda: echo.running == 0)
    with under_way(url):
        soon(lambda: echo.running > 0)
    soon(lambda: echo.running == 0)
    soon(lambda: httpx.get(f"{url}/system").json()["scheduler"]["requests"] == 0)
    assert points(url)[-1] == {"type": "done"}  # and another may begin


def test_others_get_their_turn_meanwhile(serve: Serve) -> None:
    url = serve(EchoBackend(delay_seconds=0.002), slots=1)
    with under_way(url):
        answer = httpx.post(f"{url}/translate", json={"text": "你好" * 100, "target_lang": "en"}, timeout=5)
    assert answer.status_code == 200


def test_a_model_that_fails_at_once_is_told_of_with_a_sentence(serve: Serve) -> None:
    class Fails(EchoBackend):
        async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
            raise BackendError("The card fell off; start Yiwen again.")
            yield TokenChunk("")

    refused = httpx.post(f"{serve(Fails(), tested=False)}/bench")
    told = {"error": "The card fell off; start Yiwen again.", "code": "backend_failed"}
    assert (refused.status_code, refused.json()) == (503, told)


def test_a_model_too_slow_for_a_token_is_waited_for_as_long_as_the_whole_may_take(serve: Serve) -> None:
    first, *_, end = points(serve(EchoBackend(delay_seconds=0.6), tested=False), seconds=1)
    assert first["tokens_per_second"] > 0
    assert end == {"type": "done"}


def test_while_the_model_loads_it_is_refused(serve: Serve) -> None:
    go_on = threading.Event()

    def load(_: Any) -> Backend:
        go_on.wait(30)
        return EchoBackend()

    url = serve(LateBackend(load), tested=False)
    refused = httpx.post(f"{url}/bench")
    go_on.set()
    assert (refused.status_code, refused.json()["code"]) == (503, "loading")


@pytest.mark.parametrize("body", ['{"seconds": 11}', '{"seconds": "long"}', '{"minutes": 1}', "[]"])
def test_what_it_cannot_do_is_said(url: str, body: str) -> None:
    refused = httpx.post(f"{url}/bench", content=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


def test_the_ladder_ends_with_all_slots() -> None:
    assert [rungs(slots) for slots in (1, 3, 8, 24)] == [[1], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 16, 24]]


def test_no_sentence_comes_again_soon() -> None:
    assert len({sentence(number) for number in range(800)}) == 800
