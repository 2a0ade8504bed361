"""DeepL's API, asked by its own client and command line: texts, languages, usage, and what goes wrong."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import deepl
import httpx
import pytest

from engine.config import Config
from tests.compat.deepl_clients import KEY, Loud, client
from tests.compat.deepl_clients import asked as asked
from tests.compat.deepl_clients import impatient as impatient
from tests.conftest import Serve, soon

TEXT = "The river is wide."
REFUSED = Path(__file__).with_name("deepl_refused.md")


@pytest.fixture(scope="module")
def backend() -> Loud:
    return Loud()


@pytest.fixture(scope="module")
def url(serve: Serve, backend: Loud) -> str:
    return serve(backend)


def test_a_text_comes_with_its_language_and_its_characters(asked: deepl.DeepLClient) -> None:
    result = asked.translate_text(TEXT, target_lang="DE")
    assert isinstance(result, deepl.TextResult)
    assert (result.text, result.detected_source_lang, result.billed_characters) == (TEXT.upper(), "EN", len(TEXT))
    assert result.model_type_used is None


def test_texts_come_back_in_order(asked: deepl.DeepLClient) -> None:
    texts = [TEXT, "", "Der Fluss ist breit.", "Le fleuve est large et profond."]
    results = asked.translate_text(iter(texts), target_lang="DE", model_type=deepl.ModelType.PREFER_QUALITY_OPTIMIZED)
    assert isinstance(results, list)
    # what is in German already comes back as it is, as does what is empty
    assert [one.text for one in results] == [TEXT.upper(), "", texts[2], texts[3].upper()]
    assert [one.detected_source_lang for one in results] == ["EN", "EN", "DE", "FR"]
    assert {one.model_type_used for one in results} == {"quality_optimized"}


def test_more_than_50_texts_are_refused(asked: deepl.DeepLClient) -> None:
    assert len(list(asked.translate_text([TEXT] * 50, target_lang="DE"))) == 50
    with pytest.raises(deepl.DeepLException, match="text must be a list of 1 to 50 strings"):
        asked.translate_text([TEXT] * 51, target_lang="DE")


@pytest.mark.parametrize(
    ("source", "target"), [("EN", "DE"), ("en", "de"), ("ZH", "EN-GB"), ("DE", "zh-hant"), (None, "PT-BR")]
)
def test_languages_are_named_as_deepl_names_them(asked: deepl.DeepLClient, source: str | None, target: str) -> None:
    result = asked.translate_text(TEXT, source_lang=source, target_lang=target)
    assert (str(result), result.detected_source_lang) == (TEXT.upper(), (source or "EN").upper())


def test_a_text_in_the_language_asked_for_comes_back_as_it_is(asked: deepl.DeepLClient) -> None:
    assert str(asked.translate_text(TEXT, source_lang="EN", target_lang="EN-US")) == TEXT


def test_without_tag_handling_a_tag_is_text(asked: deepl.DeepLClient) -> None:
    assert str(asked.translate_text("a &amp; b", source_lang="EN", target_lang="DE")) == "A &AMP; B"


def test_html_keeps_its_tags_and_what_must_not_be_translated(asked: deepl.DeepLClient) -> None:
    source = '<h1>My <b>first</b> page</h1><p translate="no">Keep me.</p><p>A <x-id>word</x-id> &amp; more.</p>'
    result = asked.translate_text(source, source_lang="EN", target_lang="DE", tag_handling="html", ignore_tags="x-id")
    assert str(result) == (
        '<h1>MY <b>FIRST</b> PAGE</h1><p translate="no">Keep me.</p><p>A <x-id>word</x-id> &amp; MORE.</p>'
    )


def test_xml_is_cut_as_its_tags_are_said_to_cut(asked: deepl.DeepLClient, backend: Loud) -> None:
    source = "<doc><par>One <i>two</i>.</par><par>Three.</par><raw>Four five.</raw></doc>"
    backend.prompts.clear()
    result = asked.translate_text(
        source,
        source_lang="EN",
        target_lang="DE",
        tag_handling="xml",
        tag_handling_version="v2",
        outline_detection=False,
        splitting_tags=["par"],
        non_splitting_tags="i,b",
        ignore_tags=["raw"],
    )
    assert str(result) == "<doc><par>ONE <i>TWO</i>.</par><par>THREE.</par><raw>Four five.</raw></doc>"
    assert len(backend.prompts) == 2


def test_placeholders_sent_as_empty_elements_come_back(asked: deepl.DeepLClient) -> None:
    source = 'Dear <m id="0" />, welcome to <m id="1"/>!'
    result = asked.translate_text(source, source_lang="EN", target_lang="DE", tag_handling="xml")
    assert str(result) == 'DEAR <m id="0" />, WELCOME TO <m id="1"/>!'


def test_xml_that_is_not_well_formed_is_refused_by_the_second_version_only(asked: deepl.DeepLClient) -> None:
    def ask(version: str | None) -> str:
        return str(
            asked.translate_text(
                "<p>One <b>two</b>.",
                target_lang="DE",
                source_lang="EN",
                tag_handling="xml",
                tag_handling_version=version,
            )
        )

    assert ask(None) == ask("v1") == "<p>ONE <b>TWO</b>."
    with pytest.raises(deepl.DeepLException, match="Bad request"):
        ask("v2")


def test_the_model_sees_the_context_and_translates_it_not(asked: deepl.DeepLClient, backend: Loud) -> None:
    backend.prompts.clear()
    result = asked.translate_text("Das ist scharf!", target_lang="EN-US", context="Das ist ein Messer.")
    assert str(result) == "DAS IST SCHARF!"
    assert "Das ist ein Messer." in backend.prompts[-1]


@pytest.mark.parametrize("split", [*deepl.SplitSentences, "0", "1", "nonewlines"])
def test_each_way_to_split_sentences_is_taken(asked: deepl.DeepLClient, split: Any) -> None:
    result = asked.translate_text("One.\nTwo.", source_lang="EN", target_lang="DE", split_sentences=split)
    assert re.fullmatch(r"ONE\.\sTWO\.", str(result))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("target_lang", "XX", "target_lang 'XX' is not supported"),
        ("source_lang", "XX", "source_lang 'XX' is not supported"),
        ("split_sentences", "2", "split_sentences must be 0, 1 or nonewlines"),
        ("formality", "rude", "formality must be default, more, less, prefer_more or prefer_less"),
        ("tag_handling", "markdown", "tag_handling must be xml or html"),
        ("model_type", "large", "model_type must be latency_optimized"),
        ("glossary", "nowhere", "no such glossary"),
        ("custom_instructions", ["Be kind."], "custom_instructions is an option of DeepL's that Yiwen does not have"),
        ("style_rule", "a-style", "style_id is an option of DeepL's"),
        ("translation_memory", "a-memory", "translation_memory_id is an option of DeepL's"),
    ],
)
def test_what_cannot_be_done_is_said(asked: deepl.DeepLClient, option: str, value: Any, message: str) -> None:
    with pytest.raises(deepl.DeepLException, match=message):
        asked.translate_text(TEXT, **{"source_lang": "EN", "target_lang": "DE", option: value})


def test_a_model_without_styles_refuses_a_formality_that_is_not_a_mere_wish(asked: deepl.DeepLClient) -> None:
    for formality in ("default", "prefer_more", deepl.Formality.PREFER_LESS):
        assert str(asked.translate_text(TEXT, target_lang="DE", formality=formality)) == TEXT.upper()
    with pytest.raises(
        deepl.DeepLException, match="formality 'more' is not supported by this model for target_lang DE"
    ):
        asked.translate_text(TEXT, target_lang="DE", formality="More")
    assert not any(language.supports_formality for language in asked.get_target_languages())


def test_a_model_with_styles_is_told_the_formality(serve: Serve) -> None:
    backend = Loud("hy-mt2")
    asked = client(serve(backend))
    assert str(asked.translate_text(TEXT, target_lang="DE", formality="more")) == TEXT.upper()
    assert "formal forms of address" in backend.prompts[-1]
    asked.translate_text(TEXT, target_lang="DE", formality="prefer_less")
    assert "informal forms of address" in backend.prompts[-1]
    with pytest.raises(
        deepl.DeepLException, match="formality 'less' is not supported by this model for target_lang TR"
    ):
        asked.translate_text(TEXT, target_lang="TR", formality="less")
    formal = {language.code for language in asked.get_target_languages() if language.supports_formality}
    assert formal == {"DE", "ES", "FR", "IT", "JA", "NL", "PL", "PT-BR", "PT-PT", "RU"}


def test_languages_are_those_of_the_model(asked: deepl.DeepLClient) -> None:
    sources = {language.code: language.name for language in asked.get_source_languages()}
    targets = {language.code: language.name for language in asked.get_target_languages()}
    assert (len(sources), sources["EN"], sources["ZH"]) == (38, "English", "Chinese")
    assert targets["EN-GB"] == "English (British)"
    assert {"EN-US", "PT-BR", "PT-PT", "ZH", "ZH-HANS", "ZH-HANT", "DE"} <= targets.keys()
    assert not {"EN", "PT"} & targets.keys()
    assert len(asked.get_glossary_languages()) == 38 * 37


def test_the_third_version_tells_what_each_language_can(url: str) -> None:
    languages = {
        one["lang"]: one for one in httpx.get(f"{url}/v3/languages", params={"resource": "translate_text"}).json()
    }
    sides = {code: (one["usable_as_source"], one["usable_as_target"]) for code, one in languages.items()}
    assert (sides["en"], sides["en-US"], sides["zh-Hant"]) == ((True, False), (False, True), (True, True))
    assert languages["de"] == {
        "lang": "de",
        "name": "German",
        "usable_as_source": True,
        "usable_as_target": True,
        "status": "stable",
        "features": {name: {"status": "stable"} for name in ("tag_handling", "glossary", "auto_detection")},
    }
    assert "auto_detection" not in languages["en-US"]["features"]
    resources = httpx.get(f"{url}/v3/languages/resources").json()
    assert [one["name"] for one in resources] == ["translate_text", "translate_document", "glossary"]
    assert httpx.get(f"{url}/v3/languages", params={"resource": "voice"}).status_code == 400


def test_usage_counts_characters_and_has_no_limit(asked: deepl.DeepLClient) -> None:
    before = asked.get_usage().character.count
    asked.translate_text([TEXT, TEXT], target_lang="DE")
    usage = asked.get_usage()
    assert (usage.character.count, usage.character.limit) == (before + 2 * len(TEXT), 10**12)
    assert not usage.any_limit_reached


def test_a_form_is_taken_as_json_is(url: str) -> None:
    form = {
        "auth_key": "any",
        "text": ["<p>One</p>", "<p>Two <i>three</i></p>"],
        "target_lang": "DE",
        "source_lang": "EN",
        "tag_handling": "html",
        "ignore_tags": "i,u",
        "preserve_formatting": "1",
        "split_sentences": "0",
        "outline_detection": "0",
        "something_new": "1",
    }
    answer = httpx.post(f"{url}/v2/translate", data=form).json()
    assert [one["text"] for one in answer["translations"]] == ["<p>ONE</p>", "<p>TWO <i>three</i></p>"]
    query = httpx.post(f"{url}/v2/translate", params={"text": "One", "target_lang": "DE", "source_lang": "EN"}).json()
    assert query["translations"][0]["text"] == "ONE"


def test_errors_have_the_shape_of_deepls(url: str) -> None:
    answer = httpx.post(f"{url}/v2/translate", json={"text": ["a"]})
    assert answer.status_code == 400
    assert answer.json() == {
        "message": "target_lang is missing; it must be the code of a language, such as de.",
        "detail": "invalid_request",
    }
    assert httpx.post(f"{url}/v2/translate", content=b"{").json()["detail"] == "broken_json"
    assert httpx.post(f"{url}/v2/translate", json=[]).status_code == 400
    assert httpx.delete(f"{url}/v2/translate").status_code == 405


# ---------------------------------------------------------------------------------------------------------------------
# what DeepL has and we have not


_LACKING: dict[str, tuple[Any, ...]] = {
    "rephrase_text": (TEXT,),
    "correct_text": (TEXT,),
    "create_style_rule": ("A style", "en"),
    "get_style_rule": ("a-style",),
    "update_style_rule_name": ("a-style", "Another"),
    "delete_style_rule": ("a-style",),
    "get_translation_memory": ("a-memory",),
    "list_translation_memory_segments": ("a-memory",),
    "delete_translation_memory": ("a-memory",),
    "create_translation_memory_import": ("a.tmx", 10),
}


@pytest.mark.parametrize("name", _LACKING)
def test_what_deepl_has_and_we_have_not_is_refused_in_a_sentence(asked: deepl.DeepLClient, name: str) -> None:
    with pytest.raises(deepl.DeepLException, match="is an address of DeepL's for something that Yiwen does not do"):
        getattr(asked, name)(*_LACKING[name])


def test_each_method_of_the_client_is_asked_here_or_listed_as_refused() -> None:
    ours, _, _ = REFUSED.read_text("utf-8").partition("# DeepL's own tests")
    refused = set(re.findall(r"^\| `(\w+)` \|", ours, re.MULTILINE))
    tests = "".join(path.read_text("utf-8") for path in REFUSED.parent.glob("test_deepl*.py"))
    methods = {name for name, what in vars(deepl.Translator).items() if callable(what) and name[0] != "_"}
    methods |= {name for name, what in vars(deepl.DeepLClient).items() if callable(what) and name[0] != "_"}
    about_the_client = {"close", "set_app_info"}
    assert [name for name in sorted(methods - refused - about_the_client) if f".{name}(" not in tests] == []
    assert set(_LACKING) <= refused <= methods | {"custom_instructions", "style_id"}


def test_of_what_we_have_not_there_is_none(asked: deepl.DeepLClient) -> None:
    assert asked.get_all_style_rules() == []
    assert asked.list_translation_memories() == []


# ---------------------------------------------------------------------------------------------------------------------
# errors and retries


def test_a_wrong_key_is_an_authorization_exception(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"tests:{KEY}\n", "utf-8")
    url = serve(Loud(), config=Config(api_keys=str(keys)), tested=False)
    assert str(client(url).translate_text(TEXT, target_lang="DE")) == TEXT.upper()
    with pytest.raises(deepl.AuthorizationException, match="Authorization failure"):
        client(url, "wrong").get_usage()
    assert httpx.post(f"{url}/v2/usage", data={"auth_key": KEY}).status_code == 200
    assert httpx.post(f"{url}/v2/usage", data={"auth_key": "wrong"}).status_code == 403


@pytest.mark.usefixtures("impatient")
def test_who_asks_too_often_is_told_after_the_clients_retries(serve: Serve) -> None:
    asked = client(serve(Loud(), config=Config(requests_per_minute=2), tested=False))
    asked.translate_text([TEXT], target_lang="DE")
    asked.get_usage()
    with pytest.raises(deepl.TooManyRequestsException) as caught:
        asked.translate_text(TEXT, target_lang="DE")
    assert caught.value.http_status_code == 429
    assert caught.value.should_retry


def test_a_busy_server_is_asked_again_until_there_is_room(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepl.http_client._BackoffTimer, "BACKOFF_INITIAL", 0.1)
    backend = Loud()
    url = serve(backend, max_requests=1)
    backend.free.clear()
    body = {"text": TEXT, "target_lang": "DE"}
    other = threading.Thread(target=httpx.post, args=(f"{url}/v2/translate",), kwargs={"json": body})
    other.start()
    soon(lambda: backend.running == 1)
    assert httpx.post(f"{url}/v2/translate", json=body).status_code == 503
    threading.Timer(0.2, backend.free.set).start()
    assert str(client(url).translate_text(TEXT, target_lang="DE")) == TEXT.upper()
    other.join()


@pytest.mark.usefixtures("impatient")
def test_where_nobody_listens_there_is_a_connection_exception() -> None:
    with pytest.raises(deepl.ConnectionException):
        client("http://127.0.0.1:9").get_usage()


# ---------------------------------------------------------------------------------------------------------------------
# the command line


def run(url: str, *words: str) -> str:
    environ = {**os.environ, "DEEPL_AUTH_KEY": KEY, "DEEPL_SERVER_URL": url}
    done = subprocess.run([sys.executable, "-m", "deepl", *words], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_translates(url: str, tmp_path: Path) -> None:
    said = run(url, "text", "--from", "EN", "--to", "DE", "--tag-handling", "html", "<p>One <b>two</b>.</p>")
    assert said.strip() == "<p>ONE <b>TWO</b>.</p>"
    source, folder = tmp_path / "a.txt", tmp_path / "done"
    source.write_text(TEXT, "utf-8")
    run(url, "document", "--from", "EN", "--to", "DE", str(source), str(folder))
    assert (folder / "a.txt").read_text("utf-8") == TEXT.upper()


def test_the_command_line_keeps_glossaries_and_tells_of_languages_and_usage(url: str) -> None:
    created = run(url, "glossary", "create", "--name", "By hand", "--from", "DE", "--to", "EN", "Fluss=stream")
    glossary_id = created.split()[0] if "-" in created.split()[0] else re.findall(r"[0-9a-f-]{36}", created)[0]
    assert "Fluss\tstream" in run(url, "glossary", "entries", glossary_id)
    assert "DE: German" in run(url, "languages")
    assert "Characters: " in run(url, "usage")
