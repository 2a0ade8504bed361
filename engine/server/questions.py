"""What is asked: the fields of requests, and how they become the values of the engine. Knows no transport."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from engine.errors import InvalidRequest, RequestError
from engine.languages import LANGUAGES, resolve_any
from engine.termbase.entries import MAX_NOTE_CHARACTERS, MAX_TERM_CHARACTERS
from engine.termbase.entries import MAX_TERMS as MAX_STORED_TERMS
from engine.termbase.store import Glossaries, Stored
from engine.types import Format, Sampling, Term, TranslationRequest

MAX_TEXTS = 256  # in one list; each is a request of its own to the scheduler
MAX_TERMS = 10_000  # in the glossary of one request
MAX_ALTERNATIVES = 5
MAX_NAME_CHARACTERS = 150  # of a glossary
AUTO = "auto"

JsonObject = dict[str, Any]
AnyFields = TypeVar("AnyFields", bound=BaseModel)
SOME_TEXT: JsonObject = {"type": "string", "minLength": 1}
_SomeText = Annotated[str, WithJsonSchema(SOME_TEXT)]  # the translator says what is wrong with an empty one
Word = Annotated[str, Field(max_length=MAX_TERM_CHARACTERS)]


def _one_of(*values: str) -> JsonObject:
    """For /openapi.json alone: other names of a language, such as zh-CN, are taken too."""
    return {"enum": [*values]}


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
    seed: int | None = Field(  # as large as every reader of JSON can tell it from the next
        default=None, ge=0, le=2**53 - 1, description="a whole number from 0 to 2^53 - 1"
    )


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

    target_lang: str = Field(
        description="the code of a language, such as en", examples=["en"], json_schema_extra=_one_of(*LANGUAGES)
    )
    source_lang: str = Field(
        default=AUTO,
        description="the code of a language, such as zh, or auto",
        json_schema_extra=_one_of(AUTO, "", *LANGUAGES),
    )
    source_hint: str = Field(
        default="",
        description="the code of the language to take where detection is unsure",
        json_schema_extra=_one_of("", *LANGUAGES),
    )
    context: str = Field(default="", description="a string: what the text is about, or what stands before it")
    context_mode: bool = Field(default=True, description="true or false: show the model the text before each segment")
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
            ],
            "not": {  # a stream carries one text
                "required": ["stream"],
                "properties": {"stream": {"const": True}, "text": {"type": "array"}},
            },
        },
    )

    text: _SomeText | Annotated[list[_SomeText], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description=f"a string, or a list of 1 to {MAX_TEXTS} strings"
    )
    format: Format = Field(default="auto", description="text, html, markdown, xml, or auto: decided by the text")
    stream: bool = Field(default=False, description="true or false")


class PromptFields(TranslateFields):
    """What is asked about one segment of a text."""

    segment: int = Field(default=0, ge=0, description="a whole number: which segment of the text, from 0")


class AlternativesFields(PromptFields):
    count: int = Field(default=3, ge=1, le=MAX_ALTERNATIVES, description=f"a whole number from 1 to {MAX_ALTERNATIVES}")
    without: str = Field(default="", description="a string: the translation there is, which is not wanted again")


class RenderFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "# 混元", "format": "markdown"}]}
    )

    text: str = Field(description="a string")
    format: Format = Field(default="auto", description="text, html, markdown, xml, or auto: decided by the text")


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
            ],
            "oneOf": [  # null is as if it were not there
                {"required": ["terms"], "properties": {"terms": {"type": "array", "minItems": 1}}},
                {
                    "required": ["glossary"],
                    "properties": {"glossary": {"type": ["object", "array"], "minItems": 1, "minProperties": 1}},
                },
            ],
        },
    )

    name: str = Field(
        min_length=1, max_length=MAX_NAME_CHARACTERS, description=f"a string of 1 to {MAX_NAME_CHARACTERS} characters"
    )
    source_lang: str = Field(
        description="the code of a language, such as zh", examples=["de"], json_schema_extra=_one_of(*LANGUAGES)
    )
    target_lang: str = Field(
        description="the code of a language, such as en", examples=["en"], json_schema_extra=_one_of(*LANGUAGES)
    )
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
    source_lang: str = Field(
        default="",
        description="the code of a language; empty: as the file says",
        json_schema_extra=_one_of("", *LANGUAGES),
    )
    target_lang: str = Field(
        default="",
        description="the code of a language; empty: as the file says",
        json_schema_extra=_one_of("", *LANGUAGES),
    )


class DetectFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "混元很有用。"}]})

    text: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description=f"a string, or a list of 1 to {MAX_TEXTS} strings"
    )


def body_schema(path: str, model: type[BaseModel], *, one_text: bool = False, required: bool = True) -> JsonObject:
    """What /openapi.json says of the JSON body at `path`, whose parts point at where they will stand there. `one_text`:
    where a list of texts is refused."""
    schema = json_schema(path, model)
    if one_text:
        schema["properties"]["text"] = SOME_TEXT | {"description": "a string"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def json_schema(path: str, model: type[BaseModel]) -> JsonObject:
    """Of what is read by `read_fields`: what may be left out may be null."""
    place = path.replace("~", "~0").replace("/", "~1")
    template = f"#/paths/{place}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    schema = model.model_json_schema(ref_template=template)
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, field in part.get("properties", {}).items():
            if name not in part.get("required", ()):
                said = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
                part["properties"][name] = said | {"anyOf": [field, {"type": "null"}]}
    return schema


def _number(said: str) -> float:
    """To JSON 40.0 is a whole number."""
    number = float(said)
    return int(number) if number.is_integer() else number


_DECODER = json.JSONDecoder(parse_float=_number)  # to make one takes as long as to read a short question


def read_json(text: str | bytes) -> object:
    try:
        said = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        value: object = _DECODER.decode(said)
        return value
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BrokenJson(f"This is not JSON{where}; send one JSON object in UTF-8.") from error


class FormFields(JsonObject):
    """Of a form, in which all is text: `true`, `0.7`. JSON has kinds of its own, which are kept to."""


def read_form(form: Sequence[tuple[str, object]]) -> FormFields:
    """The fields of a form as JSON would have them: objects are written as JSON text, several texts make a list."""
    fields = FormFields(form)
    for name in ("text", "exclude"):
        if len(several := [value for given, value in form if given == name]) > 1:
            fields[name] = several
    for name in ("glossary", "sampling"):
        if isinstance(fields.get(name), str):
            fields[name] = read_json(fields[name] or "{}")
    if isinstance(exclude := fields.get("exclude"), str):
        said = exclude.strip()
        fields["exclude"] = read_json(said) if said.startswith("[") else [one.strip() for one in said.split(",") if one]
    return fields


def read_fields(data: object, model: type[AnyFields], max_terms: int = MAX_TERMS, *, strict: bool = True) -> AnyFields:
    """Raises `InvalidRequest` with one sentence, the first thing that is off. Not `strict`: as a form, since clients
    of other services send what those take."""
    if not isinstance(data, dict):
        raise InvalidRequest('The request must be one JSON object, such as {"text": "你好", "target_lang": "en"}.')
    fields = _without_nulls(data)
    # These before pydantic's turn: it would list every one of a million small mistakes, which takes it ten seconds.
    # An unknown name goes first also since it is often the misspelt form of one that is missing.
    _refuse_unknown(data, model)
    if isinstance(sampling := fields.get("sampling"), dict):
        _refuse_unknown(sampling, SamplingFields)
    for name in ("glossary", "terms"):
        if isinstance(terms := fields.get(name), dict | list):
            if len(terms) > max_terms:
                raise InvalidRequest(_must_be(model, name))
            for term in terms if isinstance(terms, list) else ():
                if isinstance(term, dict):
                    _refuse_unknown(term, TermFields)
            if isinstance(terms, list):
                fields[name] = [_without_nulls(term) for term in terms]
    try:
        return model.model_validate(fields, strict=strict and not isinstance(data, FormFields))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        problem = next((one for one in problems if _place_in_list(one["loc"])), problems[0])
        raise InvalidRequest(_must_be(model, *problem["loc"], missing=problem["type"] == "missing")) from error


async def to_request(fields: Fields, text: str, request_id: str, glossaries: Glossaries) -> TranslationRequest:
    """`text` is that of `fields` or one of them, or empty where it is in a document.

    Raises `NoSuchGlossary`, and `GlossaryMismatch` for one of another pair of languages.
    """
    glossary = to_terms(fields.glossary)
    if fields.glossary_id:
        source = _named(fields.source_lang)
        named = resolve_any(source) if source else None
        stored = await glossaries.for_pair(fields.glossary_id, named, resolve_any(fields.target_lang) or "")
        _refuse_other_pair(stored, source, fields.target_lang)
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
        sampling=Sampling(**vars(fields.sampling)),
        id=request_id,
    )


def to_terms(glossary: Mapping[str, str] | Sequence[TermFields]) -> tuple[Term, ...]:
    if isinstance(glossary, Mapping):
        return tuple(Term(source, target) for source, target in glossary.items())
    return tuple(Term(term.source, term.target, term.case, term.note) for term in glossary)


def glossary_name(said: str) -> str:
    """Without controls, marks that turn the writing round, and halves of characters."""
    name = "".join(character for character in said if unicodedata.category(character)[0] != "C").strip()
    if not name:
        raise InvalidRequest("name must have a letter or another character that can be seen.")
    return name


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


def _without_nulls(value: Any) -> Any:
    """An object without what is unset: typed clients say null for that."""
    return {name: inside for name, inside in value.items() if inside is not None} if isinstance(value, dict) else value


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
    elif place := _place_in_list(inside):
        return f"{field}{place} {'is missing' if missing else 'does not fit'}; {field} must be {description}."
    return f"{field} {'is missing; it must be' if missing else 'must be'} {description}."


def _place_in_list(location: Sequence[int | str]) -> str:
    """Of what pydantic says is off in a list, such as `[3].target`; else empty. What stands before is a type's name."""
    at = next((at for at, part in enumerate(location) if isinstance(part, int)), None)
    return "" if at is None else f"[{location[at]}]" + "".join(f".{part}" for part in location[at + 1 :])
