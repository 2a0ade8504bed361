"""/openapi.json: what it says is what the server does, and all that the server has is in it."""

from pathlib import Path

import httpx
import pytest

from engine.backends.echo import EchoBackend
from engine.languages import LANGUAGES
from tests import schemas
from tests.conftest import Serve


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(EchoBackend())


def test_what_is_written_of_the_api_is_what_it_does(address: str, tmp_path: Path) -> None:
    status, said = schemas.check(address, tmp_path, "--phases", "examples,fuzzing", "--max-time", "12")
    assert status == 0, said


def test_every_address_has_its_errors_and_a_summary(address: str) -> None:
    described = httpx.get(f"{address}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert "/ws/translate" in described["info"]["description"]
    for ways in described["paths"].values():
        for way in ways.values():
            assert way["summary"]
            assert {"401", "403", "429"} <= way["responses"].keys()


def test_a_reader_of_the_schema_finds_all_languages_and_that_null_is_as_nothing(address: str) -> None:
    translate = httpx.get(f"{address}/openapi.json").json()["paths"]["/translate"]["post"]
    fields = translate["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert fields["target_lang"]["enum"] == list(LANGUAGES)
    assert {"type": "null"} in fields["context"]["anyOf"]
    body = {"text": "Hello.", "target_lang": "fr", "source_lang": "en", "context": None}
    assert httpx.post(f"{address}/translate", json=body).status_code == 200


def test_a_whole_number_may_be_written_with_a_point(address: str) -> None:
    body = {"text": "Hello.", "target_lang": "fr", "source_lang": "en"}
    samplings = ({"top_k": 116.0, "temperature": 1}, {"top_k": 1.5}, {"top_k": 1e300})
    answers = [httpx.post(f"{address}/translate", json=body | {"sampling": one}) for one in samplings]
    assert [answer.status_code for answer in answers] == [200, 422, 422]


def test_json_keeps_to_its_kinds_and_a_form_has_none(address: str) -> None:
    body = {"text": "Hello.", "target_lang": "fr", "source_lang": "en", "context_mode": "false"}
    assert httpx.post(f"{address}/translate", json=body).status_code == 422
    assert httpx.post(f"{address}/translate", data=body).status_code == 200
