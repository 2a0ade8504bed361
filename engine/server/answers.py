"""What is answered: the messages of a run, answers, and what /openapi.json says of them. Knows no transport."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, assert_never

from pydantic import BaseModel, Field

from engine.languages import Language
from engine.server.errors import describe
from engine.server.questions import JsonObject, TermFields
from engine.types import (
    Finished,
    Queued,
    SegmentDone,
    Started,
    TermResult,
    TextDelta,
    TextReplaced,
    TranslationEvent,
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
