"""`/ws/translate`: many runs on one socket, over a real socket."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from engine.backends.echo import EchoBackend
from engine.server.websocket import MAX_RUNS
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon

TEXT = "The river is wide. We crossed it in an old boat."
BOOK = TEXT * 200
SLOW = 0.02  # seconds a token
CANCEL_SECONDS = 0.1
AT_ONCE_SECONDS = 3  # the book takes six at the least


class Gushes(EchoBackend):
    """Says 500 kB at once."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        for _ in range(25):
            yield TokenChunk("x" * 20_000)
        yield TokenChunk("", 0, "stop")


class Forgets(EchoBackend):
    """Loses every mark unless asked at temperature 0."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, translates=True)  # or it would not be asked again

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        again = prompt.sampling.temperature == 0
        await asyncio.sleep(0.2 * again)  # or the second answer would be there before the first is read
        yield TokenChunk(prompt.source if again else "Oh")
        yield TokenChunk("", 0, "stop")


class Client:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def start(self, run_id: str, text: str, **fields: Any) -> None:
        self.send(type="start", id=run_id, text=text, **{"source_lang": "en", "target_lang": "fr", **fields})

    def take(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.socket.recv(timeout=5))
        return message

    def take_until(self, *kinds: str) -> list[dict[str, Any]]:
        messages = [self.take()]
        while messages[-1]["type"] not in kinds:
            messages.append(self.take())
        return messages


def open_client(url: str, max_queue: int | None = None) -> Iterator[Client]:
    """It reads on by itself until `max_queue` messages wait to be taken, which would keep it from closing."""
    with connect(f"{url.replace('http', 'ws')}/ws/translate", compression=None, max_queue=max_queue) as socket:
        yield Client(socket)


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


@pytest.fixture(scope="module")
def slow(serve: Serve) -> EchoBackend:
    return EchoBackend(delay_seconds=SLOW)


@pytest.fixture(scope="module")
def slow_url(serve: Serve, slow: EchoBackend) -> str:
    return serve(slow, slots=4)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    yield from open_client(url)


@pytest.fixture
def slow_client(slow_url: str) -> Iterator[Client]:
    yield from open_client(slow_url)


def test_a_run_is_told_from_start_to_end(client: Client) -> None:
    client.start("r1", TEXT)
    messages = client.take_until("done")
    deltas = [message for message in messages if message["type"] == "delta"]
    assert messages[0] == {
        "type": "started",
        "id": "r1",
        "segments": 1,
        "detected_source_lang": "en",
        "detection": [],
    }
    said = {"segment": 0, "source": TEXT, "text": TEXT, "terms": [], "warnings": []}
    assert messages[-2] == {"type": "segment", "id": "r1", **said}
    assert "".join(delta["text"] for delta in deltas) == messages[-1]["translation"] == TEXT
    assert all(delta["segment"] == 0 and delta["id"] == "r1" for delta in deltas)


def test_done_carries_what_rest_answers(client: Client, url: str) -> None:
    client.start("r1", TEXT)
    done = client.take_until("done")[-1]
    rest = httpx.post(f"{url}/translate", json={"text": TEXT, "source_lang": "en", "target_lang": "fr"}).json()
    done["usage"].pop("seconds")
    rest["usage"].pop("seconds")
    assert done == {"type": "done", "id": "r1", **rest}


def test_runs_on_one_socket_do_not_wait_for_each_other(slow_client: Client) -> None:
    slow_client.start("book", BOOK)
    slow_client.take_until("delta")
    slow_client.start("line", "Hi there.")
    messages = slow_client.take_until("done")
    assert messages[-1]["id"] == "line"
    assert {message["id"] for message in messages} == {"book", "line"}


def test_who_must_wait_is_told_how_many_are_ahead(slow_client: Client) -> None:
    slow_client.start("book", BOOK)
    slow_client.take_until("delta")
    slow_client.start("second", BOOK)
    assert slow_client.take_until("queued")[-1] == {"type": "queued", "id": "second", "ahead": 1}


def test_cancel_frees_the_work_within_100_ms_and_nothing_follows(slow_client: Client, slow: EchoBackend) -> None:
    soon(lambda: slow.running == 0)
    took = []
    for attempt in range(5):  # the best counts, since a busy machine may be late
        slow_client.start(f"r{attempt}", BOOK)
        slow_client.take_until("delta")
        assert slow.running > 0
        began = time.monotonic()
        slow_client.send(type="cancel", id=f"r{attempt}")
        last = slow_client.take_until("cancelled")[-1]
        took.append(time.monotonic() - began)
        assert last == {"type": "cancelled", "id": f"r{attempt}"}
        assert slow.running == 0
    slow_client.send(type="ping")
    assert slow_client.take() == {"type": "pong"}
    assert min(took) < CANCEL_SECONDS


def test_a_cancelled_id_can_be_used_again(slow_client: Client) -> None:
    slow_client.start("r1", BOOK)
    slow_client.send(type="cancel", id="r1")
    slow_client.take_until("cancelled")
    slow_client.start("r1", "Hi there.")
    assert slow_client.take_until("done", "error")[-1]["translation"] == "Hi there."


def test_cancelling_what_does_not_run_is_answered_all_the_same(client: Client) -> None:
    client.send(type="cancel", id="never was")
    assert client.take() == {"type": "cancelled", "id": "never was"}


def test_a_second_run_with_an_id_in_use_is_refused_and_the_first_goes_on(slow_client: Client) -> None:
    slow_client.start("r1", TEXT)
    slow_client.take_until("delta")
    slow_client.start("r1", "Another text.")
    messages = slow_client.take_until("done")
    errors = [message for message in messages if message["type"] == "error"]
    assert [(error["id"], error["code"]) for error in errors] == [("r1", "duplicate_run")]
    assert "'r1'" in errors[0]["error"]
    assert messages[-1]["translation"] == TEXT


def test_a_socket_that_closes_mid_sentence_cancels_its_runs_at_once(slow_url: str, slow: EchoBackend) -> None:
    for politely in (True, False):
        for client in open_client(slow_url):
            client.start("r1", BOOK)
            client.start("r2", BOOK)
            client.take_until("delta")
            soon(lambda: slow.running == 4)
            client.socket.close() if politely else client.socket.socket.shutdown(SHUT_RDWR)
            soon(lambda: slow.running == 0, seconds=AT_ONCE_SECONDS)
    soon(lambda: httpx.get(f"{slow_url}/system").json()["scheduler"]["requests"] == 0, seconds=AT_ONCE_SECONDS)


def test_a_17th_run_is_refused_and_the_others_go_on(slow_client: Client) -> None:
    for number in range(MAX_RUNS):
        slow_client.start(f"r{number}", TEXT)
    slow_client.start("one too many", TEXT)
    error = slow_client.take_until("error")[-1]
    assert (error["id"], error["code"]) == ("one too many", "overloaded")
    assert "16 runs" in error["error"]
    slow_client.take_until("done")


def test_a_page_of_another_host_gets_no_socket(url: str) -> None:
    address = f"{url.replace('http', 'ws')}/ws/translate"
    with connect(address, origin=Origin(url)) as socket:
        socket.send('{"type": "ping"}')
        assert json.loads(socket.recv(timeout=5)) == {"type": "pong"}
    with pytest.raises(InvalidStatus) as refused, connect(address, origin=Origin("https://evil.example")):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("sent", "run_id", "code", "said"),
    [
        ("{", None, "broken_json", "not JSON"),
        (b"\xff", None, "broken_json", "not JSON"),
        ("", None, "broken_json", "not JSON"),
        ("[]", None, "invalid_request", "one JSON object"),
        ('{"id": "r1"}', None, "invalid_request", "type must be"),
        ('{"type": "sing", "id": "r1"}', None, "invalid_request", "type must be start, cancel or ping"),
        ('{"type": ["start"]}', None, "invalid_request", "type must be"),
        ('{"type": "start", "text": "Hi", "target_lang": "fr"}', None, "invalid_request", "id must be a string"),
        ('{"type": "start", "id": 7, "text": "Hi", "target_lang": "fr"}', None, "invalid_request", "id must be"),
        ('{"type": "cancel", "id": ""}', None, "invalid_request", "id must be"),
        ('{"type": "cancel", "id": "\\ud800"}', None, "invalid_request", "id must be"),
        ('{"type": "start", "id": "r1", "target_lang": "fr"}', "r1", "invalid_request", "text is missing"),
        ('{"type": "start", "id": "r1", "text": ["Hi"], "target_lang": "fr"}', "r1", "invalid_request", "a string"),
        ('{"type": "start", "id": "r1", "text": "", "target_lang": "fr"}', "r1", "empty_text", "no text"),
        ('{"type": "start", "id": "r1", "text": "Hi", "target_lang": "x"}', "r1", "unknown_language", "'x'"),
        (
            '{"type": "start", "id": "r1", "text": "Hi", "source_lang": "fr", "target_lang": "fr"}',
            "r1",
            "same_language",
            "French",
        ),
        pytest.param(
            json.dumps({"type": "start", "id": "r1", "text": "word " * 210_000, "target_lang": "fr"}),
            "r1",
            "text_too_long",
            "200,000",
            id="a megabyte",
        ),
        pytest.param("x" * (8 * 2**20 + 1), None, "body_too_large", "8 MiB", id="8 MiB and a byte"),
    ],
)
def test_a_bad_message_gets_one_clear_sentence_and_the_socket_stays_open(
    client: Client, sent: str | bytes, run_id: str | None, code: str, said: str
) -> None:
    client.socket.send(sent)
    error = client.take()
    assert (error["type"], error["id"], error["code"]) == ("error", run_id, code), error
    assert said in error["error"]
    assert "\n" not in error["error"]
    client.start("r1", TEXT)
    assert client.take_until("done", "error")[-1]["translation"] == TEXT


def test_runs_wait_for_a_slow_reader_and_fill_no_memory(serve: Serve) -> None:
    url = serve(Gushes())
    for client in open_client(url, max_queue=1):
        for number in range(MAX_RUNS):
            client.start(f"r{number}", "Hi there.")
        time.sleep(0.5)  # more than all of it takes when somebody reads
        assert httpx.get(f"{url}/system").json()["traffic"]["running"] > MAX_RUNS // 2
        done = [client.take_until("done")[-1] for _ in range(MAX_RUNS)]
        assert {len(message["translation"]) for message in done} == {500_000}


def test_a_segment_whose_tags_were_lost_is_replaced(serve: Serve) -> None:
    for client in open_client(serve(Forgets())):
        client.start("r1", "<p>The <b>river</b>.</p>", format="html")
        messages = client.take_until("done")
        assert {"type": "replace", "id": "r1", "segment": 0, "text": "<p>The <b>river</b>."} in messages
        assert messages[-1]["translation"] == "<p>The <b>river</b>.</p>"
