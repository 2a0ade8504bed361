"""Immersive Translate's custom API, asked as its extension asks."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve

# What it puts in the place of links, pictures and the like, by the separators that its user has chosen.
PARAGRAPHS = [
    "{0} Hello {1} world",
    "{{0}} is wide, {{1}} is not.",
    "<b0></b0> Hello <b1></b1> world",
    "Read <b0>the manual</b0> & ask if 1 < 2, <b1>please</b1>.",
    "A line.\nAnother line.",
    "😀",
    "",
]


class Careless(EchoBackend):
    """Loses all that looks like a tag or a placeholder."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        said = "".join(character for character in prompt.source if character not in "<>{}/")
        yield TokenChunk(said, finish="stop")


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def ask(url: str, texts: list[str], **fields: Any) -> Any:
    body = {"source_lang": "en", "target_lang": "de", "text_list": texts, **fields}
    return httpx.post(f"{url}/immersive", content=json.dumps(body), headers={"Content-Type": "application/json"}).json()


def test_paragraphs_come_back_in_their_order(url: str) -> None:
    expected = [{"detected_source_lang": "en", "text": text} for text in PARAGRAPHS]
    assert ask(url, PARAGRAPHS) == {"translations": expected}
    assert ask(url, []) == {"translations": []}


def test_placeholders_come_back_from_a_model_that_loses_them(serve: Serve) -> None:
    placeholders = ["{0}", "{1}"], ["{{0}}", "{{1}}"], ["<b0></b0>", "<b1></b1>"], ["<b0>", "</b0>", "<b1>", "</b1>"]
    texts = [each["text"] for each in ask(serve(Careless()), PARAGRAPHS[:4])["translations"]]
    for text, all_its in zip(texts, placeholders, strict=True):
        assert [text.count(each) for each in all_its] == [1] * len(all_its)


def test_the_language_is_told_in_its_codes(url: str) -> None:
    chinese = ask(url, ["我们昨天过了河，船很旧。"], source_lang="auto", target_lang="fr")["translations"]
    assert [each["detected_source_lang"] for each in chinese] == ["zh-CN"]
    same = ask(url, ["繁體中文"], source_lang="zh-TW", target_lang="zh-TW")["translations"]
    assert same == [{"detected_source_lang": "zh-TW", "text": "繁體中文"}]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"target_lang": "tlh"}, "does not speak 'tlh'"),
        ({"text_list": "a"}, "text_list must be a list of at most 256 strings"),
        ({"text_list": ["a", 1]}, "text_list[1] does not fit"),
        ({"text_list": None}, "text_list is missing"),
    ],
)
def test_what_is_wrong_is_told(url: str, fields: dict[str, Any], error: str) -> None:
    assert error in ask(url, ["a"], **fields)["error"]


def test_the_shipped_model_keeps_placeholders(serve: Serve, embedded: Backend) -> None:
    texts = [each["text"] for each in ask(serve(embedded), PARAGRAPHS[:4])["translations"]]
    for text, source in zip(texts, PARAGRAPHS, strict=False):
        assert text != source
    assert [texts[0].count("{0}"), texts[0].count("{1}")] == [1, 1]
    assert [texts[1].count("{{0}}"), texts[1].count("{{1}}")] == [1, 1]
    assert [texts[2].count("<b0></b0>"), texts[2].count("<b1></b1>")] == [1, 1]
    assert [texts[3].count(each) for each in ("<b0>", "</b0>", "<b1>", "</b1>", "1 < 2", "&amp;")] == [1, 1, 1, 1, 1, 0]
