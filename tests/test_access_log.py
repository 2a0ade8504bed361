"""One line for each request: what was asked for and how it ended, nothing of what was sent."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from engine import translator
from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.log import JsonFormatter
from tests.conftest import Serve, soon

WORD = "Quetzalcoatlus"
KEY = "a-key-of-some-length-1234567890"
ASKED = {"text": f"The {WORD} flies.", "source_lang": "en", "target_lang": "fr"}


class Lines(logging.Handler):
    """What is logged, an object a line."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.said: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(json.loads(self.format(record)))

    def of(self, message: str, **fields: object) -> list[dict[str, Any]]:
        return [one for one in self.said if one["message"] == message and fields.items() <= one.items()]


@contextmanager
def listening(level: str = "INFO") -> Iterator[Lines]:
    lines, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(level)
    try:
        yield lines
    finally:
        root.removeHandler(lines)
        root.setLevel(before)


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def test_an_answer_is_a_line_with_its_route_status_time_and_size(url: str) -> None:
    with listening() as log:
        answer = httpx.post(f"{url}/translate?source=rest", json=ASKED)
        httpx.get(f"{url}/documents/{WORD}?api_key={WORD}")
        soon(lambda: len(log.of("answered")) == 2)
    first, second = log.of("answered")
    assert (first["method"], first["route"], first["status"]) == ("POST", "/translate", 200)
    assert first["bytes"] == len(answer.content)
    assert 0 < first["seconds"] < 9
    assert first["level"] == "info"
    assert (second["route"], second["status"]) == ("/documents/{document_id}", 404)
    said = [one for one in log.said if one["logger"].startswith("engine")]
    assert WORD not in json.dumps(said)
    assert "127.0.0.1" not in json.dumps(said)


def test_an_address_is_logged_at_debug_alone(url: str) -> None:
    with listening("DEBUG") as log:
        httpx.post(f"{url}/translate", json=ASKED)
        soon(lambda: bool(log.of("answered")))
    assert log.of("answered")[0]["address"] == "127.0.0.1"


def test_what_is_asked_again_and_again_is_logged_at_debug(url: str) -> None:
    with listening("DEBUG") as log:
        for path in ("/healthz", "/readyz", "/metrics", "/system", "/languages"):
            httpx.get(f"{url}{path}")
        soon(lambda: len(log.of("answered")) == 5)
    assert [one["route"] for one in log.of("answered", level="info")] == ["/languages"]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("job-7.a_B", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ('"', False),
        ("", False),
        (None, False),
    ],
)
def test_a_request_has_an_id_that_a_client_may_choose(url: str, sent: str | None, taken: bool) -> None:
    headers = {} if sent is None else {"X-Request-Id": sent}
    with listening() as log:
        answer = httpx.post(f"{url}/detect", json={"text": "Hello there."}, headers=headers)
        soon(lambda: bool(log.of("answered")))
    own = answer.headers["X-Request-Id"]
    assert own == sent if taken else len(own) == 12
    assert log.of("answered")[0]["request"] == own


def test_a_run_on_a_socket_is_a_line_and_its_close_another(url: str) -> None:
    with listening() as log:
        with connect(f"ws{url[4:]}/ws/translate?api_key={WORD}", additional_headers={"X-Request-Id": "ws1"}) as socket:
            for number in range(2):
                socket.send(json.dumps({"type": "start", "id": f"{WORD}{number}", **ASKED}))
            ends = 0
            while ends < 2:
                ends += json.loads(socket.recv(9))["type"] == "done"
            assert socket.response is not None
            assert socket.response.headers["X-Request-Id"] == "ws1"
        soon(lambda: bool(log.of("closed")))
    assert len(log.of("run", request="ws1", outcome="done", segments=1)) == 2
    closed = log.of("closed", request="ws1", method="WEBSOCKET", route="/ws/translate", status=101)
    assert len(closed) == 1
    said = [one for one in log.said if one["logger"].startswith("engine")]
    assert WORD not in json.dumps(said)


def test_an_error_nobody_foresaw_names_its_request_and_so_does_its_traceback(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(EchoBackend())

    def prepare(*_: object) -> None:
        raise KeyError(WORD)

    monkeypatch.setattr(translator, "prepare", prepare)
    uvicorn_log, lines = logging.getLogger("uvicorn"), Lines()
    uvicorn_log.addHandler(lines)  # which keeps its own to itself in tests
    with listening() as log:
        answer = httpx.post(f"{url}/translate", json=ASKED, headers={"X-Request-Id": "broken"})
        soon(lambda: bool(log.of("answered")) and bool(lines.said))
    uvicorn_log.removeHandler(lines)
    assert (answer.status_code, answer.headers.get_list("X-Request-Id")) == (500, ["broken"])
    assert log.of("answered")[0]["status"] == 500
    assert lines.said[0]["request"] == "broken"
    assert lines.said[0]["traceback"].endswith("KeyError")
    assert WORD not in json.dumps([log.of("answered"), lines.said])


def test_who_leaves_before_the_answer_is_told_as_such(serve: Serve) -> None:
    url = serve(EchoBackend(delay_seconds=0.3), tested=False)
    with listening() as log:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/translate", json=ASKED, timeout=0.2)
        soon(lambda: bool(log.of("answered", route="/translate")))
    assert log.of("answered", route="/translate")[0]["status"] == 499


def test_below_a_proxys_path_the_route_is_the_same(serve: Serve) -> None:
    url = serve(EchoBackend(), config=Config(root_path="/yiwen"))
    with listening() as log:
        httpx.get(f"{url}/languages")
        httpx.get(f"{url}/glossaries/{WORD}")
        soon(lambda: len(log.of("answered")) == 2)
    assert [one["route"] for one in log.of("answered")] == ["/languages", "/glossaries/{glossary_id}"]


def test_a_key_is_named_and_a_refusal_has_its_route(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"anna:{KEY}\n")
    url = serve(EchoBackend(), config=Config(api_keys=str(tmp_path / "keys"), data_dir=str(tmp_path)))
    with listening() as log:
        httpx.post(f"{url}/translate", json=ASKED, headers={"X-API-Key": KEY})
        httpx.post(f"{url}/translate", json=ASKED, headers={"X-API-Key": f"{KEY}!"})
        soon(lambda: len(log.of("answered")) == 2)
    told = [(one["route"], one["status"], one.get("client")) for one in log.of("answered")]
    assert told == [("/translate", 200, "anna"), ("/translate", 401, None)]
    assert KEY not in json.dumps(log.of("answered"))
