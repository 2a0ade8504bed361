"""`POST /translate` and its neighbours, over a real socket."""

import json
import logging
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.backends.echo import EchoBackend
from engine.errors import BackendError
from engine.languages import LANGUAGES
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon

TEXT = "The river is wide. We crossed it in an old boat."
BOOK = TEXT * 200
SLOW = 0.02  # seconds a token
AT_ONCE_SECONDS = 3  # the book takes six at the least


class FailsLate(EchoBackend):
    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        yield TokenChunk("Well, ")
        raise BackendError("The card fell off; put it back.")


class Breaks(EchoBackend):
    def count_tokens(self, text: str) -> int:
        raise ZeroDivisionError("a secret of our insides")


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def translate(url: str, **fields: Any) -> Any:
    answer = httpx.post(f"{url}/translate", json={"target_lang": "fr", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line:
            yield json.loads(line.removeprefix("data: "))


def test_a_text_is_answered_with_everything_known_about_it(url: str) -> None:
    answer = translate(url, text=TEXT, source_lang="en")
    assert answer["usage"].pop("seconds") >= 0
    assert answer["usage"].pop("input_tokens") > 0
    assert answer["usage"].pop("output_tokens") > 0
    assert answer == {
        "translation": TEXT,
        "detected_source_lang": "en",
        "detection": [],
        "terms": [],
        "warnings": [],
        "changes": [],
        "usage": {"segments": 1},
        "model": "echo",
    }


PAGE = "<ul>\n <li>One <b>river</b> is wide.<li title='an oar'>Two &amp; <code>x</code></ul>\n"


@pytest.mark.parametrize("format", ["html", "auto", "text"])
def test_markup_comes_back_as_it_was(url: str, format: str) -> None:
    answer = translate(url, text=PAGE, source_lang="en", format=format)
    assert answer["translation"] == PAGE
    assert answer["usage"]["segments"] > 0


@pytest.mark.parametrize("source", [{}, {"source_lang": "auto"}, {"source_lang": None}, {"source_lang": ""}])
def test_a_source_that_is_not_named_is_detected(url: str, source: dict[str, str]) -> None:
    answer = translate(url, text=TEXT, **source)
    assert answer["detected_source_lang"] == answer["detection"][0]["lang"] == "en"
    assert 0 < answer["detection"][0]["score"] <= 1


def test_a_source_is_detected_where_its_words_begin(url: str) -> None:
    assert translate(url, text="1,024 " * 1_000 + TEXT)["detected_source_lang"] == "en"


def test_the_hint_is_taken_where_detection_is_unsure(url: str) -> None:
    assert translate(url, text="OK", source_hint="de")["detected_source_lang"] == "de"
    assert translate(url, text=TEXT, source_hint="de")["detected_source_lang"] == "en"


def test_codes_are_read_in_any_letter_case(url: str) -> None:
    assert translate(url, text=TEXT, source_lang="EN", target_lang="ZH-hant")["detected_source_lang"] == "en"


def test_terms_are_counted(url: str) -> None:
    answer = translate(url, text=TEXT, source_lang="en", glossary={"river": "river", "boat": "bateau"})
    river = {"source": "river", "target": "river", "count": 1, "applied": 1}
    assert {**river, "places": [[4, 9]], "source_places": [[4, 9]]} in answer["terms"]
    assert [warning["code"] for warning in answer["warnings"]] == ["term_missed"]


def test_a_list_is_answered_in_its_order(url: str) -> None:
    texts = [f"This is sentence number {number}." for number in range(100)]
    answer = translate(url, text=texts)
    assert answer["translation"] == texts
    assert answer["detected_source_lang"] == ["en"] * 100
    assert len(answer["detection"]) == 100
    assert answer["usage"]["segments"] == 100


def test_warnings_and_terms_of_a_list_say_which_text(url: str) -> None:
    answer = translate(url, text=["A boat.", "No such thing.", "A boat."], source_lang="en", glossary={"boat": "x"})
    assert [warning["text"] for warning in answer["warnings"]] == [0, 2]
    assert answer["terms"] == [{"source": "boat", "target": "x", "count": 2, "applied": 0}]


def test_a_form_is_as_good_as_json(url: str) -> None:
    form = {"text": TEXT, "source_lang": "en", "target_lang": "fr", "glossary": '{"boat": "boat"}', "stream": "false"}
    urlencoded = httpx.post(f"{url}/translate", data=form).json()
    multipart = httpx.post(f"{url}/translate", files={name: (None, value) for name, value in form.items()}).json()
    assert urlencoded["translation"] == multipart["translation"] == TEXT
    assert urlencoded["terms"] == multipart["terms"] != []


def test_a_form_may_hold_its_characters_as_they_are(url: str) -> None:
    body = "text=你好，世界 100%25。&source_lang=zh&target_lang=en".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{url}/translate", content=body, headers=headers).json()["translation"] == "你好，世界 100%。"


def test_json_sent_by_plain_curl_is_read(url: str) -> None:
    body = json.dumps({"text": TEXT, "target_lang": "fr"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{url}/translate", content=body, headers=headers).json()["translation"] == TEXT


BAD_REQUESTS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"json": {"text": "", "target_lang": "fr"}}, 400, "empty_text", "no text"),
    ({"json": {"text": ["One.", ""], "target_lang": "fr"}}, 400, "empty_text", "text[1]: "),
    ({"json": {"text": TEXT, "target_lang": "tlh"}}, 400, "unknown_language", "'tlh'"),
    ({"json": {"text": TEXT, "target_lang": "fr", "source_lang": "xx"}}, 400, "unknown_language", "'xx'"),
    ({"json": {"text": TEXT, "target_lang": "fr", "source_lang": "FR"}}, 400, "same_language", "French"),
    ({"content": b'{"text": "Hi'}, 400, "broken_json", "not JSON at line 1"),
    ({"content": b"\xff\xfe\xff"}, 400, "broken_json", "not JSON"),
    ({"content": b"[" * 100_000}, 400, "broken_json", "not JSON"),
    ({"content": b""}, 400, "broken_json", "not JSON"),
    ({"data": {"text": TEXT, "target_lang": "fr", "glossary": "a=b"}}, 400, "broken_json", "not JSON"),
    ({"files": {"text": (None, ""), "target_lang": (None, "fr")}}, 400, "empty_text", "no text"),
    ({"json": {"text": "word " * 1_000_001, "target_lang": "fr"}}, 413, "text_too_long", "characters"),
    ({"content": b"a", "headers": {"Content-Type": "image/png"}}, 415, "unsupported_media", "'image/png'"),
    ({"json": []}, 422, "invalid_request", "one JSON object"),
    ({"json": {"target_lang": "fr"}}, 422, "invalid_request", "text is missing; it must be a string"),
    ({"json": {"text": TEXT}}, 422, "invalid_request", "target_lang is missing"),
    ({"json": {"text": TEXT, "target": "fr"}}, 422, "invalid_request", "did you mean 'target_lang'?"),
    ({"json": {"text": 5, "target_lang": "fr"}}, 422, "invalid_request", "text must be a string"),
    ({"json": {"text": [], "target_lang": "fr"}}, 422, "invalid_request", "1 to 256 strings"),
    ({"json": {"text": ["a"] * 257, "target_lang": "fr"}}, 422, "invalid_request", "1 to 256 strings"),
    ({"content": b'{"text": "\\ud800", "target_lang": "fr"}'}, 422, "invalid_request", "U+D800"),
    ({"content": b'{"text": "a", "\\ud800": "fr"}'}, 422, "invalid_request", "is not a field"),
    ({"json": {f"x{number}": 1 for number in range(100_000)}}, 422, "invalid_request", "is not a field"),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "glossary": dict.fromkeys(map(str, range(10_001)), "a")}},
        422,
        "invalid_request",
        "10,000",
    ),
    ({"json": {"text": TEXT, "target_lang": "fr", "glossary": ["a"]}}, 422, "invalid_request", "glossary must be"),
    ({"json": {"text": TEXT, "target_lang": "fr", "glossary": {"a": 1}}}, 422, "invalid_request", "glossary must be"),
    ({"json": {"text": TEXT, "target_lang": "fr", "glossary": [{}]}}, 422, "invalid_request", "glossary must be"),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "glossary": [{"source": "a", "tarket": "b"}]}},
        422,
        "invalid_request",
        "did you mean 'target'?",
    ),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "glossary": [{"source": "a"}] * 10_001}},
        422,
        "invalid_request",
        "10,000",
    ),
    ({"json": {"text": TEXT, "target_lang": "fr", "glossary_id": 7}}, 422, "invalid_request", "glossary_id must be"),
    ({"json": {"text": TEXT, "target_lang": "fr", "glossary_id": "x"}}, 404, "no_such_glossary", "no such glossary"),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "glossary": {"a": "b" * 257}}},
        422,
        "invalid_request",
        "none with more than 256 characters",
    ),
    ({"data": {f"x{number}": "a" for number in range(1_001)}}, 422, "invalid_request", "1,000 fields"),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "format": "pdf"}},
        422,
        "invalid_request",
        "format must be text, html, markdown, xml, or auto",
    ),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "sampling": 1}},
        422,
        "invalid_request",
        "sampling must be an object",
    ),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "sampling": {"temperature": 9}}},
        422,
        "invalid_request",
        "sampling.temperature must be a number from 0",
    ),
    (
        {"json": {"text": TEXT, "target_lang": "fr", "sampling": {"top-k": 9}}},
        422,
        "invalid_request",
        "did you mean 'top_k'?",
    ),
    ({"json": {"text": [TEXT], "target_lang": "fr", "stream": True}}, 422, "invalid_request", "one text"),
    ({"json": {"text": "", "target_lang": "fr", "stream": True}}, 400, "empty_text", "no text"),
]


@pytest.mark.parametrize(("sent", "status", "code", "said"), BAD_REQUESTS)
def test_a_bad_request_gets_one_clear_sentence_and_the_server_goes_on(
    url: str, sent: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = httpx.post(f"{url}/translate", **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert len(answer.json()["error"]) < 500
    assert translate(url, text=TEXT)["translation"] == TEXT


def test_a_megabyte_of_text_is_answered_or_refused_with_a_sentence(url: str) -> None:
    answer = httpx.post(f"{url}/translate", json={"text": "word " * 210_000, "target_lang": "fr"}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "text_too_long")
    assert "200,000" in answer.json()["error"]
    assert translate(url, text=TEXT)["translation"] == TEXT


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_8_mib_is_refused(url: str, chunked: bool) -> None:
    parts = [b"x" * 2**20] * 9
    answer = httpx.post(f"{url}/translate", content=iter(parts) if chunked else b"".join(parts))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "8 MiB" in answer.json()["error"]


def test_of_gradio_only_what_the_page_is_made_of_answers(serve: Serve) -> None:
    url = serve(EchoBackend(), page=True)
    for path in ("/", "/theme.css", "/studio/page.js"):
        assert httpx.get(f"{url}{path}").status_code == 200, path
    asked = [("POST", "gradio_api/upload"), ("GET", "gradio_api/dev/reload")]
    asked += [("GET", "gradio_api/heartbeat/tab"), ("GET", "config"), ("GET", "gradio_api/file=/etc/passwd")]
    asked += [("GET", "no/such/page"), ("POST", "theme.css"), ("PROPFIND", ""), ("GET", "gradio_api/vibe-code/")]
    for route in ("queue/join", "component_server"):
        answer = httpx.post(f"{url}/gradio_api/{route}", content=b"x" * (8 * 2**20 + 1))
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), route
    for method, path in asked:
        answer = httpx.request(method, f"{url}/{path}", headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws{url[4:]}/gradio_api/queue/join")


def test_a_client_that_leaves_before_its_body_is_whole_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(serve(EchoBackend()))
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)  # what it logs does not reach the root
    try:
        connection = HTTPConnection(address.hostname or "", address.port)
        connection.putrequest("POST", "/translate")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b'{"text": "Hi')
        connection.close()
        time.sleep(0.2)
    finally:
        logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"Origin": "http://127.0.0.1:7860"}, 200),
        ({"Origin": "https://localhost:8443", "Host": "LocalHost"}, 200),  # behind TLS
        ({"Origin": "https://yiwen.example", "X-Forwarded-Host": "yiwen.example, inner"}, 200),
        ({"Origin": "http://[::1]:7860", "Host": "[::1]:7860"}, 200),
        ({"Origin": "chrome-extension://abcdef"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)
def test_a_page_of_another_host_is_refused(url: str, headers: dict[str, str], status: int) -> None:
    answer = httpx.post(f"{url}/translate", json={"text": TEXT, "target_lang": "fr"}, headers=headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["code"] == "foreign_page"
    assert httpx.get(f"{url}/languages", headers=headers).status_code == 200


def test_another_method_is_refused(url: str) -> None:
    answer = httpx.get(f"{url}/translate")
    assert (answer.status_code, answer.json()["code"], answer.headers["Allow"]) == (405, "method_not_allowed", "POST")
    assert httpx.delete(f"{url}/languages").status_code == 405


def test_an_unknown_address_is_a_404_in_json(url: str) -> None:
    answer = httpx.get(f"{url}/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_full_server_says_when_to_come_back(serve: Serve) -> None:
    url = serve(backend := EchoBackend(delay_seconds=SLOW), max_requests=1)
    with httpx.stream("POST", f"{url}/translate", json={"text": BOOK, "target_lang": "fr", "stream": True}) as busy:
        stream = messages(busy)
        next(stream)
        answer = httpx.post(f"{url}/translate", json={"text": TEXT, "target_lang": "fr"})
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) > 0
        assert next(stream)["type"] == "delta"
    soon(lambda: backend.running == 0)
    assert translate(url, text="Hi there.")["translation"] == "Hi there."


def test_a_stream_comes_piece_by_piece(serve: Serve) -> None:
    url = serve(backend := EchoBackend(delay_seconds=SLOW))
    body = {"text": TEXT, "target_lang": "fr", "stream": True}
    came: list[dict[str, Any]] = []
    with httpx.stream("POST", f"{url}/translate", json=body) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-cache", "no")
        came.extend({**message, "at": time.monotonic(), "running": backend.running} for message in messages(answer))
    deltas = [message for message in came if message["type"] == "delta"]
    assert [message["type"] for message in came if message["type"] != "delta"] == ["started", "segment", "done"]
    assert "".join(delta["text"] for delta in deltas) == came[-1]["translation"] == TEXT
    assert deltas[0]["running"] == 1  # the first was here while the model still worked
    assert deltas[-1]["at"] - deltas[0]["at"] > SLOW * (len(deltas) - 1) * 0.5
    assert len({message["id"] for message in came}) == 1


def test_a_stream_that_fails_late_ends_with_an_error_message(serve: Serve) -> None:
    url = serve(FailsLate())
    with httpx.stream("POST", f"{url}/translate", json={"text": TEXT, "target_lang": "fr", "stream": True}) as answer:
        last = list(messages(answer))[-1]
    assert answer.status_code == 200
    assert (last["type"], last["code"], last["error"]) == ("error", "backend_failed", "The card fell off; put it back.")


def test_a_model_that_fails_is_a_503(serve: Serve) -> None:
    answer = httpx.post(f"{serve(FailsLate())}/translate", json={"text": TEXT, "target_lang": "fr"})
    assert (answer.status_code, answer.json()["code"]) == (503, "backend_failed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_of_ours_is_a_500_that_tells_nothing(serve: Serve, stream: bool) -> None:
    url = serve(Breaks())
    answer = httpx.post(f"{url}/translate", json={"text": TEXT, "target_lang": "fr", "stream": stream})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "ZeroDivision" not in answer.text
    assert "secret" not in answer.text
    assert httpx.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": False}, {"text": [BOOK] * 40}])
def test_a_client_that_leaves_frees_the_model_at_once(serve: Serve, fields: dict[str, Any]) -> None:
    url = serve(backend := EchoBackend(delay_seconds=SLOW))
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port)
    body = json.dumps({"text": BOOK, "target_lang": "fr", **fields})
    connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
    soon(lambda: backend.running > 0)
    assert isinstance(connection.sock, socket.socket)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    soon(lambda: backend.running == 0, seconds=AT_ONCE_SECONDS)
    soon(lambda: httpx.get(f"{url}/system").json()["scheduler"]["requests"] == 0, seconds=AT_ONCE_SECONDS)


def test_languages_are_those_of_the_model(serve: Serve, url: str) -> None:
    assert len(httpx.get(f"{url}/languages").json()) == len(LANGUAGES)
    few = httpx.get(f"{serve(EchoBackend(languages=('zh', 'ar')))}/languages").json()
    assert few == [
        {
            "code": "zh",
            "name": "Chinese",
            "name_zh": "中文",
            "name_own": "中文",
            "direction": "ltr",
            "script": "Hans",
            "targets": ["ar"],
        },
        {
            "code": "ar",
            "name": "Arabic",
            "name_zh": "阿拉伯语",
            "name_own": "العربية",
            "direction": "rtl",
            "script": "Arab",
            "targets": ["zh"],
        },
    ]


@pytest.mark.parametrize(
    ("text", "lang", "certain"),
    [(TEXT, "en", True), ("ཁྱེད་རང་བདེ་པོ་ཡིན་པས།", "bo", True), ("OK", None, False), ("12", None, False)],
)
def test_the_language_of_a_text_is_told_among_all_that_there_are(
    serve: Serve, text: str, lang: str | None, certain: bool
) -> None:
    url = serve(EchoBackend(languages=("zh", "ar")))
    answer = httpx.post(f"{url}/detect", json={"text": text}).json()
    assert answer["certain"] is certain
    assert lang is None or answer["detection"][0]["lang"] == lang


def test_the_languages_of_a_list_are_told_in_its_order(url: str) -> None:
    answer = httpx.post(f"{url}/detect", json={"text": [TEXT, "", "Übermorgen fahren wir mit der Straßenbahn."]}).json()
    assert [[guess["lang"] for guess in guesses[:1]] for guesses in answer["detection"]] == [["en"], [], ["de"]]
    assert answer["certain"] == [True, False, True]
    form = httpx.post(f"{url}/detect", data={"text": TEXT}).json()
    assert (form["detection"], form["certain"]) == (answer["detection"][0], True)


@pytest.mark.parametrize(
    ("sent", "status", "code", "said"),
    [
        ({"json": {}}, 422, "invalid_request", "text is missing"),
        ({"json": {"text": ["a"] * 257}}, 422, "invalid_request", "1 to 256 strings"),
        ({"json": {"text": "a", "target_lang": "fr"}}, 422, "invalid_request", "'target_lang' is not a field"),
        ({"content": b"{"}, 400, "broken_json", "not JSON"),
        ({"content": b"x" * (8 * 2**20 + 1)}, 413, "body_too_large", "8 MiB"),
        ({"json": {"text": "a"}, "headers": {"Origin": "https://evil.example"}}, 403, "foreign_page", "evil.example"),
    ],
)
def test_what_no_language_can_be_told_of_is_refused(
    url: str, sent: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = httpx.post(f"{url}/detect", **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert said in answer.json()["error"]


@pytest.mark.parametrize("text", [" " * 8_000_000, "a" * 8_000_000, "\ud800 and so on"], ids=["blank", "word", "half"])
def test_any_text_is_detected_or_not_in_bounded_time(url: str, text: str) -> None:
    assert httpx.post(f"{url}/detect", content=json.dumps({"text": text}), timeout=5).status_code == 200


def test_the_process_is_up_before_the_model_is_ready(serve: Serve) -> None:
    url = serve(EchoBackend(delay_seconds=0.05), tested=False)
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    early = httpx.get(f"{url}/readyz")
    assert (early.status_code, early.json()["status"]) == (503, "loading")
    soon(lambda: httpx.get(f"{url}/readyz").status_code == 200)
    assert httpx.get(f"{url}/readyz").json() == {"status": "ready", "model": "echo"}


def test_a_model_that_fails_its_self_test_is_never_ready(serve: Serve) -> None:
    url = serve(FailsLate())
    assert httpx.get(f"{url}/readyz").json()["status"] == "failed"
    assert "The card fell off" in httpx.get(f"{url}/readyz").json()["reason"]


def test_system_tells_model_memory_and_who_waits(url: str) -> None:
    system = httpx.get(f"{url}/system").json()
    assert system["model"]["name"] == "echo"
    assert system["memory_bytes"]["process"] > 1_000_000
    assert (system["scheduler"]["slots"], system["scheduler"]["in_use"]) == (8, 0)
    assert system["traffic"]["requests"] > 0
    assert (system["pages"], system["plan"]) == (None, {"reason": "", "bytes": {}})  # echo has neither


class Planned(EchoBackend):
    def __init__(self) -> None:
        super().__init__()
        planned = {"weights": 4_700_000_000, "kv": 17_200_000_000}
        self.info = replace(self.info, kernel="marlin", plan="It fits.", planned_bytes=planned)

    def memory(self) -> dict[str, int]:
        return {"weights": 4, "graphs": 2, "pages_used": 10, "pages_free": 90, "preempted": 3}


def test_system_tells_why_a_model_is_loaded_as_it_is_what_that_takes_and_which_kernel_serves(serve: Serve) -> None:
    system = httpx.get(f"{serve(Planned())}/system").json()
    assert system["plan"] == {"reason": "It fits.", "bytes": {"weights": 4_700_000_000, "kv": 17_200_000_000}}
    assert system["model"]["kernel"] == "marlin"
    assert (system["memory_bytes"]["weights"], system["memory_bytes"]["graphs"]) == (4, 2)
    assert system["pages"] == {"used": 10, "free": 90, "preempted": 3}


def test_the_description_is_complete_and_needs_no_other_host(url: str) -> None:
    description = httpx.get(f"{url}/openapi.json").json()
    schema = description["paths"]["/translate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "temperature" in pointed_at(description, schema["properties"]["sampling"]["anyOf"][0]["$ref"])["properties"]
    for pointer in re.findall(r'"\$ref":"([^"]+)"', json.dumps(description, separators=(",", ":"))):
        assert pointed_at(description, pointer)["type"] == "object"
    documents = {"/documents", "/documents/{document_id}", "/documents/{document_id}/result"}
    segment = "/documents/{document_id}/segments/{index}"
    documents |= {"/documents/zip", "/documents/{document_id}/retry", "/documents/{document_id}/segments"}
    documents |= {segment, f"{segment}/retry"}
    glossaries = {"/glossaries", "/glossaries/{glossary_id}", "/glossaries/{glossary_id}/file"}
    alone = {"/translate", "/detect", "/languages", "/healthz", "/readyz", "/system"}
    alone |= {"/prompt", "/alternatives", "/render", "/bench", "/glossaries/template"}
    assert set(description["paths"]) == alone | documents | glossaries


def pointed_at(description: Any, pointer: str) -> Any:
    for part in pointer.removeprefix("#/").split("/"):
        description = description[part.replace("~1", "/")]
    return description


def test_below_a_proxys_path_the_description_says_so(serve: Serve) -> None:
    url = serve(EchoBackend(), root_path="/yiwen")  # the proxy takes its path off before it asks us
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/yiwen"}]
