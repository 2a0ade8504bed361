"""What DeepL's clients ask with: languages as DeepL calls them, the options of a translation, and what becomes of them
here. Knows no answers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field

from engine import prompts
from engine.errors import InvalidRequest, NotSupported, UnknownLanguage
from engine.languages import LANGUAGES, resolve_any
from engine.server import incoming, questions
from engine.server.questions import GlossaryMismatch, JsonObject
from engine.termbase.store import Glossaries
from engine.types import ModelInfo, Style, Term

MAX_TEXTS = 50  # in one request, as DeepL has it
MAX_GLOSSARIES = 5  # of one request, as DeepL has it
MOST_WORDS = 1_000  # that a list is parted into, more than any may have
DETECTED_NOTHING = "EN"  # what a text without words is said to be in: clients want a language

# Targets that DeepL parts and HY-MT does not, by their codes.
_VARIANTS = {
    "en": {"EN-GB": "English (British)", "EN-US": "English (American)"},
    "pt": {"PT-BR": "Portuguese (Brazilian)", "PT-PT": "Portuguese (European)"},
    "zh": {"ZH": "Chinese (simplified)", "ZH-HANS": "Chinese (simplified)"},
    "zh-Hant": {"ZH-HANT": "Chinese (traditional)"},
}
_WITH_FORMALITY = frozenset({"de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru"})  # as DeepL has it
_OTHERS = ("custom_instructions", "style_id", "translation_memory_id", "translation_memory_threshold")
_LISTS = ("glossary_ids", "ignore_tags", "splitting_tags", "non_splitting_tags")

Tag = Annotated[str, Field(min_length=1, max_length=200)]
AnyFields = TypeVar("AnyFields", bound=BaseModel)
Formality = Literal["default", "more", "less", "prefer_more", "prefer_less"]


class Options(BaseModel):
    """Of a text as of a document. A description ends the sentence 'the field must be …' in an error."""

    target_lang: str = Field(description="the code of a language, such as de")
    source_lang: str = Field(default="", description="the code of a language, such as de, or left out")
    formality: Formality = Field(default="default", description="default, more, less, prefer_more or prefer_less")
    glossary_id: str = Field(default="", description="a string: the id of a stored glossary")
    glossary_ids: list[str] = Field(
        default_factory=list, max_length=MAX_GLOSSARIES, description=f"a list of at most {MAX_GLOSSARIES} ids"
    )


class TextOptions(Options):
    text: list[str] = Field(min_length=1, max_length=MAX_TEXTS, description=f"a list of 1 to {MAX_TEXTS} strings")
    context: str = Field(default="", description="a string: what the text is about, or what stands before it")
    split_sentences: Literal["0", "1", "nonewlines"] = Field(default="1", description="0, 1 or nonewlines")
    preserve_formatting: bool = Field(default=False, description="true or false")
    tag_handling: Literal["", "xml", "html"] = Field(default="", description="xml or html")
    tag_handling_version: Literal["", "v1", "v2"] = Field(default="", description="v1 or v2")
    outline_detection: bool = Field(default=True, description="true or false")
    ignore_tags: list[Tag] = Field(default_factory=list, max_length=100, description="a list of names of tags")
    splitting_tags: list[Tag] = Field(default_factory=list, max_length=100, description="a list of names of tags")
    non_splitting_tags: list[Tag] = Field(default_factory=list, max_length=100, description="a list of names of tags")
    model_type: Literal["", "latency_optimized", "quality_optimized", "prefer_quality_optimized"] = Field(
        default="", description="latency_optimized, quality_optimized or prefer_quality_optimized"
    )


class DocumentOptions(Options):
    filename: str = Field(default="", description="a string: the name of the file, with its ending")
    output_format: str = Field(default="", description="a string: the ending of the file")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of a translation, in our words. `source` None: whatever the text is in."""

    source: str | None
    target: str
    style: Style
    terms: tuple[Term, ...]


class Usage:
    """Characters that were asked for since the server started, as DeepL would bill them."""

    def __init__(self) -> None:
        self.characters = 0


async def asked(request: Request) -> JsonObject:
    """All fields of the address and of the body, which is JSON or a form: also of a GET, where clients send one."""
    fields = questions.read_form(request.query_params.multi_items())
    said = await incoming.read(request) if await request.body() else {}
    if not isinstance(said, dict):
        raise InvalidRequest(
            'The request must be one JSON object, such as {"text": ["Hallo"], "target_lang": "EN-US"}.'
        )
    return {**fields, **{name: value for name, value in said.items() if value is not None}}


def read(data: JsonObject, model: type[AnyFields]) -> AnyFields:
    """Raises `InvalidRequest` for what has another form than DeepL's, `NotSupported` for what Yiwen cannot do. Fields
    that nobody knows are passed over, as DeepL does."""
    for name in _OTHERS:
        if data.get(name):
            raise NotSupported(f"{name} is an option of DeepL's that Yiwen does not have; leave it out.")
    return questions.read_fields(_as_deepl_has_it(data, model), model, strict=False)


def _as_deepl_has_it(data: Mapping[str, Any], model: type[BaseModel]) -> JsonObject:
    """Only what the model knows. Lists may come as words parted by commas, one text without its list, and numbers and
    words in any case."""
    fields = {name: value for name, value in data.items() if name in model.model_fields}
    for name in _LISTS:
        if isinstance(value := fields.get(name), str):
            fields[name] = [word.strip() for word in value.split(",", MOST_WORDS) if word.strip()]
    if isinstance(fields.get("text"), str):
        fields["text"] = [fields["text"]]
    if isinstance(fields.get("split_sentences"), int):  # a bool is one too
        fields["split_sentences"] = str(int(fields["split_sentences"]))
    for name in ("formality", "tag_handling", "tag_handling_version", "split_sentences", "model_type"):
        if isinstance(value := fields.get(name), str):
            fields[name] = value.lower()
    return fields


async def choice(options: Options, model: ModelInfo, glossaries: Glossaries) -> Choice:
    """Raises `UnknownLanguage`, `NotSupported`, and what is wrong with a glossary."""
    target = language("target_lang", options.target_lang, model.languages)
    named = options.source_lang.lower() not in ("", questions.AUTO)  # DeepL knows no auto, but some of its clients do
    source = language("source_lang", options.source_lang, model.languages) if named else None
    style = _style(options.formality, model, target)
    ids = [*([options.glossary_id] if options.glossary_id else []), *options.glossary_ids]
    if ids and source is None:
        raise InvalidRequest("source_lang is missing; a glossary needs it.")
    found = [await _terms(each, source, target, glossaries) for each in ids if source]
    # of one glossary the very same tuple, which is not looked at twice
    return Choice(
        source, target, style, found[0] if len(found) == 1 else tuple(term for each in found for term in each)
    )


def language(field: str, said: str, known: Iterable[str]) -> str:
    """Our code. Raises `UnknownLanguage` for one that is not among the `known`."""
    known = tuple(known)
    ours = resolve_any(said)
    if ours is None or ours not in known:
        codes = ", ".join(map(code_of, known))
        raise UnknownLanguage(f"{field} {said[:40]!r} is not supported by this model; choose one of: {codes}.")
    return ours


def code_of(ours: str) -> str:
    """As DeepL writes it."""
    return ours.upper() if ours in LANGUAGES else DETECTED_NOTHING


def names_of_source(ours: str) -> tuple[str, str]:
    """Its code and its name."""
    return code_of(ours), LANGUAGES[ours].english


def names_of_target(ours: str) -> Mapping[str, str]:
    """The names of its variants by their codes; of most languages there is one."""
    return _VARIANTS.get(ours, {code_of(ours): LANGUAGES[ours].english})


def has_formality(model: ModelInfo, target: str) -> bool:
    return model.family in prompts.STYLED and target in _WITH_FORMALITY


def _style(formality: Formality, model: ModelInfo, target: str) -> Style:
    wanted: Style = "" if formality == "default" else "formal" if formality.endswith("more") else "informal"
    if not wanted or has_formality(model, target):
        return wanted
    if formality.startswith("prefer_"):
        return ""
    raise NotSupported(
        f"formality {formality!r} is not supported by this model for target_lang {code_of(target)}; send "
        f"prefer_{formality}, or leave it out."
    )


async def _terms(glossary_id: str, source: str, target: str, glossaries: Glossaries) -> tuple[Term, ...]:
    """Those of a glossary's dictionary for these languages, or where there is none for those without variants."""
    for pair in ((source, target), (_base(source), _base(target))):
        stored = await glossaries.for_pair(glossary_id, *pair)
        if (stored.source_lang, stored.target_lang) == pair:
            return stored.terms
    raise GlossaryMismatch(
        f"The glossary {stored.name!r} has no terms from {LANGUAGES[source].english} to {LANGUAGES[target].english}; "
        "choose another, or leave it out."
    )


def _base(ours: str) -> str:
    """DeepL's glossaries know no variants, and its clients take the script off a code."""
    return "zh" if ours == "zh-Hant" else ours
