"""Stored glossaries: what outlives the process, and `/glossaries` over a real socket."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.sync.client import connect

from engine import files
from engine.backends.echo import EchoBackend
from engine.errors import NoSuchGlossary, NotStored, TooManyGlossaries
from engine.termbase import store
from engine.termbase.entries import MAX_TERMS
from engine.termbase.store import Glossaries
from engine.types import Term
from tests.conftest import Serve, soon

Result = TypeVar("Result")
TERMS = (Term("Fahrleitung", "overhead line"), Term("Variobahn", "", case=True, note="a tram\nof Stadler's"))
TEXT = "The river is wide. We crossed it in an old boat."


def within(folder: Path, work: Callable[[Glossaries], Awaitable[Result]]) -> Result:
    """What `work` makes of the glossaries of `folder`, from start to close."""

    async def run() -> Result:
        glossaries = Glossaries(folder)
        await glossaries.start()
        try:
            return await work(glossaries)
        finally:
            await glossaries.close()

    return asyncio.run(run())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    files.write_whole(tmp_path / "a", b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(tmp_path / "a", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]


def test_a_glossary_outlives_a_restart(tmp_path: Path) -> None:
    kept = within(tmp_path, lambda glossaries: glossaries.add("Trams", "de", "en", TERMS))
    assert within(tmp_path, lambda glossaries: glossaries.get(kept.id)) == kept
    assert kept.terms == TERMS


def test_glossaries_are_listed_without_their_terms_the_oldest_first(tmp_path: Path) -> None:
    async def add_three(glossaries: Glossaries) -> None:
        for name in "cab":
            await glossaries.add(name, "de", "en", TERMS)

    async def listed(glossaries: Glossaries) -> list[tuple[str, int, tuple[Term, ...]]]:
        return [(stored.name, stored.term_count, stored.terms) for stored in glossaries.listed()]

    within(tmp_path, add_three)
    assert within(tmp_path, listed) == [("c", 2, ()), ("a", 2, ()), ("b", 2, ())]


def test_a_glossary_is_replaced_whole_and_keeps_its_id_and_age(tmp_path: Path) -> None:
    async def work(glossaries: Glossaries) -> None:
        old = await glossaries.add("Trams", "de", "en", TERMS)
        new = await glossaries.replace(old.id, "Trains", "de", "fr", TERMS[:1])
        assert (new.id, new.created, new.name, new.target_lang, new.terms) == (
            old.id,
            old.created,
            "Trains",
            "fr",
            TERMS[:1],
        )
        assert await glossaries.get(old.id) == new
        await glossaries.remove(old.id)
        with pytest.raises(NoSuchGlossary):
            await glossaries.replace(old.id, "Trains", "de", "fr", TERMS)

    within(tmp_path, work)
    assert list(tmp_path.glob("glossaries/*.jsonl")) == []


def test_terms_in_use_are_the_very_same_and_not_all_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_TERMS_READY", 5)

    async def work(glossaries: Glossaries) -> None:
        ids = [(await glossaries.add(name, "de", "en", TERMS)).id for name in "abc"]
        first = await glossaries.get(ids[0])
        again = await glossaries.get(ids[0])
        assert again.terms is first.terms
        for glossary_id in ids[1:]:
            await glossaries.get(glossary_id)
        assert (await glossaries.get(ids[0])).terms is not first.terms

    within(tmp_path, work)


DAMAGED = [
    b"",
    b"\xff\xfe",
    b"{}\n",
    b"[" * 3_000,
    b'{"name": 1, "source_lang": "de", "target_lang": "en", "created": 1, "term_count": 0}\n',
    b'{"name": "' + b"x" * 100_000,
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=[str(number) for number in range(len(DAMAGED))])
def test_what_cannot_be_read_is_told_in_the_log_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    async def listed(glossaries: Glossaries) -> int:
        return len(glossaries.listed())

    kept = within(tmp_path, lambda glossaries: glossaries.add("Trams", "de", "en", TERMS))
    path = tmp_path / "glossaries" / "0b7b8a3e-6a5c-4b0e-9a53-0d7c4f3f5f0a.jsonl"
    path.write_bytes(damaged)
    (tmp_path / "glossaries" / "my taxes.jsonl").write_text("mine")
    assert within(tmp_path, listed) == 1
    assert str(path) in caplog.text
    assert "my taxes" not in caplog.text
    assert path.read_bytes() == damaged
    assert within(tmp_path, lambda glossaries: glossaries.get(kept.id)) == kept


@pytest.mark.parametrize("tail", [b"", b'["Fahrleitung"]\n', b'["a", "b", 1, ""]\n' * 2, b"[" * 100_000, b"\xff"])
def test_a_glossary_whose_terms_are_damaged_is_not_served_in_part(tmp_path: Path, tail: bytes) -> None:
    kept = within(tmp_path, lambda glossaries: glossaries.add("Trams", "de", "en", TERMS))
    path = tmp_path / "glossaries" / f"{kept.id}.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + tail)
    with pytest.raises(NoSuchGlossary, match="'Trams' is damaged or gone"):
        within(tmp_path, lambda glossaries: glossaries.get(kept.id))
    assert path.exists()
    within(tmp_path, lambda glossaries: glossaries.remove(kept.id))
    assert not path.exists()


def test_there_are_never_more_glossaries_or_terms_than_may_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_STORED", 2)
    monkeypatch.setattr(store, "MOST_TERMS_STORED", 4)

    async def work(glossaries: Glossaries) -> None:
        first = await glossaries.add("a", "de", "en", TERMS)
        with pytest.raises(TooManyGlossaries, match="have 2 terms and this one 4, and 4 are stored"):
            await glossaries.add("b", "de", "en", TERMS * 2)
        await asyncio.gather(*(glossaries.add(name, "de", "en", TERMS[:1]) for name in "bcd"), return_exceptions=True)
        assert [stored.name for stored in glossaries.listed()] == ["a", "b"]
        with pytest.raises(TooManyGlossaries, match="2 glossaries"):
            await glossaries.add("c", "de", "en", TERMS[:1])
        await glossaries.replace(first.id, "a", "de", "en", (*TERMS, Term("Gleis", "track")))

    within(tmp_path, work)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    kept = within(tmp_path, lambda glossaries: glossaries.add("Trams", "de", "en", TERMS))
    half = tmp_path / "glossaries" / f"{uuid4()}.jsonl.new"
    half.write_bytes(b'{"name": "Tra')
    assert within(tmp_path, lambda glossaries: glossaries.get(kept.id)) == kept
    assert not half.exists()


def test_a_full_disk_is_said_and_the_old_glossary_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async def work(glossaries: Glossaries) -> None:
        old = await glossaries.add("a", "de", "en", TERMS)
        with monkeypatch.context() as patched:
            patched.setattr(files, "write_whole", full)
            with pytest.raises(NotStored, match="No space left on device"):
                await glossaries.replace(old.id, "b", "de", "en", TERMS[:1])
        assert await glossaries.get(old.id) == old

    within(tmp_path, work)


def test_two_programs_do_not_share_a_shelf(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(first: Glossaries) -> None:
        second = Glossaries(tmp_path)
        await second.start()
        kept = await second.add("a", "de", "en", TERMS)
        assert (await second.get(kept.id)).terms == TERMS
        await second.close()
        assert first.listed() == ()

    within(tmp_path, work)
    assert "glossaries will not outlive a restart" in caplog.text
    assert list(tmp_path.glob("glossaries/*.jsonl")) == []


def test_a_shelf_that_cannot_be_made_is_a_passing_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = within(tmp_path / "file", lambda glossaries: glossaries.add("a", "de", "en", TERMS))
    assert kept.terms == TERMS
    assert "cannot be used (Not a directory)" in caplog.text


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def body(**fields: Any) -> dict[str, Any]:
    return {"name": "Boats", "source_lang": "en", "target_lang": "fr", "glossary": {"boat": "bateau"}, **fields}


def keep(url: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/glossaries", content=json.dumps(body(**fields)))  # httpx cannot send half a character
    assert answer.status_code == 201, answer.text
    kept: dict[str, Any] = answer.json()
    return kept


def send(url: str, file_name: str, data: bytes, **fields: str) -> httpx.Response:
    return httpx.post(f"{url}/glossaries", files={"file": (file_name, data)}, data=fields, timeout=20)


def test_a_glossary_is_taken_listed_shown_replaced_and_forgotten(url: str) -> None:
    taken = httpx.post(f"{url}/glossaries", json=body())
    kept = taken.json()
    assert taken.status_code == 201
    assert taken.headers["Location"] == f"/glossaries/{UUID(kept['id'])}"
    assert (kept["name"], kept["source_lang"], kept["target_lang"]) == ("Boats", "en", "fr")
    assert (kept["term_count"], kept["problems"]) == (1, [])
    assert {name: kept[name] for name in kept if name != "problems"} in httpx.get(f"{url}/glossaries").json()
    one = f"{url}/glossaries/{kept['id']}"
    whole = httpx.get(one).json()
    assert whole.pop("terms") == [{"source": "boat", "target": "bateau", "case": False, "note": ""}]
    assert whole == {name: kept[name] for name in kept if name != "problems"}
    replaced = httpx.put(one, json=body(name="Ships", glossary={"ship": "navire", "mast": ""}))
    assert replaced.status_code == 200
    assert replaced.json() == {**kept, "name": "Ships", "term_count": 2}
    assert [term["source"] for term in httpx.get(one).json()["terms"]] == ["ship", "mast"]
    assert httpx.delete(one).status_code == 204
    for answer in (httpx.get(one), httpx.delete(one), httpx.put(one, json=body()), httpx.get(f"{one}/file")):
        assert (answer.status_code, answer.json()["code"]) == (404, "no_such_glossary")


TERM = {"source": "boat", "target": "bateau", "case": True, "note": "small"}


@pytest.mark.parametrize(
    ("fields", "terms"),
    [
        ({"glossary": {"boat": "bateau", "mast": ""}}, [("boat", "bateau", False, ""), ("mast", "", False, "")]),
        ({"glossary": [TERM]}, [("boat", "bateau", True, "small")]),
        ({"glossary": [{"source": "mast", "target": None, "case": None}]}, [("mast", "", False, "")]),
        (
            {"glossary": None, "terms": [TERM, {"source": "mast"}]},
            [("boat", "bateau", True, "small"), ("mast", "", False, "")],
        ),
    ],
)
def test_terms_come_as_an_object_or_a_list(url: str, fields: dict[str, Any], terms: list[tuple[Any, ...]]) -> None:
    whole = httpx.get(f"{url}/glossaries/{keep(url, **fields)['id']}").json()
    assert [tuple(term.values()) for term in whole["terms"]] == terms


def test_json_sent_by_plain_curl_is_read(url: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{url}/glossaries", content=json.dumps(body()), headers=headers).status_code == 201


def test_good_terms_are_kept_and_the_others_told_by_row(url: str) -> None:
    terms = [{"source": "boat", "target": "bateau"}, {"source": " "}, {"source": "x" * 257}, {"source": "\ud800"}]
    kept = keep(url, glossary=None, terms=terms)
    assert kept["term_count"] == 1
    assert [(problem["row"], problem["code"]) for problem in kept["problems"]] == [
        (2, "empty_source"),
        (3, "too_long"),
        (4, "characters"),
    ]


def test_languages_are_read_in_any_spelling_also_those_the_model_lacks(serve: Serve) -> None:
    url = serve(EchoBackend(languages=("en", "fr")))
    kept = keep(url, source_lang="EN-US", target_lang="zh-CN")
    assert (kept["source_lang"], kept["target_lang"]) == ("en", "zh")


BAD: list[tuple[dict[str, Any], int, str, str]] = [
    ({"json": body(name="")}, 422, "invalid_request", "name must be a string of 1 to 150"),
    ({"json": body(name="\u202e\n")}, 422, "invalid_request", "can be seen"),
    ({"json": body(name="x" * 151)}, 422, "invalid_request", "1 to 150"),
    ({"json": body(source_lang="tlh")}, 400, "unknown_language", "'tlh'"),
    ({"json": body(source_lang="FR")}, 400, "same_language", "both French"),
    ({"json": body(glossary={})}, 422, "empty_glossary", "send at least one"),
    ({"json": body(glossary={" ": "x"})}, 422, "empty_glossary", "row 1: The source term is empty"),
    ({"json": body(glossary={"a": 1})}, 422, "invalid_request", "glossary must be an object"),
    ({"json": body(glossary=[{"sorce": "a"}])}, 422, "invalid_request", "did you mean 'source'?"),
    ({"json": body(glossary="a,b")}, 422, "invalid_request", "glossary must be an object"),
    ({"json": body(glossary=None)}, 422, "invalid_request", "Either terms or glossary must be there"),
    ({"json": body(glossary=[{"target": "a"}])}, 422, "invalid_request", "glossary[0].source is missing"),
    ({"json": body(glossary=[{"source": "a"}, {"source": 1}])}, 422, "invalid_request", "glossary[1].source does not"),
    ({"json": body(glossary=[{"source": "a"}, 5])}, 422, "invalid_request", "glossary[1] does not fit"),
    ({"json": body(terms=[])}, 422, "invalid_request", "and not both"),
    ({"json": body(colour="red")}, 422, "invalid_request", "'colour' is not a field"),
    ({"json": body(glossary=[{"source": 1}] * (MAX_TERMS + 1))}, 422, "invalid_request", "at most 50,000"),
    ({"json": []}, 422, "invalid_request", "one JSON object"),
    ({"content": b"{"}, 400, "broken_json", "not JSON"),
    ({"content": b"[" * 100_000}, 400, "broken_json", "not JSON"),
    ({"content": b" " * (8 * 2**20 + 1)}, 413, "body_too_large", "as a file in a form"),
    ({"content": b"a,b", "headers": {"Content-Type": "text/csv"}}, 415, "unsupported_media", "a part named file"),
    ({"files": {"other": ("a.csv", b"a,b")}}, 422, "invalid_request", "file is missing"),
    ({"files": {"file": ("a.csv", b"boat,bateau\n")}}, 422, "invalid_request", "source_lang is missing"),
    ({"files": {"file": ("a.csv", b"a,b")}, "data": {"colour": "red"}}, 422, "invalid_request", "'colour'"),
    ({"files": {"file": ("a.csv", b"a,b")}, "data": {"source_lang": "xx"}}, 400, "unknown_language", "'xx'"),
    ({"json": body(), "headers": {"Origin": "https://evil.example"}}, 403, "foreign_page", "evil.example"),
]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(("sent", "status", "code", "said"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_cannot_be_kept_is_said_in_one_sentence(
    url: str, kept_id: str, method: str, sent: dict[str, Any], status: int, code: str, said: str
) -> None:
    before = httpx.get(f"{url}/glossaries").json()
    path = "/glossaries" if method == "POST" else f"/glossaries/{kept_id}"
    answer = httpx.request(method, f"{url}{path}", **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert httpx.get(f"{url}/glossaries").json() == before


@pytest.fixture(scope="module")
def kept_id(url: str) -> str:
    return str(keep(url)["id"])


def test_a_file_says_its_languages_or_the_form_does(url: str) -> None:
    named = send(
        url,
        "C:\\lists\\trams.tsv",
        b"Fahrleitung\toverhead line\n\tnothing\n",
        source_lang="de",
        target_lang="en",
    )
    assert named.status_code == 201, named.text
    assert (named.json()["name"], named.json()["term_count"]) == ("trams", 1)
    assert [problem["row"] for problem in named.json()["problems"]] == [2]
    said = send(url, "a.csv", b"de,en\nFahrleitung,overhead line\n", name="Trams")
    assert (said.json()["name"], said.json()["source_lang"], said.json()["target_lang"]) == ("Trams", "de", "en")


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("a.csv", b"", 422),
        ("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, 415),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(1_000), 415),
        ("a.xlsx", b"PK\x03\x04", 422),
        ("a.json", b"[[[", 422),
    ],
)
def test_a_file_that_is_no_glossary_is_refused(url: str, name: str, data: bytes, status: int) -> None:
    answer = send(url, name, data, source_lang="de", target_lang="en")
    assert answer.status_code == status, answer.text
    assert "\n" not in answer.json()["error"]


def test_a_file_may_be_larger_than_other_requests_and_has_a_limit_of_its_own(url: str, kept_id: str) -> None:
    large = b"boat,bateau,," + b"x" * (9 * 2**20) + b"\n"
    pair = {"source_lang": "en", "target_lang": "fr"}
    for method, path in (("POST", "glossaries"), ("PUT", f"glossaries/{kept_id}")):
        answer = httpx.request(method, f"{url}/{path}", files={"file": ("a.csv", large)}, data=pair)
        assert answer.json().get("code") != "body_too_large", answer.text
    answer = httpx.post(f"{url}/glossaries", files={"file": ("a.csv", large * 6)}, data=pair, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_others_are_answered_while_fifty_thousand_terms_are_taken_and_given(url: str) -> None:
    terms = {f"Fahrleitung {number}": f"overhead line {number}" for number in range(MAX_TERMS)}
    with ThreadPoolExecutor(1) as sender:
        began, slowest = time.monotonic(), 0.0
        kept = sender.submit(keep, url, glossary=terms)
        while not kept.done():
            slowest = max(slowest, httpx.get(f"{url}/healthz").elapsed.total_seconds())
        took = time.monotonic() - began
    assert kept.result()["term_count"] == MAX_TERMS
    assert slowest < 0.7 * took
    assert len(httpx.get(f"{url}/glossaries/{kept.result()['id']}", timeout=20).json()["terms"]) == MAX_TERMS


@pytest.mark.parametrize("kind", ["csv", "tsv", "tbx", "json"])
def test_a_glossary_goes_out_as_a_file_and_comes_in_again(url: str, kind: str) -> None:
    terms = [{"source": "Où ça", "target": "哪里 <b>", "case": True, "note": "a, b"}, {"source": "=cmd|' /C calc'!A0"}]
    kept = keep(url, name="A/b: ../“é”", source_lang="fr", target_lang="zh", glossary=terms)
    answer = httpx.get(f"{url}/glossaries/{kept['id']}/file", params={"format": kind})
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == (
        f"attachment; filename=\"A_b_ ..____.{kind}\"; filename*=UTF-8''A_b_%20.._%E2%80%9C%C3%A9%E2%80%9D.{kind}"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = send(url, f"a.{kind}", answer.content, source_lang="fr", target_lang="zh")
    assert again.status_code == 201, again.text
    before, after = (httpx.get(f"{url}/glossaries/{one['id']}").json()["terms"] for one in (kept, again.json()))
    assert [(term["source"], term["target"]) for term in after] == [(term["source"], term["target"]) for term in before]


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx", "json", "tbx"])
def test_a_template_comes_in_again_whole(url: str, kind: str) -> None:
    answer = httpx.get(f"{url}/glossaries/template", params={"format": kind})
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="glossary-template.{kind}"')
    kept = send(url, f"glossary-template.{kind}", answer.content, source_lang="en", target_lang="zh")
    assert (kept.status_code, kept.json()["problems"]) == (201, [])
    terms = httpx.get(f"{url}/glossaries/{kept.json()['id']}").json()["terms"]
    assert [(term["source"], bool(term["target"]), term["case"]) for term in terms] == [
        ("overhead line", True, False),
        ("Variobahn", False, False),
        ("Polish", True, True),
    ]


def test_a_file_without_a_name_leaves_a_glossary_its_own(url: str) -> None:
    one = f"{url}/glossaries/{keep(url, name='Old boats')['id']}"
    for fields, said in (({}, "Old boats"), ({"name": "Ships"}, "Ships")):
        replaced = httpx.put(
            one,
            files={"file": ("new.csv", b"ship,navire\n")},
            data={"source_lang": "en", "target_lang": "fr", **fields},
        )
        assert (replaced.status_code, replaced.json()["name"]) == (200, said)


def test_a_format_that_is_not_written_is_refused(url: str, kept_id: str) -> None:
    for path in (f"{kept_id}/file", "template"):
        answer = httpx.get(f"{url}/glossaries/{path}?format=pdf")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert "csv" in answer.json()["error"]


@pytest.mark.parametrize("path", ["x", "..%2f..%2fetc", "%00", "a" * 500])
def test_an_unknown_glossary_is_not_found(url: str, path: str) -> None:
    assert httpx.get(f"{url}/glossaries/{path}").status_code == 404


def translate(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/translate", json={"text": TEXT, "source_lang": "en", "target_lang": "fr", **fields})


def test_a_stored_glossary_is_used_and_that_of_the_request_comes_first(url: str) -> None:
    kept = keep(url, glossary={"boat": "navire", "river": "river"})
    answer = translate(url, glossary={"boat": "boat"}, glossary_id=kept["id"]).json()
    found = {(term["source"], term["target"], term["applied"]) for term in answer["terms"]}
    assert found == {("boat", "boat", 1), ("river", "river", 1)}


def test_the_terms_of_a_request_may_be_a_list_with_words_to_keep(url: str) -> None:
    answer = translate(url, glossary=[{"source": "boat", "case": True, "note": "keep"}]).json()
    assert [(term["source"], term["applied"]) for term in answer["terms"]] == [("boat", 1)]


def test_a_form_and_a_document_take_a_stored_glossary(url: str) -> None:
    glossary_id = keep(url, glossary={"boat": "boat"})["id"]
    fields = {"source_lang": "en", "target_lang": "fr", "glossary_id": glossary_id, "glossary": '[{"source": "river"}]'}
    form = httpx.post(f"{url}/translate", data={"text": TEXT, **fields}).json()
    assert {term["source"] for term in form["terms"]} == {"boat", "river"}
    document = httpx.post(f"{url}/documents", files={"file": ("a.txt", TEXT.encode())}, data=fields).json()
    answer: dict[str, Any] = {}

    def done() -> bool:
        answer.update(httpx.get(f"{url}/documents/{document['id']}").json())
        return answer["status"] == "done"

    soon(done, seconds=8)
    assert {term["source"] for term in answer["terms"]} == {"boat", "river"}
    assert {term["places"] for term in answer["terms"]} == {None}


def test_a_run_on_a_socket_takes_a_stored_glossary(url: str) -> None:
    start = {"type": "start", "id": "r1", "text": TEXT, "source_lang": "en", "target_lang": "fr"}
    glossary_id = keep(url, glossary={"boat": "boat"})["id"]
    with connect(f"{url.replace('http', 'ws')}/ws/translate") as socket:
        socket.send(json.dumps({**start, "glossary_id": glossary_id}))
        while (message := json.loads(socket.recv(timeout=5)))["type"] not in ("done", "error"):
            pass
    assert [(term["source"], term["applied"]) for term in message["terms"]] == [("boat", 1)]


MISFITS: list[tuple[dict[str, str], int, str, str]] = [
    (
        {"target_lang": "de"},
        400,
        "glossary_mismatch",
        "from English to French, and the request from English to German;",
    ),
    ({"source_lang": "DE"}, 400, "glossary_mismatch", "from English to French, and the request from German to French;"),
    ({"source_lang": "auto", "target_lang": "zh-CN"}, 400, "glossary_mismatch", "and the request to Chinese;"),
    ({"target_lang": "xx"}, 400, "unknown_language", "'xx'"),
    ({"glossary_id": "x"}, 404, "no_such_glossary", "GET /glossaries lists all"),
]


@pytest.mark.parametrize(("fields", "status", "code", "said"), MISFITS)
def test_a_glossary_that_does_not_fit_is_refused_by_every_face(
    url: str, kept_id: str, fields: dict[str, str], status: int, code: str, said: str
) -> None:
    asked = {"source_lang": "en", "target_lang": "fr", "glossary_id": kept_id, **fields}
    answers = [
        httpx.post(f"{url}/translate", json={"text": TEXT, **asked}),
        httpx.post(f"{url}/translate", json={"text": TEXT, "stream": True, **asked}),
        httpx.post(f"{url}/documents", files={"file": ("a.txt", TEXT.encode())}, data=asked),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(status, code)] * 3
    with connect(f"{url.replace('http', 'ws')}/ws/translate") as socket:
        socket.send(json.dumps({"type": "start", "id": "r1", "text": TEXT, **asked}))
        message = json.loads(socket.recv(timeout=5))
    assert (message["type"], message["id"], message["code"]) == ("error", "r1", code)
    assert all(said in told["error"] for told in (*(answer.json() for answer in answers), message))


@pytest.mark.parametrize("source", ["auto", "EN", "en-GB"])
def test_a_glossary_fits_a_source_that_is_detected_or_spelt_otherwise(url: str, kept_id: str, source: str) -> None:
    assert translate(url, source_lang=source, target_lang="FR", glossary_id=kept_id).status_code == 200


def test_glossaries_outlive_the_server_and_not_its_folder(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    kept = keep(serve(EchoBackend(), data_dir=tmp_path))
    serve.stop(last=True)
    url = serve(EchoBackend(), data_dir=tmp_path)
    assert httpx.get(f"{url}/glossaries/{kept['id']}").json()["name"] == "Boats"
    assert "will not outlive a restart" not in caplog.text
