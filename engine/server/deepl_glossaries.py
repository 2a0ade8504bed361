"""DeepL's glossaries: `/v2/glossaries`, of one pair of languages each, and `/v3/glossaries`, which hold a dictionary
for each of several pairs. Knows HTTP, DeepL's shapes, and the store: there a dictionary is a glossary, and those that
belong together are a group."""

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import permutations
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from engine.errors import EmptyGlossary, InvalidRequest, NoSuchGlossary, NotSupported, SameLanguage, YiwenError
from engine.languages import LANGUAGES
from engine.server import deepl_fields, questions
from engine.server.questions import JsonObject
from engine.termbase.entries import sound
from engine.termbase.store import Glossaries, Stored
from engine.translator import Translator
from engine.types import Term

V2, V3 = "/v2/glossaries", "/v3/glossaries"
MOST_DICTIONARIES = 100  # of one request
_NAME = f"a string of 1 to {questions.MAX_NAME_CHARACTERS} characters"
_TSV = "text/tab-separated-values; charset=utf-8"


class PairFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    source_lang: str = Field(description="the code of a language, such as de")
    target_lang: str = Field(description="the code of a language, such as de")


class DictionaryFields(PairFields):
    entries: str = Field(description="a string: a term and its translation in each line")
    entries_format: Literal["tsv", "csv"] = Field(default="tsv", description="tsv or csv")


class OfOnePairFields(DictionaryFields):
    name: str = Field(min_length=1, max_length=questions.MAX_NAME_CHARACTERS, description=_NAME)


class GlossaryFields(BaseModel):
    name: str = Field(min_length=1, max_length=questions.MAX_NAME_CHARACTERS, description=_NAME)
    dictionaries: list[dict[str, Any]] = Field(
        min_length=1, max_length=MOST_DICTIONARIES, description=f"a list of 1 to {MOST_DICTIONARIES} dictionaries"
    )


class ChangeFields(BaseModel):
    name: str = Field(default="", max_length=questions.MAX_NAME_CHARACTERS, description=_NAME)
    dictionaries: list[dict[str, Any]] = Field(
        default_factory=list,
        max_length=MOST_DICTIONARIES,
        description=f"a list of 1 to {MOST_DICTIONARIES} dictionaries",
    )


@dataclass(frozen=True, slots=True)
class _Sent:
    """A dictionary as it was sent, made sound."""

    source: str
    target: str
    terms: tuple[Term, ...]

    @property
    def pair(self) -> tuple[str, str]:
        return self.source, self.target


def router(translator: Translator, store: Glossaries) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    changing = asyncio.Lock()  # so that no pair of languages comes into a glossary twice

    @api.get("/v2/glossary-language-pairs")
    async def pairs() -> Response:
        codes = [code.lower() for code in translator.info.languages]
        found = [{"source_lang": source, "target_lang": target} for source, target in permutations(codes, 2)]
        return JSONResponse({"supported_languages": found})

    # -----------------------------------------------------------------------------------------------------------------
    # of one pair

    @api.post(V2)
    async def add_one(request: Request) -> Response:
        fields = deepl_fields.read(await deepl_fields.asked(request), OfOnePairFields)
        sent = await asyncio.to_thread(_sent, fields)
        stored = await store.add(questions.glossary_name(fields.name), sent.source, sent.target, sent.terms)
        return JSONResponse(_answer_of_one(stored), 201)

    @api.get(V2)
    async def list_ones() -> Response:
        alone = [members[0] for members in _groups(store) if len(members) == 1]
        return JSONResponse({"glossaries": [_answer_of_one(stored) for stored in alone]})

    @api.get(f"{V2}/{{glossary_id}}")
    async def get_one(glossary_id: str) -> Response:
        return JSONResponse(_answer_of_one(_one(store, glossary_id)))

    @api.get(f"{V2}/{{glossary_id}}/entries")
    async def entries_of_one(glossary_id: str) -> Response:
        stored = await store.get(_one(store, glossary_id).id)
        return Response(await asyncio.to_thread(_tsv, stored.terms), media_type=_TSV)

    @api.delete(f"{V2}/{{glossary_id}}", status_code=204)
    async def remove_one(glossary_id: str) -> None:
        await store.remove(_one(store, glossary_id).id)

    # -----------------------------------------------------------------------------------------------------------------
    # of several

    @api.post(V3)
    async def add(request: Request) -> Response:
        fields = deepl_fields.read(await deepl_fields.asked(request), GlossaryFields)
        sent = await _all_sent(fields.dictionaries)
        group = ""
        try:
            for each in sent:
                stored = await store.add(
                    questions.glossary_name(fields.name), each.source, each.target, each.terms, group
                )
                group = stored.group_id
        except YiwenError:
            if group:  # whole or not at all
                await _remove(store, store.group(group))
            raise
        return JSONResponse(_answer(store.group(group)), 201)

    @api.get(V3)
    async def list_all() -> Response:
        return JSONResponse({"glossaries": [_answer(members) for members in _groups(store)]})

    @api.get(f"{V3}/{{glossary_id}}")
    async def get(glossary_id: str) -> Response:
        return JSONResponse(_answer(store.group(glossary_id)))

    @api.patch(f"{V3}/{{glossary_id}}")
    async def change(glossary_id: str, request: Request) -> Response:
        fields = deepl_fields.read(await deepl_fields.asked(request), ChangeFields)
        name = questions.glossary_name(fields.name) if fields.name else ""
        sent = await _all_sent(fields.dictionaries)
        async with changing:
            if name:
                for member in store.group(glossary_id):
                    whole = await store.get(member.id)
                    await store.replace(member.id, name, member.source_lang, member.target_lang, whole.terms)
            for each in sent:
                await _put(store, glossary_id, each, merged=True)
            return JSONResponse(_answer(store.group(glossary_id)))

    @api.delete(f"{V3}/{{glossary_id}}", status_code=204)
    async def remove(glossary_id: str) -> None:
        async with changing:
            await _remove(store, store.group(glossary_id))

    @api.put(f"{V3}/{{glossary_id}}/dictionaries")
    async def replace_dictionary(glossary_id: str, request: Request) -> Response:
        fields = deepl_fields.read(await deepl_fields.asked(request), DictionaryFields)
        sent = await asyncio.to_thread(_sent, fields)
        async with changing:
            return JSONResponse(_dictionary(await _put(store, glossary_id, sent, merged=False)))

    @api.delete(f"{V3}/{{glossary_id}}/dictionaries", status_code=204)
    async def remove_dictionary(glossary_id: str, request: Request) -> None:
        pair = _pair(deepl_fields.read(await deepl_fields.asked(request), PairFields))
        async with changing:
            await store.remove(_of_pair(store, glossary_id, pair).id)

    @api.get(f"{V3}/{{glossary_id}}/entries")
    async def entries(glossary_id: str, request: Request) -> Response:
        pair = _pair(deepl_fields.read(await deepl_fields.asked(request), PairFields))
        stored = await store.get(_of_pair(store, glossary_id, pair).id)
        said = {**_codes(stored), "entries": await asyncio.to_thread(_tsv, stored.terms), "entries_format": "tsv"}
        return JSONResponse({"dictionaries": [said]})

    return api


# ---------------------------------------------------------------------------------------------------------------------
# what is stored


def _groups(store: Glossaries) -> Iterable[tuple[Stored, ...]]:
    """Those that belong together, by the age of the oldest of each."""
    groups: dict[str, tuple[Stored, ...]] = {}
    for stored in store.listed():
        groups[stored.group_id] = (*groups.get(stored.group_id, ()), stored)
    return groups.values()


def _one(store: Glossaries, glossary_id: str) -> Stored:
    members = store.group(glossary_id)
    if len(members) > 1:
        raise NotSupported(
            f"The glossary {members[0].name!r} has {len(members)} dictionaries; ask for it at {V3}/{glossary_id}."
        )
    return members[0]


def _of_pair(store: Glossaries, glossary_id: str, pair: tuple[str, str]) -> Stored:
    members = store.group(glossary_id)
    for member in members:
        if (member.source_lang, member.target_lang) == pair:
            return member
    source, target = (LANGUAGES[code].english for code in pair)
    raise NoSuchGlossary(f"The glossary {members[0].name!r} has no dictionary from {source} to {target}.")


async def _put(store: Glossaries, glossary_id: str, sent: _Sent, *, merged: bool) -> Stored:
    """The dictionary in the place of the one for its languages, or as a new one; `merged`: with those entries of the
    old one whose source the new one lacks."""
    members = store.group(glossary_id)
    old = next((one for one in members if (one.source_lang, one.target_lang) == sent.pair), None)
    name = members[0].name
    if old is None:
        return await store.add(name, *sent.pair, sent.terms, glossary_id)
    terms = sent.terms
    if merged:
        before = (await store.get(old.id)).terms
        terms = await asyncio.to_thread(_merged, before, sent.terms)
    return await store.replace(old.id, name, *sent.pair, terms)


def _merged(before: Sequence[Term], new: Sequence[Term]) -> tuple[Term, ...]:
    """Those of before in their places, each with its new target, then those that are new."""
    return _sound(enumerate({term.source: term for term in (*before, *new)}.values(), 1))


async def _remove(store: Glossaries, members: Iterable[Stored]) -> None:
    for member in members:
        await store.remove(member.id)


# ---------------------------------------------------------------------------------------------------------------------
# what is sent


async def _all_sent(dictionaries: Sequence[dict[str, Any]]) -> list[_Sent]:
    fields = [deepl_fields.read(each, DictionaryFields) for each in dictionaries]
    sent = await asyncio.to_thread(lambda: [_sent(each) for each in fields])
    for pair, times in Counter(each.pair for each in sent).items():
        if times > 1:
            source, target = (LANGUAGES[code].english for code in pair)
            raise InvalidRequest(f"There are {times} dictionaries from {source} to {target}; send one.")
    return sent


def _sent(fields: DictionaryFields) -> _Sent:
    source, target = _pair(fields)
    rows = _csv_rows(fields.entries) if fields.entries_format == "csv" else _tsv_rows(fields.entries)
    terms: list[tuple[int, Term]] = []
    for number, cells in rows:
        if len(cells) not in ((2, 4) if fields.entries_format == "csv" else (2,)) or not cells[1].strip():
            raise InvalidRequest(f"Row {number:,} of entries is not a term and its translation; mend or remove it.")
        terms.append((number, Term(cells[0].strip(), cells[1].strip())))
    if not terms:
        raise EmptyGlossary("The glossary has no term that can be used; send at least one.")
    return _Sent(source, target, _sound(terms))


def _sound(rows: Iterable[tuple[int, Term]]) -> tuple[Term, ...]:
    """Terms that differ in letter case only count in theirs, as DeepL's do. Raises what is wrong with the first bad
    row."""
    found = list(rows)
    spellings = Counter(term.source.casefold() for _, term in found)
    terms, problems = sound(
        (number, replace(term, case=term.case or spellings[term.source.casefold()] > 1)) for number, term in found
    )
    if problems:
        raise InvalidRequest(f"Row {problems[0].row:,} of entries cannot be used: {problems[0].message}")
    return terms


def _tsv_rows(entries: str) -> Iterable[tuple[int, list[str]]]:
    lines = enumerate(entries.replace("\r\n", "\n").split("\n"), 1)
    return ((number, line.split("\t")) for number, line in lines if line.strip())


def _csv_rows(entries: str) -> Iterable[tuple[int, list[str]]]:
    try:
        yield from ((number, cells) for number, cells in enumerate(csv.reader(io.StringIO(entries)), 1) if any(cells))
    except csv.Error as error:
        raise InvalidRequest("entries is not CSV; put quotation marks around words with commas.") from error


def _pair(fields: PairFields) -> tuple[str, str]:
    source = deepl_fields.language("source_lang", fields.source_lang, LANGUAGES)
    target = deepl_fields.language("target_lang", fields.target_lang, LANGUAGES)
    if source == target:
        name = LANGUAGES[source].english
        raise SameLanguage(f"Source and target are both {name} ({source}); choose two different languages.")
    return source, target


# ---------------------------------------------------------------------------------------------------------------------
# what is answered


def _tsv(terms: Sequence[Term]) -> str:
    return "\n".join(f"{term.source}\t{term.target or term.source}" for term in terms)


def _created(stored: Stored) -> str:
    return datetime.fromtimestamp(stored.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _codes(stored: Stored) -> JsonObject:
    return {"source_lang": stored.source_lang.lower(), "target_lang": stored.target_lang.lower()}


def _dictionary(stored: Stored) -> JsonObject:
    return {**_codes(stored), "entry_count": stored.term_count}


def _answer_of_one(stored: Stored) -> JsonObject:
    return {
        "glossary_id": stored.group_id,
        "name": stored.name,
        "ready": True,
        **_dictionary(stored),
        "creation_time": _created(stored),
    }


def _answer(members: Sequence[Stored]) -> JsonObject:
    return {
        "glossary_id": members[0].group_id,
        "name": members[0].name,
        "creation_time": _created(members[0]),
        "dictionaries": [_dictionary(member) for member in members],
    }
