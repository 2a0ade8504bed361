"""DeepL's documents, asked by its own client."""

import io
from collections.abc import AsyncGenerator
from pathlib import Path

import deepl
import httpx
import pytest

from engine.documents import store
from engine.errors import BackendError
from engine.types import Prompt, TokenChunk
from tests.compat.deepl_clients import Loud, client
from tests.compat.deepl_clients import asked as asked
from tests.compat.deepl_clients import impatient as impatient
from tests.conftest import Serve

SOURCE = b"<h1>My page</h1>\n<p>The <b>river</b> is wide.</p>\n"


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(Loud())


def test_a_file_comes_back_translated(asked: deepl.DeepLClient, tmp_path: Path) -> None:
    source, made = tmp_path / "page.html", tmp_path / "made.html"
    source.write_bytes(SOURCE)
    before = asked.get_usage().character.count
    status = asked.translate_document_from_filepath(source, made, source_lang="EN", target_lang="DE")
    assert made.read_text("utf-8") == "<h1>MY PAGE</h1>\n<p>THE <b>RIVER</b> IS WIDE.</p>\n"
    assert (status.done, status.billed_characters) == (True, len("My pageThe river is wide."))
    assert asked.get_usage().character.count == before + status.billed_characters


def test_a_file_is_sent_asked_after_and_fetched(asked: deepl.DeepLClient) -> None:
    glossary = asked.create_glossary("Water", "EN", "DE", {"river": "Strom"})
    handle = asked.translate_document_upload(
        "The river is wide.", filename="a.txt", source_lang="EN", target_lang="DE", glossary=glossary
    )
    assert (len(bytes.fromhex(handle.document_id)), len(bytes.fromhex(handle.document_key))) == (16, 32)
    again = deepl.DocumentHandle(handle.document_id, handle.document_key)
    assert asked.translate_document_wait_until_done(again).done
    made = io.BytesIO()
    asked.translate_document_download(again, made, chunk_size=1024)
    assert made.getvalue().decode() == "THE Strom IS WIDE."


@pytest.mark.parametrize("wrong", ["id", "key", "shape"])
def test_a_document_is_for_those_who_have_its_id_and_its_key(asked: deepl.DeepLClient, wrong: str) -> None:
    handle = asked.translate_document_upload(b"One.", filename="a.txt", source_lang="EN", target_lang="DE")
    other = deepl.DocumentHandle(
        {"id": "12AB" * 8, "shape": "../a"}.get(wrong, handle.document_id),
        "CD34" * 16 if wrong == "key" else handle.document_key,
    )
    with pytest.raises(deepl.DeepLException, match="Not found"):
        asked.translate_document_get_status(other)


@pytest.mark.usefixtures("impatient")
def test_a_document_that_is_not_done_is_not_ready(serve: Serve) -> None:
    backend = Loud()
    asked = client(serve(backend))
    backend.free.clear()
    handle = asked.translate_document_upload("A long one.", filename="a.txt", source_lang="EN", target_lang="DE")
    status = asked.translate_document_get_status(handle)
    assert (status.ok, status.done, status.billed_characters) == (True, False, None)
    with pytest.raises(deepl.DocumentNotReadyException) as caught:
        asked.translate_document_download(handle)
    assert caught.value.should_retry
    assert caught.value.http_status_code == 503
    backend.free.set()
    assert asked.translate_document_wait_until_done(handle).done


class Fails(Loud):
    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        raise BackendError("The card is gone.")
        yield


def test_a_document_that_fails_says_why(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", ())
    asked = client(serve(Fails(), tested=False))
    with pytest.raises(deepl.DocumentTranslationException, match=r"ID: [0-9A-F]{32}, key: [0-9A-F]{64}") as caught:
        asked.translate_document(b"One.", io.BytesIO(), filename="a.txt", source_lang="EN", target_lang="DE")
    assert "The card is gone." in str(caught.value)
    with pytest.raises(deepl.DeepLException, match="Bad request"):
        asked.translate_document_download(caught.value.document_handle)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("a.invalid", {}, "Invalid file: nothing with the file extension '.invalid'"),
        ("a.txt", {"output_format": "pdf"}, "output_format 'pdf' is not supported"),
        ("a.txt", {"target_lang": "XX"}, "target_lang 'XX' is not supported"),
        ("a.txt", {"formality": "more"}, "formality 'more' is not supported"),
        ("a.txt", {"glossary": "nowhere"}, "no such glossary"),
        ("a.txt", {"extra_body_parameters": {"style_id": "a"}}, "style_id is an option of DeepL's"),
        ("a.docx", {}, "docx"),
    ],
)
def test_a_file_that_cannot_be_translated_is_refused_at_once(
    asked: deepl.DeepLClient, name: str, fields: dict[str, str], message: str
) -> None:
    options = {"source_lang": "EN", "target_lang": "DE", **fields}
    with pytest.raises(deepl.DeepLException, match=message):
        asked.translate_document_upload("One.", filename=name, **options)


def test_the_same_format_and_a_name_beside_the_file_are_taken(url: str) -> None:
    form = {"target_lang": "DE", "source_lang": "EN", "output_format": "TXT", "filename": "b.txt"}
    answer = httpx.post(f"{url}/v2/document", data=form, files={"file": ("blob", b"One.")})
    assert answer.status_code == 200
    assert answer.json().keys() == {"document_id", "document_key"}
    assert httpx.post(f"{url}/v2/document", json=form).status_code == 400
    assert httpx.post(f"{url}/v2/document", data=form, files={"other": ("b.txt", b"One.")}).status_code == 400
