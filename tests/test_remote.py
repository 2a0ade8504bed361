"""A model elsewhere as a backend: another Yiwen, and a server that does whatever goes wrong."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.backends import late as late_module
from engine.backends import remote as remote_module
from engine.backends import served as served_module
from engine.backends.base import Backend
from engine.backends.counting import counter
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.backends.remote import RemoteBackend
from engine.backends.select import EMBEDDED_FOLDER, choose, select
from engine.config import Config
from engine.errors import BackendError, ConfigError, ModelNotFound, NotThereYet, TextTooLong
from engine.inference.tokenizer import ChatTokenizer
from engine.progress import Progress, Stopped
from engine.types import Sampling
from tests import test_backends
from tests.conftest import Serve, soon
from tests.streams import GREEDY, answer, ask, text_of
from tests.test_backends import SLOTS

# What every backend promises
test_it_says_what_it_serves = test_backends.test_it_says_what_it_serves
test_the_last_chunk_alone_has_a_finish = test_backends.test_the_last_chunk_alone_has_a_finish_and_tokens_are_counted
test_tokens_are_counted_from_any_thread = test_backends.test_tokens_of_a_text_are_counted_from_any_thread
test_each_stream_gets_its_own = test_backends.test_more_streams_than_slots_each_get_their_own_answer
test_closing_a_stream_frees_its_slot = test_backends.test_closing_a_stream_frees_its_slot
test_memory_is_told_by_use = test_backends.test_memory_is_told_by_use

KEY = "sk-that-nobody-may-see"
Answering = Callable[[dict[str, Any]], Response]


def chunk(text: str = "", finish: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]
    return f"data: {json.dumps({'choices': choices, **more})}\n\n"


WHOLE = (
    *(chunk(text) for text in ("Hel", "lo")),
    chunk(finish="stop"),
    f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 3}})}\n\n",
    "data: [DONE]\n\n",
)


def saying(*parts: str, seconds: float = 0.0, broken: bool = False) -> Answering:
    """As they stand; then nothing for a while, and the end, or none."""

    async def said() -> AsyncIterator[str]:
        for part in parts:
            yield part
        await asyncio.sleep(seconds)
        if broken:
            raise ConnectionAbortedError

    return lambda _: StreamingResponse(said(), media_type="text/event-stream")


def refusing(status: int, said: str = "", **headers: str) -> Answering:
    return lambda _: JSONResponse({"error": {"message": said, "code": "bad_thing"}}, status, headers)


class Server:
    """Answers as it is told, one answer after the other, and then as it should."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [{"id": "tencent/Hy-MT2-7B", "owned_by": "vllm", "max_model_len": 4096}]
        self.unknown: set[str] = set()
        self.key = ""
        self.answers: list[Answering] = []
        self.asked: list[dict[str, Any]] = []
        self.ports: set[int] = set()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        soon(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def _refuses(self, request: Request) -> bool:
        return bool(self.key) and request.headers.get("Authorization") != f"Bearer {self.key}"

    async def _models(self, request: Request) -> Response:
        return refusing(401)({}) if self._refuses(request) else JSONResponse({"data": self.models})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        assert request.client
        self.ports.add(request.client.port)
        if self._refuses(request):
            return refusing(401)(body)
        if body["model"] not in [model["id"] for model in self.models]:
            return refusing(404, "no such model")(body)
        if self.unknown & body.keys():
            return refusing(400, f"unknown: {self.unknown}")(body)
        return (self.answers.pop(0) if self.answers else saying(*WHOLE))(body)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(served_module, "REACH_SECONDS", 0.0)
    fresh = {"models": running.models, "unknown": set(), "key": "", "answers": [], "asked": [], "ports": set()}
    for name, value in fresh.items():
        monkeypatch.setattr(running, name, value)
    return running


@pytest.fixture(scope="module")
def echo() -> EchoBackend:
    return EchoBackend(delay_seconds=0.001)


@pytest.fixture(scope="module")
def yiwen(serve: Serve, echo: EchoBackend) -> str:
    return serve(echo, slots=SLOTS)


@pytest.fixture
def backend(opened: Callable[..., RemoteBackend], yiwen: str) -> RemoteBackend:
    return opened(yiwen)


def said(backend: Backend, text: str = "Hello", sampling: Sampling = GREEDY, most: int = 12) -> str:
    return text_of(asyncio.run(answer(backend, ask(text, most, sampling))))


def test_another_yiwen_is_what_its_model_is(backend: RemoteBackend, echo: EchoBackend) -> None:
    names = ("name", "family", "languages", "segment_tokens", "max_context_tokens", "translates")
    assert [getattr(backend.info, name) for name in names] == [getattr(echo.info, name) for name in names]


def test_a_yiwen_before_a_yiwen_sends_it_its_prompts(serve: Serve, backend: RemoteBackend) -> None:
    url = serve(backend)
    asked = {"text": "Good morning.\n\nGood night.", "source_lang": "en", "target_lang": "fr"}
    said = httpx.post(f"{url}/translate", json=asked).json()["translation"]  # the prompts, word for word
    assert said.startswith("Translate the following segment into French")
    assert said.endswith("Good night.")


def test_the_server_sees_that_nobody_reads_any_more(backend: RemoteBackend, echo: EchoBackend) -> None:
    async def leave() -> None:
        async with aclosing(backend.stream(ask("Good morning. " * 400, 2_000))) as chunks:
            await anext(chunks)

    before = echo.cancelled
    asyncio.run(leave())
    soon(lambda: echo.cancelled == before + 1)


def test_connections_are_kept_for_the_next_answer(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(server.url)
    server.ports.clear()
    assert [said(backend) for _ in range(5)] == 5 * ["Hello"]
    assert len(server.ports) < 5  # one, but where the next comes before the end of the last has


def test_tokens_are_as_the_server_counts_them(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    chunks = asyncio.run(answer(opened(server.url), ask("Hello")))
    assert [(chunk.text, chunk.tokens, chunk.finish) for chunk in chunks] == [
        ("Hel", 1, None),
        ("lo", 1, None),
        ("", 1, "stop"),
    ]


def test_family_and_context_are_those_of_the_servers_model(
    server: Server, opened: Callable[..., RemoteBackend]
) -> None:
    info = opened(f"{server.url}/v1/").info
    assert (info.name, info.family, info.max_context_tokens) == ("tencent/Hy-MT2-7B", "hy-mt2", 4096)
    assert server.url in info.plan


def test_a_name_that_the_server_does_not_know_is_left_out(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    server.unknown = {"top_k"}
    backend = opened(server.url)
    server.asked.clear()
    assert said(backend, sampling=Sampling(temperature=0.5, top_k=5, repetition_penalty=1.1, seed=3)) == "Hello"
    assert [each["temperature"] for each in server.asked] == [0.5]
    assert not {"top_k", "repetition_penalty"} & server.asked[0].keys()
    assert "neither top_k" in backend.info.plan


@pytest.mark.parametrize(
    ("kind", "sampling", "sent"),
    [
        ("yiwen", Sampling(), {}),
        ("vllm", Sampling(), {"temperature": 0.7, "top_p": 0.6, "top_k": 20, "repetition_penalty": 1.05}),
        ("vllm", GREEDY, {"temperature": 0.0, "repetition_penalty": 1.0}),
        ("vllm", Sampling(0.5, 0.9, 0, 1.1, 7), {"top_p": 0.9, "top_k": -1, "seed": 7}),
        ("llamacpp", Sampling(), {"temperature": 0.7, "top_k": 20, "repeat_penalty": 1.05, "min_p": 0}),
    ],
)
def test_the_server_is_told_what_was_chosen_and_no_more(
    server: Server, opened: Callable[..., RemoteBackend], kind: str, sampling: Sampling, sent: dict[str, Any]
) -> None:
    server.models = [{"id": name, "owned_by": kind} for name in (["m", "m:raw"] if kind == "yiwen" else ["m"])]
    said(opened(server.url), sampling=sampling)
    names = {"temperature", "top_p", "top_k", "repetition_penalty", "repeat_penalty", "min_p", "seed"}
    found = {name: value for name, value in server.asked[-1].items() if name in names}
    assert found.items() >= sent.items()
    assert sent or not found


def test_a_server_that_is_busy_is_asked_again_when_it_says(
    server: Server, opened: Callable[..., RemoteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "BUSY_SECONDS", 0.05)
    backend = opened(server.url)
    server.answers = [refusing(429, **{"Retry-After": "1"}), refusing(503), refusing(502)]
    began = time.monotonic()
    assert said(backend) == "Hello"
    assert time.monotonic() - began > 1
    monkeypatch.setattr(remote_module, "FIRST_SECONDS", 0.5)
    server.answers = [refusing(429, **{"Retry-After": "9"})]
    with pytest.raises(BackendError, match=r"is busy \(429\); try again later"):
        said(backend)


def test_what_breaks_before_its_first_word_is_asked_again_and_later_not(
    server: Server, opened: Callable[..., RemoteBackend]
) -> None:
    backend = opened(server.url)
    server.answers = [saying(broken=True), saying(chunk())]
    assert said(backend) == "Hello"
    for parts in ([], [chunk(" there")]):
        server.answers = [saying(chunk("Hello"), *parts, broken=True)]
        with pytest.raises(BackendError, match="broke off its answer"):
            said(backend)
    server.answers = [saying(chunk("Hello"), f"data: {json.dumps({'error': {'message': 'Hello'}})}\n\n")]
    with pytest.raises(BackendError, match="failed in the middle"):
        said(backend)
    server.answers = [saying(chunk("Hello"), "data: {oh\n\n")]
    with pytest.raises(BackendError, match="broke off"):
        said(backend)
    assert not backend.failed.done()


def test_nobody_waits_for_ever(
    server: Server, opened: Callable[..., RemoteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(server.url)
    monkeypatch.setattr(remote_module, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(remote_module, "BETWEEN_SECONDS", 0.1)
    for parts in ([], [chunk("Hello")]):
        server.answers = [saying(*parts, seconds=1)]
        with pytest.raises(BackendError, match="has said nothing for 0 s"):
            said(backend)


def test_an_answer_ends_where_it_was_to_end(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(server.url)
    server.answers = [saying(*[chunk("no ")] * 1_000, seconds=9)]
    chunks = asyncio.run(answer(backend, ask("Hello", 20)))
    assert (chunks[-1].finish, len(chunks)) == ("length", 22)


def test_a_prompt_that_is_too_long_for_the_server_is_told_so(
    server: Server, opened: Callable[..., RemoteBackend]
) -> None:
    backend = opened(server.url)
    server.answers = [refusing(400, "This model's maximum context length is 4096 tokens, and you asked for more.")]
    with pytest.raises(TextTooLong, match="4,096 tokens"):
        said(backend)
    with pytest.raises(TextTooLong, match="shorten the context"):
        said(backend, "no " * 10_000)


def test_a_refusal_repeats_nothing_of_the_text(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(server.url)
    server.answers = [refusing(400, "I do not like: Hello")]
    with pytest.raises(BackendError, match=r"refused to answer \(400, bad_thing\)") as caught:
        said(backend)
    assert "Hello" not in str(caught.value)


def test_a_key_opens_and_nobody_is_told_it(
    server: Server, opened: Callable[..., RemoteBackend], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.key = KEY
    with pytest.raises(ConfigError, match=r"needs a key \(401\)"):
        opened(server.url)
    with pytest.raises(ConfigError, match=r"does not take the key of --remote-key \(401\)"):
        opened(server.url, remote_key="another")
    backend = opened(server.url, remote_key=KEY)
    assert said(backend) == "Hello"
    assert KEY not in caplog.text + repr(backend._served) + backend.info.plan
    server.key = "a new one"
    with pytest.raises(BackendError, match=r"take our key any more \(401\)"):
        said(backend)


def test_a_model_that_is_not_there_is_told_with_those_that_are(
    server: Server, opened: Callable[..., RemoteBackend]
) -> None:
    with pytest.raises(ModelNotFound, match=r"no model 'other' .* --model: tencent/Hy-MT2-7B"):
        opened(server.url, model="other")
    server.models = [{"id": "one"}, {"id": "two"}]
    with pytest.raises(ConfigError, match=r"has 2 models \(one, two\); name one with --model"):
        opened(server.url)
    assert opened(server.url, model="two").info.name == "two"


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8000", "http://", "http://me:secret@host", "http://host?key=secret"]
)
def test_what_is_no_address_is_refused(url: str, opened: Callable[..., RemoteBackend]) -> None:
    with pytest.raises(ConfigError, match="--remote-url") as caught:
        opened(url)
    assert "secret" not in str(caught.value)


def test_one_that_is_not_there_is_told_at_the_start(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    server.stop()
    with pytest.raises(NotThereYet, match=r"cannot be reached \(ConnectError\); start it, or see to --remote-url"):
        opened(server.url)
    stopped = Progress()
    stopped.stop()
    with pytest.raises(Stopped):
        RemoteBackend.load(Config(remote_url=(server.url,)), stopped)
    server.start()


@pytest.mark.parametrize("several", [1, 2])
def test_yiwen_is_up_before_its_servers_and_waits_for_them(
    serve: Serve, server: Server, several: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_module, "PAUSE_SECONDS", 0.05)
    server.stop()
    url = serve(LateBackend(choose(Config(remote_url=several * (server.url,)))), tested=False)
    soon(lambda: "cannot be reached" in httpx.get(f"{url}/readyz").json()["reason"])
    assert (httpx.get(f"{url}/readyz").status_code, httpx.get(f"{url}/healthz").status_code) == (503, 200)
    server.start()
    soon(lambda: httpx.get(f"{url}/readyz").status_code == 200)
    asked = {"text": "Good night.", "source_lang": "en", "target_lang": "fr"}
    assert httpx.post(f"{url}/translate", json=asked).json()["translation"] == "Hello"
    serve.stop(last=True)


@pytest.mark.parametrize("model", ["embedded", "tencent/Hy-MT2-7B"])
def test_a_server_that_has_nothing_yet_is_waited_for(
    server: Server, opened: Callable[..., RemoteBackend], model: str
) -> None:
    server.models = []
    with pytest.raises(NotThereYet, match=r"lists no models|has nothing to chat with"):
        opened(server.url, model=model)


def test_a_server_that_goes_is_missed_and_found_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (late_module, "PAUSE_SECONDS"),
        (remote_module, "DOUBT_SECONDS"),
        (remote_module, "PROBE_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.05)
    late = LateBackend(lambda progress: RemoteBackend.load(Config(remote_url=(server.url,)), progress))
    late.start()
    soon(lambda: bool(late.memory()))
    server.answers = [saying(chunk("Hello"), seconds=30)]

    async def under_way() -> None:
        async with aclosing(late.stream(ask("Hello"))) as chunks:
            await anext(chunks)
            await asyncio.to_thread(server.stop)
            with pytest.raises(BackendError):
                await anext(chunks)

    asyncio.run(under_way())
    soon(lambda: not late.memory())
    soon(lambda: "cannot be reached" in late.state.reason)
    server.start()
    soon(lambda: bool(late.memory()))
    assert text_of(asyncio.run(answer(late, ask("Hello")))) == "Hello"
    asyncio.run(late.close())
    late.stop(9)


def test_closing_ends_open_streams_and_twice_is_once(server: Server, opened: Callable[..., RemoteBackend]) -> None:
    backend = opened(server.url)
    server.answers = [saying(chunk("Hello"), seconds=30)]

    async def close() -> None:
        async with aclosing(backend.stream(ask("Hello"))) as chunks:
            await anext(chunks)
            await backend.close()
            with pytest.raises(BackendError, match="closed"):
                await anext(chunks)
        await backend.close()
        with pytest.raises(BackendError, match="closed"):
            await answer(backend, ask("Hello"))

    asyncio.run(close())
    assert not backend.failed.done()


@pytest.mark.parametrize(
    "text",
    [
        "The committee has not decided yet, and nobody knows why. It will rain tomorrow.",
        "Комитет ещё не решил, и никто не знает почему.",
        "我昨天去了图书馆，可是图书馆关门了。",
        "彼は昨日図書館へ行きましたが、閉まっていました。",
        "그는 어제 도서관에 갔지만 문이 닫혀 있었다.",
    ],
)
def test_tokens_that_are_counted_elsewhere_are_guessed_well(text: str) -> None:
    count = ChatTokenizer(EMBEDDED_FOLDER).count
    assert count(text) <= counter(count)(text) <= 2 * count(text)
    assert counter(lambda _: 0)(text) >= len(text.encode()) / 3


def test_addresses_are_enough_to_choose_it_and_several_are_one(serve: Serve) -> None:
    url = serve(EchoBackend(slots=SLOTS))
    with pytest.raises(ConfigError, match="needs --remote-url"):
        choose(Config(backend="remote"))
    one, several = (select(Config(remote_url=urls)) for urls in ((url,), (url, url)))
    assert several.slots == 2 * one.slots
    for backend in (one, several):
        assert text_of(asyncio.run(answer(backend, ask("Hello there", 8)))) == "Hello there"
        asyncio.run(backend.close())
