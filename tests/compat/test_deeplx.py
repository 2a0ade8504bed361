"""DeepLX's API, asked as its clients ask."""

from typing import Any

import httpx
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from tests.conftest import Serve

TEXT = "The river is wide."


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def ask(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(url, json={"text": TEXT, "source_lang": "auto", "target_lang": "DE", **fields})


@pytest.mark.parametrize("path", ["/deeplx", "/deeplx/translate", "/deeplx?token=any"])
def test_a_text_is_answered_in_its_shape(url: str, path: str) -> None:
    answer = ask(url + path).json()
    assert isinstance(answer.pop("id"), int)
    assert answer == {
        "code": 200,
        "method": "Free",
        "data": TEXT,
        "alternatives": [],
        "source_lang": "EN",
        "target_lang": "DE",
    }


def test_codes_are_read_as_its_clients_write_them(url: str) -> None:
    answers = [ask(f"{url}/deeplx", source_lang=code, target_lang="ZH-HANS").json() for code in ("EN", "", "en-GB")]
    assert [(each["source_lang"], each["target_lang"]) for each in answers] == [("EN", "ZH-HANS")] * 3
    assert ask(f"{url}/deeplx", source_lang="DE").json()["data"] == TEXT  # and is in it, so that is all there is to do


def test_tags_are_read_where_that_is_said(url: str) -> None:
    page = "<ul><li title='an oar'>One &amp; two</ul>"
    assert ask(f"{url}/deeplx", text=page, tag_handling="html").json()["data"] == page
    assert "not closed" in ask(f"{url}/deeplx", text=page, tag_handling="xml").json()["message"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"text": None}, 422, "text is missing"),
        ({"text": ["a"]}, 422, "text must be a string"),
        ({"target_lang": "XX"}, 400, "does not speak 'XX'"),
        ({"tag_handling": "pdf"}, 422, "tag_handling must be"),
        ({"alternatives": 9}, 422, "alternatives must be a whole number from 0 to 5"),
    ],
)
def test_what_is_wrong_is_told_in_its_shape(url: str, fields: dict[str, Any], status: int, message: str) -> None:
    answer = ask(f"{url}/deeplx", **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert message in answer.json()["message"]
    assert set(answer.json()) == {"code", "message"}


def test_a_wrong_method_is_told_in_its_shape(url: str) -> None:
    answer = httpx.get(f"{url}/deeplx")
    assert (answer.status_code, answer.json()["code"], answer.headers["Allow"]) == (405, 405, "POST")


def test_the_address_asks_for_other_translations(serve: Serve, embedded: Backend) -> None:
    url = serve(embedded)
    assert ask(f"{url}/deeplx").json()["alternatives"] == []
    answer = ask(f"{url}/deeplx?alternatives=2", text="I have been looking for a flat here since last winter.").json()
    assert "Winter" in answer["data"]
    assert 1 <= len(set(answer["alternatives"]) - {answer["data"]}) == len(answer["alternatives"]) <= 2
