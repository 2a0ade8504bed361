"""What goes over the wire: the fields of a request, the messages of a run, the answer. Knows no transport."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, assert_never

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import InvalidRequest, RequestError
from engine.languages import LANGUAGES, Language, resolve_any
from engine.server.errors import describe
from engine.termbase.entries import MAX_NOTE_CHARACTERS, MAX_TERM_CHARACTERS
from engine.termbase.entries import MAX_TERMS as MAX_STORED_TERMS
from engine.termbase.store import Glossaries, Stored
from engine.types import (
    Finished,
    Format,
    Queued,
    Sampling,
    SegmentDone,
    Started,
    Term,
    TermResult,
    TextDelta,
    TextReplaced,
    TranslationEvent,
    TranslationRequest,
)

MAX_TEXTS = 256  # in one list; each is a request of its own to the scheduler
MAX_TERMS = 10_000  # in the glossary of one request
MAX_NAME_CHARACTERS = 150  # of a glossary
AUTO = "auto"

JsonObject = dict[str, Any]
AnyFields = TypeVar("AnyFields", bound=BaseModel)
Word = Annotated[str, Field(max_length=MAX_TERM_CHARACTERS)]


class BrokenJson(RequestError):
    code = "broken_json"


class GlossaryMismatch(RequestError):
    code = "glossary_mismatch"


class SamplingFields(BaseModel):
    """How tokens are chosen. A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    temperature: float | None = Field(
        default=None, ge=0, le=2, description="a number from 0 (always the likeliest) to 2"
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="a number above 0, at most 1")
    top_k: int | None = Field(default=None, ge=0, le=1000, description="a whole number from 0 (no limit) to 1000")
    repetition_penalty: float | None = Field(default=None, gt=0, le=2, description="a number above 0, at most 2")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")


class TermFields(BaseModel):
    """A term of a glossary that is to be stored; what is wrong with it is told by its row."""

    model_config = ConfigDict(extra="forbid")

    source: str
    target: str = Field(default="", description="empty: the source is to be kept as it is")
    case: bool = Field(default=False, description="whether it is meant in this letter case only")
    note: str = Field(default="", description="for people; no model sees it")


class InlineTermFields(TermFields):
    """A term of a request's own glossary."""

    source: Word = Field(min_length=1)
    target: Word = Field(default="", description="empty: the source is to be kept as it is")
    note: str = Field(default="", max_length=MAX_NOTE_CHARACTERS, description="for people; no model sees it")


class Fields(BaseModel):
    """What every translation may be asked with. A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid")

    target_lang: str = Field(description="the code of a language, such as en", examples=["en"])
    source_lang: str = Field(default=AUTO, description="the code of a language, such as zh, or auto")
    source_hint: str = Field(default="", description="the code of the language to take where detection is unsure")
    context: str = Field(default="", description="a string: what the text is about, or what stands before it")
    context_mode: bool = Field(default=False, description="true or false: show the model the text before each segment")
    glossary: dict[Word, Word] | list[InlineTermFields] = Field(
        default_factory=dict,
        description=f"an object {{source: target}} of at most {MAX_TERMS:,} strings, none with more than "
        f"{MAX_TERM_CHARACTERS} characters, or a list of as many objects {{source, target, case, note}}",
    )
    glossary_id: str = Field(default="", description="the id of a stored glossary, whose terms come after these")
    sampling: SamplingFields = Field(default_factory=SamplingFields, description="an object")


class DocumentFields(Fields):
    """What comes with a file, as the fields of the same form."""

    exclude: list[Word] = Field(
        default_factory=list, max_length=MAX_TEXTS, description="a list of JSON keys, or of paths such as pages.*.slug"
    )
    retranslate: bool = Field(default=False, description="true or false: PO and XLIFF, what is translated already too")


class TranslateFields(Fields):
    """What REST and WebSocket are asked with."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "混元很有用。", "target_lang": "en"},
                {
                    "text": "混元很有用。",
                    "source_lang": "zh",
                    "target_lang": "en",
                    "context": "一篇关于语言模型的文章。",
                    "glossary": {"混元": "HunYuan"},
                    "sampling": {"temperature": 0.7, "seed": 1},
                },
            ]
        },
    )

    text: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description=f"a string, or a list of 1 to {MAX_TEXTS} strings"
    )
    format: Format = Field(default="auto", description="text, html, markdown, or auto: decided by the text")
    stream: bool = Field(default=False, description="true or false")


class GlossaryFields(BaseModel):
    """A glossary that is to be stored. A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "Trams",
                    "source_lang": "de",
                    "target_lang": "en",
                    "terms": [{"source": "Fahrleitung", "target": "overhead line"}, {"source": "Variobahn"}],
                },
            ]
        },
    )

    name: str = Field(
        min_length=1, max_length=MAX_NAME_CHARACTERS, description=f"a string of 1 to {MAX_NAME_CHARACTERS} characters"
    )
    source_lang: str = Field(description="the code of a language, such as zh", examples=["de"])
    target_lang: str = Field(description="the code of a language, such as en", examples=["en"])
    glossary: dict[str, str] | list[TermFields] | None = Field(
        default=None, description=f"an object {{source: target}} of at most {MAX_STORED_TERMS:,} strings, or as terms"
    )
    terms: list[TermFields] | None = Field(
        default=None, description=f"a list of at most {MAX_STORED_TERMS:,} objects {{source, target, case, note}}"
    )


class GlossaryFileFields(BaseModel):
    """What comes with a glossary's file, as the fields of the same form."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        default="",
        max_length=MAX_NAME_CHARACTERS,
        description=f"a string of at most {MAX_NAME_CHARACTERS} characters; empty: the file's name",
    )
    source_lang: str = Field(default="", description="the code of a language; empty: as the file says")
    target_lang: str = Field(default="", description="the code of a language; empty: as the file says")


class DetectFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "混元很有用。"}]})

    text: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description=f"a string, or a list of 1 to {MAX_TEXTS} strings"
    )


class Guess(BaseModel):
    lang: str
    score: float = Field(description="a probability, 0 to 1")


class TermAnswer(BaseModel):
    source: str
    target: str
    count: int = Field(description="how often the source occurs")
    applied: int = Field(description="in how many of those places the target was found")
    places: list[tuple[int, int]] | None = Field(
        default=None,
        description="where in the translation, as [start, end] in characters (Unicode code points); "
        "not there for a list of texts or a document",
    )


class WarningAnswer(BaseModel):
    code: str
    message: str
    segment: int | None
    text: int | None = Field(default=None, description="which of a list of texts; not there for one text")


class Usage(BaseModel):
    segments: int
    input_tokens: int
    output_tokens: int
    seconds: float


class TranslateAnswer(BaseModel):
    """For a list of texts, `translation`, `detected_source_lang` and `detection` are lists in the same order."""

    translation: str | list[str]
    detected_source_lang: str | list[str]
    detection: list[Guess] | list[list[Guess]] = Field(description="likeliest first; empty when the source was named")
    terms: list[TermAnswer]
    warnings: list[WarningAnswer]
    usage: Usage
    model: str


class DocumentAnswer(BaseModel):
    """How far a document is; what the answer of a text has too is there once it is done."""

    id: str
    name: str
    status: Literal["queued", "translating", "done", "error"]
    segments_done: int
    segments_total: int | None = Field(description="null until it has been cut into segments")
    target_lang: str
    detected_source_lang: str | None = None
    detection: list[Guess] | None = None
    result_name: str | None = None
    terms: list[TermAnswer] | None = None
    warnings: list[WarningAnswer] | None = None
    usage: Usage | None = None
    model: str | None = None
    error: str | None = Field(default=None, description="a sentence, where the status is error")
    code: str | None = None


class GlossaryAnswer(BaseModel):
    id: str = Field(examples=["0b7b8a3e-6a5c-4b0e-9a53-0d7c4f3f5f0a"])
    name: str
    source_lang: str
    target_lang: str
    term_count: int
    created: int = Field(description="seconds since 1970")


class ProblemAnswer(BaseModel):
    row: int = Field(description="of the file or the list, from 1; 0 for the whole")
    code: str
    message: str


class StoredAnswer(GlossaryAnswer):
    problems: list[ProblemAnswer] = Field(description="what was left out, and what was taken with doubts")


class WholeGlossaryAnswer(GlossaryAnswer):
    terms: list[TermFields]


class DetectAnswer(BaseModel):
    """For a list of texts both are lists in the same order."""

    detection: list[Guess] | list[list[Guess]] = Field(description="likeliest first; empty for a text without letters")
    certain: bool | list[bool] = Field(description="false: better ask the user")


class ErrorAnswer(BaseModel):
    error: str = Field(examples=["This model does not speak 'xx'; choose one of: zh, en, fr."])
    code: str = Field(examples=["unknown_language"])


class LanguageAnswer(BaseModel):
    code: str = Field(examples=["zh-Hant"])
    name: str = Field(examples=["Traditional Chinese"])
    name_zh: str = Field(examples=["繁体中文"])
    name_own: str = Field(examples=["繁體中文"])
    direction: Literal["ltr", "rtl"]
    script: str = Field(examples=["Hant"])


def refusals(by_status: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """What /openapi.json says of the errors of an address."""
    return {status: {"model": ErrorAnswer, "description": description} for status, description in by_status.items()}


def read_json(text: str | bytes) -> object:
    try:
        value: object = json.loads(text)
        return value
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BrokenJson(f"This is not JSON{where}; send one JSON object in UTF-8.") from error


def read_form(form: Sequence[tuple[str, object]]) -> JsonObject:
    """The fields of a form as JSON would have them: objects are written as JSON text, several texts make a list."""
    fields: JsonObject = dict(form)
    texts = [value for name, value in form if name == "text"]
    if len(texts) > 1:
        fields["text"] = texts
    for name in ("glossary", "sampling"):
        if isinstance(fields.get(name), str):
            fields[name] = read_json(fields[name] or "{}")
    if isinstance(exclude := fields.get("exclude"), str):
        said = exclude.strip()
        fields["exclude"] = read_json(said) if said.startswith("[") else [one.strip() for one in said.split(",") if one]
    return fields


def read_fields(data: object, model: type[AnyFields], max_terms: int = MAX_TERMS) -> AnyFields:
    """Raises `InvalidRequest` with one sentence, the first thing that is off."""
    if not isinstance(data, dict):
        raise InvalidRequest('The request must be one JSON object, such as {"text": "你好", "target_lang": "en"}.')
    fields = {name: value for name, value in data.items() if value is not None}  # typed clients say null for unset
    # These before pydantic's turn: it would list every one of a million small mistakes, which takes it ten seconds.
    # An unknown name goes first also since it is often the misspelt form of one that is missing.
    _refuse_unknown(fields, model)
    if isinstance(sampling := fields.get("sampling"), dict):
        _refuse_unknown(sampling, SamplingFields)
    for name in ("glossary", "terms"):
        if isinstance(terms := fields.get(name), dict | list):
            if len(terms) > max_terms:
                raise InvalidRequest(_must_be(model, name))
            for term in terms if isinstance(terms, list) else ():
                if isinstance(term, dict):
                    _refuse_unknown(term, TermFields)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        raise InvalidRequest(_must_be(model, *problem["loc"], missing=problem["type"] == "missing")) from error


async def to_request(fields: Fields, text: str, request_id: str, glossaries: Glossaries) -> TranslationRequest:
    """`text` is that of `fields` or one of them, or empty where it is in a document.

    Raises `NoSuchGlossary`, and `GlossaryMismatch` for one of another pair of languages.
    """
    glossary = to_terms(fields.glossary)
    if fields.glossary_id:
        stored = await glossaries.get(fields.glossary_id)
        _refuse_other_pair(stored, _named(fields.source_lang), fields.target_lang)
        glossary += stored.terms  # after those of the request: of two with one source the first counts
    return TranslationRequest(
        text=text,
        target=fields.target_lang,
        source=_named(fields.source_lang),
        likely=_named(fields.source_hint),
        format=fields.format if isinstance(fields, TranslateFields) else "auto",
        glossary=glossary,
        context=fields.context,
        context_mode=fields.context_mode,
        sampling=Sampling(**fields.sampling.model_dump()),
        id=request_id,
    )


def to_terms(glossary: Mapping[str, str] | Sequence[TermFields]) -> tuple[Term, ...]:
    if isinstance(glossary, Mapping):
        return tuple(Term(source, target) for source, target in glossary.items())
    return tuple(Term(term.source, term.target, term.case, term.note) for term in glossary)


def _named(code: str) -> str | None:
    """None where it is left to us."""
    return None if code.strip().casefold() in ("", AUTO) else code


def _refuse_other_pair(stored: Stored, source: str | None, target: str) -> None:
    """Codes that nobody knows are left to the translator, which lists those it knows."""
    ours, theirs = resolve_any(target), source and resolve_any(source)
    if ours and (ours != stored.target_lang or (theirs and theirs != stored.source_lang)):
        asked = f"from {LANGUAGES[theirs].english} " if theirs else ""
        raise GlossaryMismatch(
            f"The glossary {stored.name!r} is from {LANGUAGES[stored.source_lang].english} to "
            f"{LANGUAGES[stored.target_lang].english}, and the request {asked}to {LANGUAGES[ours].english}; "
            "choose one of the same two languages."
        )


def to_json(message: JsonObject) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def event_message(run_id: str, event: TranslationEvent) -> JsonObject:
    match event:
        case Queued():
            return {"type": "queued", "id": run_id, "ahead": event.ahead}
        case Started():
            return {
                "type": "started",
                "id": run_id,
                "segments": event.segments,
                "detected_source_lang": event.source,
                "detection": [asdict(guess) for guess in event.detection],
            }
        case TextDelta():
            return {"type": "delta", "id": run_id, "segment": event.segment, "text": event.text}
        case TextReplaced():
            return {"type": "replace", "id": run_id, "segment": event.segment, "text": event.text}
        case SegmentDone():
            return {"type": "segment", "id": run_id, **asdict(event)}
        case Finished():
            return {"type": "done", "id": run_id, **answer(event)}
        case _:
            assert_never(event)


def error_message(run_id: str | None, error: Exception) -> JsonObject:
    return {"type": "error", "id": run_id, **describe(error)}


def answer(finished: Finished) -> JsonObject:
    return {
        "translation": finished.text,
        "detected_source_lang": finished.source,
        "detection": [asdict(guess) for guess in finished.detection],
        "terms": [{**counts(term), "places": term.places} for term in finished.terms],
        "warnings": [asdict(warning) for warning in finished.warnings],
        "usage": {
            "segments": finished.segments,
            "input_tokens": finished.input_tokens,
            "output_tokens": finished.output_tokens,
            "seconds": round(finished.seconds, 3),
        },
        "model": finished.model,
    }


def counts(term: TermResult) -> JsonObject:
    """A term's result where there is no one translation that it could have places in."""
    return {"source": term.source, "target": term.target, "count": term.count, "applied": term.applied}


def answer_for_list(finished: Sequence[Finished]) -> JsonObject:
    """One answer of many: `terms` are summed and have no places, `warnings` say which text, `seconds` is the slowest,
    since all ran at once."""
    answers = [answer(one) for one in finished]
    found: Counter[tuple[str, str]] = Counter()
    applied: Counter[tuple[str, str]] = Counter()
    for one in finished:
        for term in one.terms:
            found[term.source, term.target] += term.count
            applied[term.source, term.target] += term.applied
    return {
        **{name: [one[name] for one in answers] for name in ("translation", "detected_source_lang", "detection")},
        "terms": [
            counts(TermResult(source, target, count, applied[source, target]))
            for (source, target), count in found.items()
        ],
        "warnings": [{**warning, "text": index} for index, one in enumerate(answers) for warning in one["warnings"]],
        "usage": {
            "segments": sum(one.segments for one in finished),
            "input_tokens": sum(one.input_tokens for one in finished),
            "output_tokens": sum(one.output_tokens for one in finished),
            "seconds": round(max(one.seconds for one in finished), 3),
        },
        "model": finished[0].model,
    }


def language_answer(language: Language) -> LanguageAnswer:
    return LanguageAnswer(
        code=language.code,
        name=language.english,
        name_zh=language.chinese,
        name_own=language.own,
        direction=language.direction,
        script=language.script,
    )


def _refuse_unknown(fields: JsonObject, model: type[BaseModel]) -> None:
    for name in fields:
        if name not in model.model_fields:
            near = get_close_matches(name[:80], model.model_fields, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InvalidRequest(f"{name[:80]!r} is not a field of a request{hint}")


def _must_be(model: type[BaseModel], field: int | str, *inside: int | str, missing: bool = False) -> str:
    description = model.model_fields[str(field)].description
    if field == "sampling" and inside:
        field, description = f"sampling.{inside[0]}", SamplingFields.model_fields[str(inside[0])].description
    return f"{field} {'is missing; it must be' if missing else 'must be'} {description}."
