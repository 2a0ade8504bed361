"""What people send by mistake or to try us, from end to end: each gets a clear result, and the server goes on.

Other glossaries of no use are in test_glossaries.py and test_termbase.py, broken requests in test_rest.py.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from tests.conftest import Serve
from tests.timing import cpu_at_most

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 40
PAIR = {"source_lang": "en", "target_lang": "fr"}
TEXT = "The river is wide. We crossed it in an old boat."
MEBIBYTE = b"boat,bateau\n" * (1024**2 // 12)


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


@pytest.fixture(scope="module")
def embedded_url(serve: Serve, embedded: Backend) -> str:
    return serve(embedded)


def translate(url: str, text: str = TEXT, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/translate", json={**PAIR, "text": text, **fields}, timeout=25)


def answered(url: str, text: str = TEXT, **fields: Any) -> dict[str, Any]:
    answer = translate(url, text, **fields)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def refused(answer: httpx.Response, status: int, code: str, said: str) -> None:
    """With one sentence, as people can read it."""
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), answer.text
    assert said in told["error"]
    assert "\n" not in told["error"]
    assert len(told["error"]) < 500


def sent(url: str, data: bytes, name: str = "terms.csv") -> httpx.Response:
    return httpx.post(f"{url}/glossaries", files={"file": (name, data)}, data=PAIR, timeout=25)


def kept(url: str, data: bytes, name: str = "terms.csv") -> dict[str, Any]:
    answer = sent(url, data, name)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def codes(answer: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


# ── glossaries ──


@pytest.mark.parametrize("name", ["terms.csv", "terms.xlsx", "terms.tbx", "terms.json", "terms.png"])
def test_a_picture_is_no_glossary_under_any_name(url: str, name: str) -> None:
    refused(sent(url, PNG, name), 415, "unsupported_glossary", "a PNG image")


def test_of_a_glossary_of_200_mb_a_part_is_read_and_the_rest_never_kept(url: str) -> None:
    before = httpx.get(f"{url}/glossaries").json()

    def form() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        for _ in range(200):
            yield MEBIBYTE
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        answer = httpx.post(f"{url}/glossaries", content=form(), headers=headers, timeout=25)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # hung up on, as one is who does not stop at the answer
    else:
        refused(answer, 413, "body_too_large", "larger than 50 MiB")
    assert httpx.get(f"{url}/glossaries").json() == before
    assert answered(url)["translation"] == TEXT


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252"])
def test_a_glossary_in_another_encoding_is_used(url: str, encoding: str) -> None:
    glossary_id = kept(url, "en,fr\ncafé,café\nold boat,old boat\n".encode(encoding))["id"]
    terms = answered(url, "A café on an old boat.", glossary_id=glossary_id)["terms"]
    assert {(term["source"], term["applied"]) for term in terms} == {("café", 1), ("old boat", 1)}


def test_a_formula_is_text_in_and_out_and_in_a_translation(url: str) -> None:
    formula = "=cmd|' /C calc'!A0"
    glossary_id = kept(url, f'boat,boat\n"{formula}","{formula}"\n'.encode())["id"]
    answer = answered(url, f"Never type {formula} here.", glossary_id=glossary_id)
    assert [(term["source"], term["applied"]) for term in answer["terms"]] == [(formula, 1)]
    written = httpx.get(f"{url}/glossaries/{glossary_id}/file?format=csv").text
    assert not any(cell.lstrip('"').startswith("=") for line in written.splitlines() for cell in line.split(","))


def test_a_glossary_of_one_column_says_what_is_missing(url: str) -> None:
    refused(sent(url, b"boat\nriver\nmast\n"), 422, "bad_glossary", "column")


# ── terms ──

# An echo has a term where its target is its source, or where it is to be kept as it is.
STRANGE = [
    ".*",
    "(a+)+$",
    "[",
    "\\",
    "$1 \\1",
    "😀",
    "👩‍👩‍👧",
    "a|b",
    "{name}",
    "%s",
    "<|extra_0|>",
    "'; DROP TABLE",
    "\u202eboat",
]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("term", STRANGE)
def test_a_term_that_looks_like_code_is_words(url: str, term: str, keep: bool) -> None:
    text = f"We say {term} here."
    answer = answered(url, text, glossary={term: "" if keep else term, "never there": "x"})
    assert answer["translation"] == text
    assert {(told["source"], told["count"] - told["applied"]) for told in answer["terms"]} <= {(term, 0)}


@pytest.mark.parametrize("term", [".*", "a.c", "(boat)", "😀"])
def test_a_term_is_found_where_it_stands_and_nowhere_else(url: str, term: str) -> None:
    answer = answered(url, f"An abc boat, then {term}.", glossary={term: term})
    assert [(told["count"], told["places"]) for told in answer["terms"]] == [(1, [[18, 18 + len(term)]])]


@pytest.mark.parametrize("term", ["<b>", "</b>", "<script>alert(1)</script>", "<s1>"])
def test_a_tag_stays_where_it_is_whatever_a_glossary_says(url: str, term: str) -> None:
    text = f"One {term} boat."
    for target in ("", "gone"):
        assert answered(url, text, glossary={term: target}, format="html")["translation"] == text


def test_a_term_of_10_000_characters_is_refused_and_in_a_file_costs_its_row(url: str) -> None:
    long = "boat " * 2_000
    refused(translate(url, glossary={long: "x"}), 422, "invalid_request", "256 characters")
    told = kept(url, f"boat,bateau\n{long},x\n".encode())
    assert (told["term_count"], [problem["code"] for problem in told["problems"]]) == (1, ["too_long"])


@pytest.mark.parametrize("term", [".*", "<b>", "😀", "boat"])
def test_the_model_translates_with_any_term(embedded_url: str, term: str) -> None:
    answer = answered(
        embedded_url, f"The old boat {term} is here.", target_lang="zh", glossary={term: "", "here": "这里"}
    )
    assert term in answer["translation"]
    assert "这里" in answer["translation"]


# ── context ──


def test_a_context_longer_than_its_window_is_cut_and_said(embedded_url: str) -> None:
    told = answered(embedded_url, "The boat is old.", context="We sell boats and nothing else. " * 2_000)
    assert told["translation"].strip()
    assert codes(told) == ["context_cut"]


def test_a_context_of_a_megabyte_of_one_word_takes_no_longer_than_seconds(url: str) -> None:
    with cpu_at_most(5):
        told = answered(url, context="x" * 1_000_000)
    assert (told["translation"], codes(told)) == (TEXT, ["context_cut"])


# ── languages ──


@pytest.mark.parametrize("pair", [("fr", "fr"), ("FR", "fr-CA"), ("French", "français"), ("zh", "zh-CN")])
def test_source_and_target_the_same_is_refused_in_any_spelling(url: str, pair: tuple[str, str]) -> None:
    answer = translate(url, source_lang=pair[0], target_lang=pair[1])
    refused(answer, 400, "same_language", "choose two different languages")


def test_a_text_in_the_target_already_comes_back_as_it_is(embedded_url: str) -> None:
    text = "Le fleuve est large. Nous l'avons traversé dans un vieux bateau."
    told = answered(embedded_url, text, source_lang="auto")
    assert (told["translation"], codes(told)) == (text, ["same_language"])


@pytest.mark.parametrize(
    ("text", "name"),
    [("แม่น้ำกว้าง เราข้ามมันด้วยเรือเก่า", "Thai"), ("Річка широка. Ми перетнули її на старому човні.", "Ukrainian")],
)
def test_a_text_in_a_language_the_model_lacks_is_refused_with_what_there_is(
    embedded_url: str, text: str, name: str
) -> None:
    refused(translate(embedded_url, text, source_lang="auto"), 400, "unknown_language", f"{name} (")
    refused(translate(embedded_url, text, source_lang=name), 400, "unknown_language", "en")


def test_a_text_in_a_language_that_nobody_here_knows_is_doubted(url: str) -> None:
    told = answered(url, "Το ποτάμι είναι πλατύ.", source_lang="auto")
    assert (told["translation"], codes(told)) == ("Το ποτάμι είναι πλατύ.", ["uncertain_language"])


# ── texts ──


@pytest.mark.parametrize(
    "text", ["1234567890", "3.14, 2,718 - 10 %", "😀", "👩‍👩‍👧 🇫🇷\n❤️", " ", "\n\n", " \t\u3000\r\n", "…?!"]
)
@pytest.mark.parametrize("source", ["auto", "en"])
def test_what_has_no_words_comes_back_as_it_is(embedded_url: str, text: str, source: str) -> None:
    told = answered(embedded_url, text, source_lang=source, glossary={"1234567890": "x"})
    assert (told["translation"], told["warnings"], told["usage"]["output_tokens"]) == (text, [], 0)


def test_only_an_empty_text_is_refused(url: str) -> None:
    refused(translate(url, ""), 400, "empty_text", "no text")


def test_a_megabyte_of_one_word_is_refused_with_its_size(url: str) -> None:
    refused(translate(url, "a" * 1_048_576), 413, "text_too_long", "1,048,576 characters")


def test_a_word_that_just_fits_comes_back_whole(url: str) -> None:
    word = "a" * 200_000
    assert answered(url, word)["translation"] == word
