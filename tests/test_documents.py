"""`/documents` over a real socket: a file in, how far it is, the same file in another language."""

import json
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.backends.echo import EchoBackend
from engine.documents import store
from engine.documents.read import KINDS
from engine.errors import BackendError
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon

SLOW = 0.01  # seconds a token
PAGE = b"<!doctype html><meta charset=iso-8859-1><p>The <b>river</b> is wide \xe9.</p>\r\n<pre>x</pre>"


SUBTITLE = b"1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>ONE</i> TWO.\r\n"
PO = b'msgid ""\nmsgstr ""\n\nmsgid "One %s"\nmsgstr "ONE %s"\n'
XLIFF = (
    '<?xml version="1.0" encoding="windows-1252"?><xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">'
    '<file original="a" source-language="en" datatype="plaintext"{}><body>'
    '<trans-unit id="1"><source>One \x85 caf\xe9</source>{}</trans-unit></body></file></xliff>'
).replace("\x85", "…")
XLIFF_FRENCH = XLIFF.format(' target-language="fr"', '<target state="translated">ONE … CAF\xc9</target>')
XLIFF = XLIFF.format("", "")


class Shouts(EchoBackend):
    """Translates into capitals, and counts what it is asked."""

    asked = 0

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.asked += 1
        parts = prompt.source.replace("<", "\0<").replace(">", ">\0").split("\0")
        said = "".join(part if part.startswith("<") else part.upper() for part in parts)
        async for chunk in super().stream(Prompt(prompt.text, said, prompt.max_new_tokens)):
            yield chunk


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(Shouts())


def send(url: str, name: str, data: bytes, **fields: Any) -> httpx.Response:
    fields = {"source_lang": "en", "target_lang": "fr", **fields}
    return httpx.post(f"{url}/documents", files={"file": (name, data)}, data=fields, timeout=20)


def status_of(url: str, document_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{url}/documents/{document_id}").json()
    return answer


def ended(url: str, document_id: str) -> dict[str, Any]:
    soon(lambda: status_of(url, document_id)["status"] in ("done", "error"), seconds=8)
    return status_of(url, document_id)


def translated(url: str, name: str, data: bytes, **fields: Any) -> httpx.Response:
    answer = send(url, name, data, **fields)
    assert answer.status_code == 202, answer.text
    status = ended(url, answer.json()["id"])
    assert status["status"] == "done", status
    return httpx.get(f"{url}/documents/{status['id']}/result")


def test_a_file_is_taken_translated_and_given_back(url: str) -> None:
    taken = send(url, "page one.html", PAGE)
    assert taken.status_code == 202
    assert taken.headers["Location"] == f"/documents/{taken.json()['id']}"
    status = ended(url, taken.json()["id"])
    assert (status["status"], status["segments_done"], status["segments_total"]) == ("done", 1, 1)
    assert (status["name"], status["result_name"]) == ("page one.html", "page one.fr.html")
    assert status["usage"]["output_tokens"] > 0
    assert status["model"] == "echo"
    result = httpx.get(f"{url}/documents/{status['id']}/result")
    assert result.content == PAGE.replace(b"The <b>river</b> is wide \xe9", b"THE <b>RIVER</b> IS WIDE \xc9")
    assert "page%20one.fr.html" in result.headers["Content-Disposition"]
    assert result.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b"One.\r\n\r\n%s two\n", b"ONE.\r\n\r\n%s TWO\n"),
        ("A.TXT", "Où ça.\n".encode("utf-16"), "OÙ ÇA.\n".encode("utf-16")),
        ("b.md", b"# One *two*\n\n```\nx\n```\n", b"# ONE *TWO*\n\n```\nx\n```\n"),
        ("c.json", b'{"id": "a", "n": 1, "say": "One {x}"}', b'{"id": "a", "n": 1, "say": "ONE {x}"}'),
        ("d.htm", b"<p>12</p>", b"<p>12</p>"),
        ("e.srt", b"1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>One</i> two.\r\n", SUBTITLE),
        ("f.po", b'msgid ""\nmsgstr ""\n\nmsgid "One %s"\nmsgstr ""\n', PO),
        ("g.xlf", XLIFF.encode("cp1252"), XLIFF_FRENCH.encode("cp1252")),
    ],
)
def test_each_kind_comes_back_as_what_it_was(url: str, name: str, data: bytes, expected: bytes) -> None:
    assert translated(url, name, data, exclude="id, other").content == expected


def test_every_kind_of_document_is_read_and_no_other() -> None:
    promised = ".txt .md .html .srt .vtt .json .po .xliff .docx .pptx .xlsx .epub".split()
    assert set(promised) <= set(KINDS)


def test_a_page_says_its_new_language(url: str) -> None:
    page = b'<html lang="en"><p>One</p></html>'
    assert translated(url, "a.html", page).content == b'<html lang="fr"><p>ONE</p></html>'
    assert translated(url, "a.html", page, target_lang="ar").content == b'<html dir="rtl" lang="ar"><p>ONE</p></html>'


def test_what_an_encoding_lacks_is_written_as_a_reference_in_html(serve: Serve) -> None:
    class Greek(EchoBackend):
        async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
            yield TokenChunk("αβ")
            yield TokenChunk("", 0, "stop")

    url = serve(Greek())
    page = translated(url, "a.html", b"<meta charset=latin1><p>The caf\xe9</p>").content
    assert page.endswith(b"<p>&#945;&#946;</p>")
    assert translated(url, "a.txt", b"The caf\xe9 is over there").content == "αβ".encode()


BAD: list[tuple[str, bytes, dict[str, Any], int, str, str]] = [
    ("a.txt", b"", {}, 400, "empty_text", "The file is empty"),
    ("a.exe", b"MZ", {}, 415, "unsupported_media", ".exe are not translated here; send one of: .txt"),
    ("noending", b"x", {}, 415, "unsupported_media", "without an ending"),
    ("a.txt", bytes(range(256)) * 40, {}, 422, "bad_document", "is no text in any encoding"),
    ("a.json", b"{", {}, 422, "bad_document", "no valid JSON"),
    ("a.txt", b"One", {"target_lang": "xx"}, 400, "unknown_language", "'xx'"),
    ("a.txt", b"One", {"target_lang": "en"}, 400, "same_language", "both English"),
    ("a.txt", b"One", {"colour": "red"}, 422, "invalid_request", "'colour' is not a field"),
    ("a.txt", b"One", {"exclude": "[id"}, 400, "broken_json", "not JSON"),
    ("a.json", b'{"a": "Half \\ud800 a letter"}', {}, 422, "invalid_request", "Half a character (U+D800)"),
    ("a.txt", b"One two three. " * 80_000, {}, 413, "text_too_long", "characters"),
]


@pytest.mark.parametrize(("name", "data", "fields", "status", "code", "said"), BAD)
def test_what_cannot_be_done_is_said_at_once(
    url: str, name: str, data: bytes, fields: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = send(url, name, data, **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert said in answer.json()["error"]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.srt", "a.json"])
def test_fifty_megabytes_on_one_line_get_a_clear_answer_in_bounded_time(url: str, name: str) -> None:
    answer = send(url, name, b"word " * 9_800_000)
    assert (answer.status_code, answer.json()["code"]) in [(413, "text_too_long"), (422, "bad_document")]
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_request_that_is_no_form_or_has_no_file_is_told_so(url: str) -> None:
    assert httpx.post(f"{url}/documents", json={"target_lang": "fr"}).status_code == 415
    answer = httpx.post(f"{url}/documents", files={"other": ("a.txt", b"x")}, data={"target_lang": "fr"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "file is missing" in answer.json()["error"]


def test_a_file_may_be_larger_than_other_requests_and_has_a_limit_of_its_own(url: str) -> None:
    text = b"\n" * 10_000_000
    assert translated(url, "empty.txt", text).content == text
    answer = send(url, "empty.txt", text * 6)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "50 MiB" in answer.json()["error"]


@pytest.mark.parametrize("path", ["x", "..%2f..%2fetc", "%00", "a" * 500])
def test_an_unknown_document_is_not_found(url: str, path: str) -> None:
    for answer in (httpx.get(f"{url}/documents/{path}"), httpx.get(f"{url}/documents/{path}/result")):
        assert answer.status_code == 404
    assert httpx.delete(f"{url}/documents/x").json()["code"] == "no_such_document"


def test_a_name_cannot_leave_its_folder(url: str) -> None:
    answer = send(url, "../../etc/pass\u202ewd<b>.txt", b"One")
    assert "/" not in answer.json()["name"]
    assert "<" not in answer.json()["name"]
    assert ended(url, answer.json()["id"])["status"] == "done"


def test_a_result_asked_for_too_early_is_refused_and_deleting_cancels(serve: Serve) -> None:
    backend = EchoBackend(delay_seconds=SLOW)
    url = serve(backend)
    document_id = send(url, "book.txt", b"This is one line of a book.\n" * 5_000).json()["id"]
    soon(lambda: status_of(url, document_id)["segments_done"] > 2, seconds=8)
    status = status_of(url, document_id)
    assert (status["status"], status["segments_total"]) == ("translating", 5_000)
    answer = httpx.get(f"{url}/documents/{document_id}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "document_not_ready")
    assert " of 5,000 segments" in answer.json()["error"]
    assert httpx.delete(f"{url}/documents/{document_id}").status_code == 204
    assert httpx.get(f"{url}/documents/{document_id}").status_code == 404
    soon(lambda: backend.running == 0)


def test_a_document_goes_on_after_a_restart_where_it_stood(serve: Serve, tmp_path: Path) -> None:
    lines = [f"This is line {number} of a book." for number in range(200)]
    url = serve(Shouts(delay_seconds=SLOW), data_dir=tmp_path)
    document_id = send(url, "book.txt", "\n".join(lines).encode()).json()["id"]
    soon(lambda: status_of(url, document_id)["segments_done"] > 20, seconds=8)
    serve.stop(last=True)
    (written,) = tmp_path.glob("documents/*/segments.jsonl")
    done = written.read_text().count('"model"')
    assert 20 < done < 200
    with written.open("a") as torn:
        torn.write('{"model": "half a li')
    backend = Shouts()
    again = serve(backend, data_dir=tmp_path)
    assert ended(again, document_id)["status"] == "done"
    assert backend.asked <= 200 - done + 1  # and the self-test
    assert httpx.get(f"{again}/documents/{document_id}/result").text == "\n".join(lines).upper()


def test_a_document_that_goes_on_has_the_terms_of_a_glossary_that_is_gone(serve: Serve, tmp_path: Path) -> None:
    url = serve(EchoBackend(delay_seconds=SLOW), data_dir=tmp_path)
    kept = {"name": "Books", "source_lang": "en", "target_lang": "fr", "glossary": {"book": "livre"}}
    glossary_id = httpx.post(f"{url}/glossaries", json=kept).json()["id"]
    data = "\n".join(f"This is line {number} of a book." for number in range(200)).encode()
    document_id = send(url, "book.txt", data, source_lang="en", glossary_id=glossary_id).json()["id"]
    assert httpx.delete(f"{url}/glossaries/{glossary_id}").status_code == 204
    soon(lambda: status_of(url, document_id)["segments_done"] > 20, seconds=8)
    serve.stop(last=True)
    again = serve(EchoBackend(), data_dir=tmp_path)
    (term,) = ended(again, document_id)["terms"]
    assert (term["source"], term["count"]) == ("book", 200)


def test_finished_and_failed_documents_outlive_a_restart(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(EchoBackend):
        async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
            if "bad" in prompt.source:
                raise ZeroDivisionError
            async for chunk in super().stream(prompt):
                yield chunk

    monkeypatch.setattr(store, "RETRY_SECONDS", (0.01, 0.01))
    url = serve(Fails(), data_dir=tmp_path)
    good, bad = (send(url, "a.txt", text).json()["id"] for text in (b"One good line", b"One bad line"))
    assert ended(url, good)["status"] == "done"
    failed = ended(url, bad)
    assert (failed["status"], failed["code"]) == ("error", "backend_failed")
    serve.stop(last=True)
    (tmp_path / "documents" / "my taxes").mkdir()
    url = serve(EchoBackend(), data_dir=tmp_path)
    assert httpx.get(f"{url}/documents/{good}/result").content == b"One good line"
    assert status_of(url, bad)["error"] == failed["error"]
    assert httpx.get(f"{url}/documents/{bad}/result").status_code == 409
    assert (tmp_path / "documents" / "my taxes").exists()


@pytest.mark.parametrize("torn", ["answer.json", "error.json", "result"])
def test_an_end_that_cannot_be_read_is_done_again(serve: Serve, tmp_path: Path, torn: str) -> None:
    url = serve(EchoBackend(), data_dir=tmp_path)
    document_id = send(url, "a.txt", b"One good line").json()["id"]
    assert ended(url, document_id)["status"] == "done"
    serve.stop(last=True)
    path = tmp_path / "documents" / document_id / torn
    if torn == "result":
        path.unlink()
    else:
        path.write_bytes(b"[1")
    url = serve(EchoBackend(), data_dir=tmp_path)
    assert ended(url, document_id)["status"] == "done"
    assert httpx.get(f"{url}/documents/{document_id}/result").content == b"One good line"


def test_a_backend_that_fails_for_a_moment_does_not_end_a_document(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stumbles(EchoBackend):
        failures = 0

        async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
            if "third" in prompt.source and self.failures < 2:
                self.failures += 1
                raise BackendError("The card is busy.")
            async for chunk in super().stream(prompt):
                yield chunk

    monkeypatch.setattr(store, "RETRY_SECONDS", (0.01, 0.01))
    text = b"One\nsecond\nthird\nfourth"
    assert translated(serve(Stumbles()), "a.txt", text).content == text


def test_there_are_never_more_documents_than_may_be_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_KEPT", 3)
    url = serve(EchoBackend())
    ids = [send(url, "a.txt", b"One").json()["id"] for _ in range(3)]
    assert [ended(url, one)["status"] for one in ids] == ["done"] * 3
    ids.append(send(url, "a.txt", b"One").json()["id"])
    assert [httpx.get(f"{url}/documents/{one}").status_code for one in ids] == [404, 200, 200, 200]
    slow = serve(EchoBackend(delay_seconds=5), tested=False)
    with ThreadPoolExecutor(6) as senders:
        answers = list(senders.map(lambda _: send(slow, "a.txt", b"One"), range(6)))
    assert sorted(answer.status_code for answer in answers) == [202, 202, 202, 503, 503, 503]


@pytest.mark.parametrize("charset", ["punycode", "utf-7", "raw_unicode_escape"])
def test_a_form_in_a_strange_charset_is_refused(url: str, charset: str) -> None:
    for path in ("documents", "translate"):
        kind = f"multipart/form-data; boundary=x; charset={charset}"
        answer = httpx.post(f"{url}/{path}", content=b"--x--\r\n", headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")


def test_deleting_while_it_is_saved_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    url = serve(EchoBackend(), data_dir=tmp_path)
    for _ in range(30):
        httpx.delete(f"{url}/documents/{send(url, 'a.txt', b'One').json()['id']}")
    assert [path for path in (tmp_path / "documents").iterdir() if path.is_dir()] == []


def test_two_servers_do_not_share_a_folder(serve: Serve, tmp_path: Path) -> None:
    serve(EchoBackend(), data_dir=tmp_path)
    second = serve(EchoBackend(), data_dir=tmp_path)
    document_id = send(second, "a.txt", b"One").json()["id"]
    assert ended(second, document_id)["status"] == "done"
    assert not (tmp_path / "documents" / document_id).exists()


def test_a_document_takes_its_turns_with_others(serve: Serve) -> None:
    url = serve(EchoBackend(delay_seconds=SLOW, slots=2), slots=2)
    document_id = send(url, "book.txt", b"This is one line of a book.\n" * 5_000).json()["id"]
    soon(lambda: status_of(url, document_id)["segments_done"] > 2, seconds=8)
    began = time.monotonic()
    answer = httpx.post(f"{url}/translate", json={"text": "A line.", "source_lang": "en", "target_lang": "fr"})
    assert answer.json()["translation"] == "A line."
    assert time.monotonic() - began < 5
    httpx.delete(f"{url}/documents/{document_id}")


def test_glossary_and_sampling_come_as_json_in_the_form(url: str) -> None:
    answer = send(url, "a.txt", b"The river is wide.", glossary=json.dumps({"river": "RIVER"}), sampling='{"seed": 1}')
    (term,) = ended(url, answer.json()["id"])["terms"]
    assert (term["count"], term["applied"]) == (1, 1)
