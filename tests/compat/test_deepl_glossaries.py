"""DeepL's glossaries, of one pair of languages and of several, asked by its own client."""

import json
from pathlib import Path

import deepl
import httpx
import pytest
from deepl.api_data import MultilingualGlossaryDictionaryEntries as Entries
from deepl.api_data import MultilingualGlossaryInfo

from engine.termbase import store
from tests.compat.deepl_clients import Loud, client
from tests.compat.deepl_clients import asked as asked
from tests.conftest import Serve

NOWHERE = "96ab91fd-e715-41a1-adeb-5d701f84a483"
CSV = 'river,Strom,en,de\n"wide ""open""","weit, offen",en,de\n'


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(Loud())


def pairs(glossary: MultilingualGlossaryInfo) -> dict[str, int]:
    return {f"{one.source_lang}-{one.target_lang}": one.entry_count for one in glossary.dictionaries}


def entries(asked: deepl.DeepLClient, glossary: MultilingualGlossaryInfo, source: str, target: str) -> str:
    (found,) = asked.get_multilingual_glossary_entries(glossary, source, target).dictionaries
    return str(found.entries)


# ---------------------------------------------------------------------------------------------------------------------
# of one pair


def test_a_glossary_is_made_used_listed_and_forgotten(asked: deepl.DeepLClient) -> None:
    terms = {"river": "Strom", "River": "Fluss", "A%=&": "B&=%", "\U0001faa8": "\U0001fab5"}
    made = asked.create_glossary("Water", "EN-US", "de", terms)
    assert (made.name, made.source_lang, made.target_lang, made.entry_count, made.ready) == (
        "Water",
        "EN",
        "DE",
        4,
        True,
    )
    assert vars(asked.get_glossary(made.glossary_id)) == vars(made)
    assert asked.get_glossary_entries(made) == terms
    assert made.glossary_id in [one.glossary_id for one in asked.list_glossaries()]
    result = asked.translate_text_with_glossary(["A river.", "River!"], made)
    assert [str(one) for one in result] == ["A Strom.", "Fluss!"]
    asked.delete_glossary(made)
    for lost in (made.glossary_id, NOWHERE, "no-id-at-all"):
        with pytest.raises(deepl.GlossaryNotFoundException):
            asked.get_glossary(lost)


def test_a_glossary_comes_as_csv(asked: deepl.DeepLClient) -> None:
    made = asked.create_glossary_from_csv("From a file", "EN", "DE", CSV)
    assert asked.get_glossary_entries(made) == {"river": "Strom", 'wide "open"': "weit, offen"}
    several = asked.create_multilingual_glossary_from_csv("From a file", "EN", "DE", CSV)
    assert entries(asked, several, "EN", "DE") == 'river\tStrom\nwide "open"\tweit, offen'


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_lang": "XX"}, "target_lang 'XX' is not supported"),
        ({"target_lang": "EN"}, "Source and target are both English"),
        ({"name": "\u202e"}, "name must have a letter"),
        ({"entries": ""}, "no term that can be used"),
        ({"entries": "river"}, "Row 1 of entries is not a term and its translation"),
        ({"entries": "a\tb\na\tc"}, "Row 2 of entries cannot be used: “a” is “c” here and “b” in row 1"),
        ({"entries": "a\tb\nc\t"}, "Row 2 of entries is not a term"),
        ({"entries": 'a,"b', "entries_format": "csv"}, None),
        ({"entries_format": "xls"}, "entries_format must be tsv or csv"),
    ],
)
def test_a_glossary_that_cannot_be_used_is_refused_whole(url: str, fields: dict[str, str], message: str | None) -> None:
    whole = {"name": "Bad", "source_lang": "en", "target_lang": "de", "entries": "a\tb", **fields}
    answer = httpx.post(f"{url}/v2/glossaries", json=whole)
    assert answer.status_code == (400 if message else 201)
    assert (message or "") in answer.json().get("message", "")


def test_a_glossary_needs_the_language_of_the_text(url: str, asked: deepl.DeepLClient) -> None:
    made = asked.create_glossary("Water", "EN", "DE", {"river": "Strom"})
    body = {"text": "A river.", "target_lang": "DE", "glossary_id": made.glossary_id}
    assert (
        httpx.post(f"{url}/v2/translate", json=body).json()["message"] == "source_lang is missing; a glossary needs it."
    )
    with pytest.raises(deepl.DeepLException, match="'Water' has no terms from French to German"):
        asked.translate_text("A river.", source_lang="FR", target_lang="DE", glossary=made.glossary_id)


def test_where_no_more_can_be_stored_the_quota_is_exceeded(
    asked: deepl.DeepLClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(asked.list_multilingual_glossaries())
    monkeypatch.setattr(store, "MOST_STORED", sum(map(len, map(pairs, asked.list_multilingual_glossaries()))) + 1)
    both = [Entries("EN", "DE", {"river": "Strom"}), Entries("DE", "EN", {"Strom": "river"})]
    with pytest.raises(deepl.QuotaExceededException):
        asked.create_multilingual_glossary("Too much", both)
    assert len(asked.list_multilingual_glossaries()) == before  # nothing is left of the first half


# ---------------------------------------------------------------------------------------------------------------------
# of several


def test_a_glossary_has_a_dictionary_for_each_pair_of_languages(asked: deepl.DeepLClient) -> None:
    water = [Entries("EN", "DE", {"river": "Strom"}), Entries("DE", "EN", {"Fluss": "stream"})]
    made = asked.create_multilingual_glossary("Water", water)
    assert (made.name, pairs(made)) == ("Water", {"EN-DE": 1, "DE-EN": 1})
    assert str(asked.translate_text("A river.", source_lang="EN", target_lang="DE", glossary=made)) == "A Strom."
    assert (
        str(asked.translate_text("Ein Fluss.", source_lang="DE", target_lang="EN-GB", glossary=made)) == "EIN stream."
    )

    changed = asked.update_multilingual_glossary_dictionary(
        made, Entries("EN", "DE", {"river": "Fluss", "lake": "See"})
    )
    assert pairs(changed) == {"EN-DE": 2, "DE-EN": 1}
    assert entries(asked, made, "EN", "DE") == "river\tFluss\nlake\tSee"
    changed = asked.update_multilingual_glossary_dictionary_from_csv(made, "EN", "FR", "river,fleuve")
    assert pairs(changed) == {"EN-DE": 2, "DE-EN": 1, "EN-FR": 1}

    replaced = asked.replace_multilingual_glossary_dictionary(made, Entries("EN", "DE", {"sea": "Meer"}))
    assert (replaced.source_lang, replaced.target_lang, replaced.entry_count) == ("EN", "DE", 1)
    asked.replace_multilingual_glossary_dictionary_from_csv(made, "EN", "IT", "river,fiume")
    assert entries(asked, made, "en", "it-it") == "river\tfiume"

    assert asked.update_multilingual_glossary_name(made, "Waters").name == "Waters"
    assert (made.glossary_id, "Waters") in [(one.glossary_id, one.name) for one in asked.list_multilingual_glossaries()]


def test_a_glossary_lives_as_long_as_one_of_its_dictionaries(asked: deepl.DeepLClient) -> None:
    made = asked.create_multilingual_glossary(
        "Short", [Entries("EN", "DE", {"river": "Strom"}), Entries("DE", "EN", {"Fluss": "stream"})]
    )
    asked.delete_multilingual_glossary_dictionary(made, source_lang="EN", target_lang="DE")
    left = asked.get_multilingual_glossary(made.glossary_id)
    assert pairs(left) == {"DE-EN": 1}
    assert left.creation_time >= made.creation_time
    assert str(asked.translate_text("Fluss", source_lang="DE", target_lang="EN-US", glossary=left)) == "stream"
    with pytest.raises(deepl.GlossaryNotFoundException, match="'Short' has no dictionary from English to German"):
        asked.get_multilingual_glossary_entries(made, "EN", "DE")
    asked.delete_multilingual_glossary_dictionary(made, left.dictionaries[0])
    with pytest.raises(deepl.GlossaryNotFoundException):
        asked.get_multilingual_glossary(made.glossary_id)


def test_a_glossary_of_one_version_is_there_in_the_other(asked: deepl.DeepLClient) -> None:
    one = asked.create_glossary("One", "EN", "DE", {"river": "Strom"})
    grown = asked.update_multilingual_glossary_dictionary(one.glossary_id, Entries("EN", "FR", {"river": "fleuve"}))
    assert (grown.name, pairs(grown)) == ("One", {"EN-DE": 1, "EN-FR": 1})
    with pytest.raises(deepl.DeepLException, match="'One' has 2 dictionaries; ask for it at /v3/glossaries"):
        asked.get_glossary(one.glossary_id)
    assert one.glossary_id not in [each.glossary_id for each in asked.list_glossaries()]
    asked.delete_multilingual_glossary(grown)
    with pytest.raises(deepl.GlossaryNotFoundException):
        asked.get_multilingual_glossary(one.glossary_id)


def test_two_dictionaries_of_a_pair_are_refused(asked: deepl.DeepLClient) -> None:
    twice = [Entries("EN", "DE", {"a": "b"}), Entries("en", "de", {"c": "d"})]
    with pytest.raises(deepl.DeepLException, match="There are 2 dictionaries from English to German; send one"):
        asked.create_multilingual_glossary("Twice", twice)


def test_a_dictionary_serves_the_variants_of_its_languages(asked: deepl.DeepLClient) -> None:
    made = asked.create_multilingual_glossary("Chinese", [Entries("EN", "ZH-HANS", {"river": "河"})])
    for target in ("ZH", "ZH-HANS", "ZH-HANT"):
        assert str(asked.translate_text("river", source_lang="EN", target_lang=target, glossary=made)) == "河"


def test_several_glossaries_are_taken_in_order(asked: deepl.DeepLClient) -> None:
    first = asked.create_glossary("First", "EN", "DE", {"river": "Strom"})
    second = asked.create_glossary("Second", "EN", "DE", {"river": "Fluss", "lake": "See"})
    options = {"source_lang": "EN", "target_lang": "DE", "glossary_ids": [first, second.glossary_id]}
    assert str(asked.translate_text("A river, a lake.", **options)) == "A Strom, A See."  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# stored


def test_our_own_api_finds_the_dictionary_of_a_pair(url: str, asked: deepl.DeepLClient) -> None:
    made = asked.create_multilingual_glossary(
        "Ours",
        [
            Entries("EN", "FR", {"river": "fleuve"}),
            Entries("EN", "DE", {"river": "Strom"}),
            Entries("ES", "DE", {"río": "Fluss"}),
        ],
    )
    listed = [one for one in httpx.get(f"{url}/glossaries").json() if one["name"] == "Ours"]
    assert [(one["source_lang"], one["target_lang"]) for one in listed] == [("en", "fr"), ("en", "de"), ("es", "de")]

    def ask(glossary_id: str, **fields: str) -> httpx.Response:
        return httpx.post(f"{url}/translate", json={"text": "river", "glossary_id": glossary_id, **fields})

    whole = made.glossary_id
    assert ask(whole, source_lang="en", target_lang="de").json()["translation"] == "Strom"
    assert ask(whole, target_lang="fr").json()["translation"] == "fleuve"
    assert ask(listed[1]["id"], source_lang="en", target_lang="de").json()["translation"] == "Strom"
    assert ask(whole, target_lang="de").json()["code"] == "several_glossaries"
    assert ask(whole, source_lang="en", target_lang="it").json()["code"] == "glossary_mismatch"


def test_glossaries_outlive_a_restart_and_old_files_are_read(serve: Serve, tmp_path: Path) -> None:
    old = {"name": "Old", "source_lang": "en", "target_lang": "de", "created": 1.5, "term_count": 1}
    shelf = tmp_path / "glossaries"
    shelf.mkdir()
    (shelf / f"{NOWHERE}.jsonl").write_text(f'{json.dumps(old)}\n["river", "Strom", false, ""]\n', "utf-8")
    asked = client(serve(Loud(), data_dir=tmp_path))
    grown = asked.update_multilingual_glossary_dictionary(NOWHERE, Entries("DE", "EN", {"Fluss": "stream"}))
    serve.stop(last=True)
    asked = client(serve(Loud(), data_dir=tmp_path))
    (kept,) = asked.list_multilingual_glossaries()
    assert (kept.glossary_id, kept.name, pairs(kept)) == (NOWHERE, "Old", pairs(grown))
    assert kept.creation_time.timestamp() == 1.5
    assert str(asked.translate_text("Fluss", source_lang="DE", target_lang="EN-US", glossary=kept)) == "stream"
