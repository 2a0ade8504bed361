"""LibreTranslate's API, asked by its own client and by hand."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import httpx
import pytest
from libretranslatepy import LibreTranslateAPI

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon

ENGLISH = "The river is wide."
SPANISH = "Esta es una oración en español, y la siguiente también."
PAGE = "<p>The <b>river</b> is wide.</p>"
PAIR = {"source": "en", "target": "de"}


class Shouts(EchoBackend):
    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        yield TokenChunk(prompt.source.upper(), finish="stop")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def url(serve: Serve, data: Path) -> str:
    return serve(EchoBackend(), data_dir=data)


def translate(url: str, **fields: Any) -> Any:
    answer = httpx.post(f"{url}/translate", json={**PAIR, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_its_client_translates_detects_and_lists_languages(url: str) -> None:
    client = LibreTranslateAPI(url, api_key="any")
    assert client.translate(ENGLISH, "en", "es") == ENGLISH
    assert client.detect(SPANISH)[0]["language"] == "es"
    chinese = next(each for each in client.languages() if each["code"] == "zh")
    assert chinese["name"] == "Chinese"
    assert "en" in chinese["targets"]
    assert "zh" not in chinese["targets"]


def test_its_client_is_told_what_is_wrong(url: str) -> None:
    with pytest.raises(HTTPError) as told:
        LibreTranslateAPI(url).translate(ENGLISH, "en", "zz")
    assert told.value.code == 400
    assert json.load(told.value)["error"] == "zz is not supported"


def test_a_text_is_answered_with_nothing_but_its_translation(url: str) -> None:
    assert translate(url, q=ENGLISH) == {"translatedText": ENGLISH}
    assert translate(url, q=[ENGLISH, "", "Good morning"]) == {"translatedText": [ENGLISH, "", "Good morning"]}


def test_the_language_is_told_where_it_was_asked_for(url: str) -> None:
    assert translate(url, q=SPANISH, source="auto")["detectedLanguage"] == {"language": "es", "confidence": 100}
    found = translate(url, q=[SPANISH, ENGLISH, "😀"], source="auto")["detectedLanguage"]
    assert [each["language"] for each in found] == ["es", "en", "en"]
    assert found[2]["confidence"] == 0


def test_json_forms_and_queries_are_read_alike(url: str) -> None:
    fields = {"q": ENGLISH, **PAIR, "format": "text", "api_key": "any"}
    multipart = {name: (None, value) for name, value in fields.items()}
    query, rest = {"q": ENGLISH}, PAIR
    for asked in ({"json": fields}, {"data": fields}, {"files": multipart}, {"params": fields}):
        assert httpx.post(f"{url}/translate", **asked).json() == {"translatedText": ENGLISH}
    assert httpx.post(f"{url}/translate", params=query, data=rest).json() == {"translatedText": ENGLISH}
    assert httpx.post(f"{url}/detect", params={"q": SPANISH}).json()[0]["language"] == "es"


@pytest.mark.parametrize("code", ["zh", "zt", "zh-Hans", "zh-Hant", "zh_Hant", "pb", "pt-BR", "pt"])
def test_codes_old_and_new_are_read(url: str, code: str) -> None:
    assert translate(url, q=ENGLISH, target=code) == {"translatedText": ENGLISH}


def test_html_is_read_as_html_only_where_that_is_said(url: str) -> None:
    assert translate(url, q=PAGE, format="html") == {"translatedText": PAGE}
    assert translate(url, q="# 1 & <2\n- x", format="text") == {"translatedText": "# 1 & <2\n- x"}


def test_a_text_in_the_language_of_the_target_comes_back_as_it_is(serve: Serve) -> None:
    shouts = serve(Shouts())
    assert translate(shouts, q=ENGLISH) == {"translatedText": ENGLISH.upper()}
    assert translate(shouts, q=ENGLISH, target="EN-us") == {"translatedText": ENGLISH}


BAD: list[tuple[dict[str, Any], str]] = [
    (PAIR, "Invalid request: missing q parameter"),
    ({**PAIR, "q": ""}, "Invalid request: missing q parameter"),
    ({**PAIR, "q": []}, "Invalid request: missing q parameter"),
    ({"q": "a", "target": "de"}, "Invalid request: missing source parameter"),
    ({"q": "a", "source": "en"}, "Invalid request: missing target parameter"),
    ({"q": "a", "source": "zz", "target": "de"}, "zz is not supported"),
    ({"q": "a", "source": "en", "target": "zz"}, "zz is not supported"),
    ({"q": "a", "source": "en", "target": "auto"}, "auto is not supported"),
    ({"q": "a", "source": "en", "target": "z\ud800"}, "z is not supported"),
    ({**PAIR, "q": "a", "format": "xml"}, "xml format is not supported"),
    ({**PAIR, "q": "a", "alternatives": "abc"}, "Invalid request: alternatives parameter is not a number"),
    ({**PAIR, "q": "a", "alternatives": 6}, "Invalid request: alternatives parameter must be <= 5"),
    ({**PAIR, "q": ["a"] * 257}, "Invalid request: request (257) exceeds text limit (256)"),
    ({**PAIR, "q": ["a", 5]}, "q must be a string, or a list of 1 to 256 strings."),
    ({**PAIR, "q": "a", "source": {}, "target": []}, "Invalid request: missing source parameter"),
    ({**PAIR, "q": "a", "source": ["en"]}, "source must be a string."),
]


@pytest.mark.parametrize(("fields", "error"), BAD, ids=lambda each: each if isinstance(each, str) else "")
def test_what_is_wrong_is_told_in_its_words(url: str, fields: dict[str, Any], error: str) -> None:
    answer = httpx.post(f"{url}/translate", content=json.dumps(fields))
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_half_a_character_is_refused_also_where_nothing_is_translated(url: str) -> None:
    answer = httpx.post(f"{url}/translate", content=json.dumps({"q": "a\ud800", "source": "en", "target": "en"}))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_several_texts_are_one_detection(url: str) -> None:
    found = httpx.post(f"{url}/detect", json={"q": [ENGLISH, SPANISH, SPANISH]}).json()
    assert [each["language"] for each in found[:2]] == ["es", "en"]
    assert httpx.post(f"{url}/detect", json={"q": "123"}).json() == [{"language": "en", "confidence": 0}]
    missing = httpx.post(f"{url}/detect", data={"q": ""})
    assert (missing.status_code, missing.json()["error"]) == (400, "Invalid request: missing q parameter")


@pytest.mark.parametrize("path", ["/translate", "/detect", "/translate_file", "/suggest"])
def test_a_wrong_method_is_told_so(url: str, path: str) -> None:
    answer = httpx.get(url + path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert httpx.post(f"{url}/languages").status_code == 405


def test_a_file_is_translated_and_fetched(url: str) -> None:
    file = {"file": ("über uns.txt", ENGLISH.encode())}
    link = httpx.post(f"{url}/translate_file", files=file, data=PAIR).json()["translatedFileUrl"]
    assert link.startswith(f"{url}/download_file/")
    assert link.endswith(".de.txt")
    fetched = httpx.get(link)
    assert fetched.text == ENGLISH
    assert fetched.headers["Content-Disposition"].startswith("attachment; ")


def test_the_link_to_a_file_is_that_of_the_proxy(serve: Serve) -> None:
    url = serve(EchoBackend(), config=Config(root_path="/yiwen", allowed_hosts=("*",)))
    file = {"file": ("a.txt", ENGLISH.encode())}

    def link(**headers: str) -> str:
        answer = httpx.post(f"{url}/translate_file", files=file, data=PAIR, headers=headers)
        return str(answer.json()["translatedFileUrl"]).partition("/download_file")[0]

    assert link() == f"{url}/yiwen"
    assert link(Host="example.org") == "http://example.org/yiwen"
    proxy = {"X-Forwarded-Host": "a.example:8443", "X-Forwarded-Proto": "https"}
    assert link(**proxy) == "https://a.example:8443/yiwen"
    assert link(**{"X-Forwarded-Host": 'a.example/"x'}) == f"{url}/yiwen"


BAD_FILES: list[tuple[dict[str, Any], str]] = [
    ({"data": PAIR}, "Invalid request: missing file parameter"),
    ({"files": {"file": ("a.txt", b"x")}, "data": {"target": "de"}}, "Invalid request: missing source parameter"),
    ({"files": {"file": ("a.txt", b"x")}, "data": {"source": "en"}}, "Invalid request: missing target parameter"),
    ({"files": {"file": ("a.exe", b"MZ")}, "data": PAIR}, "Invalid request: file format not supported"),
    ({"files": {"file": ("a.txt", b"x")}, "data": {**PAIR, "target": "zz"}}, "zz is not supported"),
]


@pytest.mark.parametrize(("asked", "error"), BAD_FILES, ids=lambda each: each if isinstance(each, str) else "")
def test_what_is_wrong_with_a_file_is_told_in_its_words(url: str, asked: dict[str, Any], error: str) -> None:
    answer = httpx.post(f"{url}/translate_file", **asked)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_of_a_file_that_fails_nothing_is_kept(serve: Serve, data: Path) -> None:
    folder = data.with_name("failed")
    url = serve(EchoBackend(languages=("en", "de")), data_dir=folder)
    khmer = {"file": ("a.txt", "ទន្លេធំទូលាយណាស់ ហើយទូកចាស់។".encode())}
    answer = httpx.post(f"{url}/translate_file", files=khmer, data={"source": "auto", "target": "de"})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_document")
    assert "Khmer" in answer.json()["error"]
    assert [path.name for path in (folder / "documents").iterdir()] == [".lock"]


def test_of_a_file_whose_sender_leaves_nothing_is_kept(serve: Serve, data: Path) -> None:
    folder = data.with_name("left")
    url = serve(EchoBackend(delay_seconds=0.05), data_dir=folder)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/translate_file", files={"file": ("a.txt", ENGLISH.encode() * 500)}, data=PAIR, timeout=1)
    soon(lambda: [path.name for path in (folder / "documents").iterdir()] == [".lock"])


def test_its_page_is_told_what_there_is(url: str) -> None:
    settings = httpx.get(f"{url}/frontend/settings").json()
    assert settings["language"]["source"] == {"code": "auto", "name": "Auto Detect"}
    assert settings["language"]["target"]["code"] == "en"
    assert (settings["keyRequired"], settings["suggestions"], settings["charLimit"]) == (False, True, 200_000)
    assert {".txt", ".docx", ".srt"} <= set(settings["supportedFilesFormat"])
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert "/translate" in httpx.get(f"{url}/spec").json()["paths"]


def test_suggestions_are_stored_a_line_each(url: str, data: Path) -> None:
    hello = {"q": "Hello\n{", "s": "Hallo ☺", "source": "en", "target": "zt"}
    assert httpx.post(f"{url}/suggest", json=hello).json() == {"success": True}
    assert httpx.post(f"{url}/suggest", data={**hello, "target": "../de"}).json()["error"] == "../de is not supported"
    assert httpx.post(f"{url}/suggest", params={**hello, **PAIR}).json() == {"success": True}
    lines = (data / "suggestions" / "suggestions.jsonl").read_text(encoding="utf-8").splitlines()
    first = {"source_lang": "en", "target_lang": "zh-Hant", "text": "Hello\n{", "translation": "Hallo ☺"}
    assert [json.loads(line) for line in lines] == [first, {**first, "target_lang": "de"}]
    missing = httpx.post(f"{url}/suggest", json={**PAIR, "q": "Hello"})
    assert (missing.status_code, missing.json()["error"]) == (400, "Invalid request: missing s parameter")
    long = httpx.post(f"{url}/suggest", json={**hello, "s": "a" * 10_001})
    assert (long.status_code, long.json()["code"]) == (413, "text_too_long")


def test_the_shipped_model_translates_and_has_other_words(serve: Serve, embedded: Backend) -> None:
    url = serve(embedded)
    long = f"I have been looking for a flat near the station since last winter. {ENGLISH}"
    one = translate(url, q=long, source="auto", alternatives=3)
    texts = [one["translatedText"], *one["alternatives"]]
    assert len(set(texts)) == len(texts) > 1
    assert all("Winter" in text and "Fluss" in text for text in texts)
    page = f"<p>{long.replace('station', '<b>station</b>')}</p>"
    many = translate(url, q=[page, ""], format="html", alternatives=2)
    assert [len(each) > 0 for each in many["alternatives"]] == [True, False]
    assert all(text.startswith("<p>") and text.count("<b>") == 1 for text in many["alternatives"][0])
    assert translate(url, q="Open [X12X] and [X30X] now.")["translatedText"].count("[X") == 2
