"""What is answered: the messages of a run, answers, and what /openapi.json says of them. Knows no transport."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, assert_never

import orjson
from pydantic import BaseModel, Field

from engine.languages import LANGUAGES
from engine.server.errors import describe
from engine.server.questions import JsonObject, TermFields
from engine.types import (
    Finished,
    Queued,
    SegmentDone,
    ShownPrompt,
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
    source_places: list[tuple[int, int]] | None = Field(
        default=None,
        description="where in the whole source text, likewise; without those spelt otherwise there, with an entity or "
        "a tag inside",
    )


class WarningAnswer(BaseModel):
    code: str
    message: str
    segment: int | None
    text: int | None = Field(default=None, description="which of a list of texts; not there for one text")


class ChangeAnswer(BaseModel):
    """Something of the markup that is written otherwise, on purpose; all else is byte for byte that of the source."""

    code: Literal[
        "lines_joined",
        "emphasis_respelt",
        "emphasis_as_html",
        "space_added",
        "label_added",
        "quotes_added",
        "entities_written_out",
    ]
    count: int
    message: str
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
    changes: list[ChangeAnswer]
    usage: Usage
    model: str


class ShownTerm(BaseModel):
    source: str
    target: str


class PromptAnswer(BaseModel):
    """`context`, `before` and `terms` are those that the prompt shows."""

    segments: int = Field(description="how many the text has")
    segment: int
    source: str = Field(description="of the segment, as a reader reads it")
    context: str = Field(description="what is shown of the user's context")
    context_cut: int = Field(description="characters of it that are not, at its beginning")
    before: str = Field(description="the sentences before the segment")
    terms: list[ShownTerm]
    prompt: str = Field(description="word for word; empty where all of the segment is kept")
    prompt_tokens: int


class AlternativesAnswer(BaseModel):
    segment: int
    alternatives: list[str] = Field(description="each as it would stand in the document; there may be fewer than asked")


class RenderAnswer(BaseModel):
    format: Literal["text", "html", "markdown", "xml"]
    html: str = Field(description="a whole page, for a sandboxed frame")


class DocumentAnswer(BaseModel):
    """How far a document is; what the answer of a text has too is there once it is done."""

    id: str
    name: str
    kind: str = Field(examples=["docx"])
    size_bytes: int = Field(description="of the file that was sent")
    created: float = Field(description="seconds since 1970")
    status: Literal["queued", "translating", "done", "error"]
    segments_done: int
    segments_total: int | None = Field(description="null until it has been cut into segments")
    segments_warned: int = Field(description="how many have warnings")
    edited: int = Field(description="how many have a text by hand")
    tokens_per_second: float = Field(description="over the last ten seconds; 0 where it is not under way")
    seconds_left: float | None = Field(description="null where that cannot be told")
    target_lang: str
    detected_source_lang: str | None = None
    detection: list[Guess] | None = None
    result_name: str | None = None
    terms: list[TermAnswer] | None = None
    warnings: list[WarningAnswer] | None = None
    usage: Usage | None = None
    model: str | None = None
    error: str | None = Field(
        default=None, description="a sentence, where the status is error, or done and a retry of what failed has failed"
    )
    code: str | None = None


class SegmentWarning(BaseModel):
    code: str
    message: str


class SegmentAnswer(BaseModel):
    """A segment of a document; tags and placeholders are marks in its source and text."""

    index: int = Field(description="from 0")
    source: str = Field(examples=["A <s1>bold</s1> word."])
    text: str | None = Field(description="null while there is none", examples=["Un mot <s1>gras</s1>."])
    warnings: list[SegmentWarning]
    edited: bool = Field(description="whether the text is by hand")
    marks: dict[str, str] = Field(
        description="what each mark stands for, the opening of a pair", examples=[{"<s1>": "<b>"}]
    )


class SegmentsAnswer(BaseModel):
    total: int = Field(description="how many there are that were asked for, on all pages")
    segments: list[SegmentAnswer]


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


class StateAnswer(BaseModel):
    status: Literal["loading", "ready", "failed", "stopping"]
    stage: Literal["download", "weights", "prepare", "test", ""]
    done: float = Field(description="0 to 1, over all stages")
    seconds_left: float | None = Field(description="null where that cannot be told")
    reason: str = Field(description="a sentence; empty once the model is ready")


class PartsAnswer(BaseModel):
    """Bytes; together all of the device's, all but `free` those in use."""

    weights: int
    kv_used: int = Field(description="pages of the KV cache that a segment under way holds")
    kv_free: int = Field(description="the rest of what is taken for the KV cache")
    workspace: int = Field(description="activations, sampling, what is kept for the next step; on the CPU in other")
    other: int = Field(description="the rest of what this program holds; on a card also what other programs hold")
    free: int = Field(description="on the CPU: not used by this program")


class DeviceAnswer(BaseModel):
    device: str = Field(examples=["cuda:0", "cpu"])
    name: str = Field(examples=["NVIDIA L4"])
    total_bytes: int = Field(description="of the CPU: the machine's memory, or that of its control group")
    used_bytes: int = Field(description="of a card by everybody, of the CPU by this program and its workers")
    limit_bytes: int | None = Field(description="--max-vram-gb; null without it, and where the model is not")
    ours: bool = Field(description="whether the model is there")
    full: bool = Field(
        description="over 90 % in use, not counting kv_free, which is there for the next text; "
        "of the CPU over 90 % of the machine's memory, by whatever program"
    )
    parts: PartsAnswer


class ReplicaAnswer(BaseModel):
    """One of several backends that work as one."""

    name: str = Field(examples=["cuda:0", "cpu#2"], description="as the log has it; of a server elsewhere its address")
    devices: list[str] = Field(description="that it is on, as in devices; none of a server elsewhere")
    state: Literal["loading", "ready", "failed"] = Field(description="failed: it is not tried again")
    reason: str = Field(description="a sentence; empty where it is ready")
    tokens: int = Field(description="of the prompts and answers that are under way there, about")
    segments: int = Field(description="that are under way there")
    slots: int = Field(description="segments that it translates at once; 0 where it has never been there")
    total_bytes: int | None = Field(description="these three of its process on the CPU; null elsewhere: see devices")
    used_bytes: int | None
    parts: PartsAnswer | None


class GapAnswer(BaseModel):
    """On average over the last half minute."""

    most: str = Field(examples=["cuda:0"])
    least: str = Field(examples=["cuda:1"])
    share: float = Field(description="how much less the least has, of what the most has, 0 to 1")
    uneven: bool = Field(description="by more than is usual: a tenth of memory, a fourth of work")


class BalanceAnswer(BaseModel):
    memory: GapAnswer | None = Field(
        description="between the cards with the model, or else between processes on the CPU; null with fewer than two"
    )
    load: GapAnswer | None = Field(description="in tokens under way for each slot; null while nobody is full")


class PastAnswer(BaseModel):
    ago: float = Field(description="seconds")
    used_bytes: int = Field(description="of the devices where the model is")
    tokens_per_second: float


class CacheAnswer(BaseModel):
    hit_rate: float | None = Field(
        description="of the tokens of all prompts since the start, the share whose keys and values were in the cache "
        "already; null before the first prompt, and where prompts share nothing (ONNX)"
    )
    pages_used: int
    pages_free: int
    preempted: int = Field(description="segments that had to give their pages back and begin anew, since the start")


class PlanAnswer(BaseModel):
    reason: str = Field(description="why the model is loaded as it is")
    bytes: dict[str, int] = Field(description="what that was expected to take, by kind")


class SystemAnswer(BaseModel):
    """Memory as it was sampled, up to two seconds ago."""

    state: StateAnswer
    model: dict[str, Any] | None = Field(description="null while it loads, as plan is")
    provider: str | None = Field(description="who offers this to others, as --provider says")
    plan: PlanAnswer | None
    devices: list[DeviceAnswer] = Field(description="every card that this program may see, and the CPU where it serves")
    replicas: list[ReplicaAnswer] = Field(description="where several work as one; they share the devices' memory")
    total: DeviceAnswer | None = Field(description="of the cards with the model as one, where they are several")
    balance: BalanceAnswer
    warnings: list[str] = Field(description="sentences: which replicas are away while others are not, what is uneven")
    history: list[PastAnswer] = Field(description="of the last minute, one every two seconds, the oldest first")
    cache: CacheAnswer | None = Field(description="null where there is no KV cache of pages")
    scheduler: dict[str, int]
    traffic: dict[str, Any]
    memory_bytes: dict[str, int | None]
    pages: dict[str, int] | None
    versions: dict[str, str | None]


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
    targets: list[str] = Field(description="the codes of those it can be translated into", examples=[["en", "fr"]])


_LATER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}}
_HEADERS = {401: {"WWW-Authenticate": {"schema": {"type": "string"}}}, 429: _LATER}


def refusals(by_status: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """What /openapi.json says of the errors of an address."""
    return {
        status: {"model": ErrorAnswer, "description": description}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status, description in by_status.items()
    }


TEXT_ERRORS = refusals(
    {
        400: "Nothing to translate, an unknown language, the same language twice, a glossary of others, or broken JSON",
        403: "A page of another host asked",
        404: "No such glossary",
        413: "The text or the request is too long",
        415: "Neither JSON nor a form",
        422: "A field is missing, unknown or of the wrong kind",
        503: "Too busy (see Retry-After), or the model failed",
    }
)
# of a text that needs no model
READING_ERRORS: dict[int | str, dict[str, Any]] = {status: TEXT_ERRORS[status] for status in (400, 413, 415, 422)}
# of every address
EVERYWHERE = refusals(
    {
        401: "A key is needed, or this one is not known",
        403: "For a host, or from inside a page, that may not ask",
        422: "A field is missing, unknown or of the wrong kind",
        429: "This client has asked too much (see Retry-After)",
        503: "Too busy, or the model is not there yet (see Retry-After)",
    }
)
TRANSLATED: dict[str, Any] = {
    "model": TranslateAnswer,
    "content": {"text/event-stream": {}},  # where `stream` is true
    "description": "The translation; with `stream` the messages of the WebSocket, one after each `data:`",
}


def to_json(message: JsonObject) -> str:
    return orjson.dumps(message).decode()


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
        "terms": [asdict(term) for term in finished.terms],
        "warnings": [asdict(warning) for warning in finished.warnings],
        "changes": [asdict(change) for change in finished.changes],
        "usage": {
            "segments": finished.segments,
            "input_tokens": finished.input_tokens,
            "output_tokens": finished.output_tokens,
            "seconds": round(finished.seconds, 3),
        },
        "model": finished.model,
    }


def prompt_answer(shown: ShownPrompt) -> JsonObject:
    return {
        "segments": shown.segments,
        "segment": shown.segment,
        "source": shown.source,
        "context": shown.context,
        "context_cut": shown.context_cut,
        "before": shown.before,
        "terms": [{"source": term.source, "target": term.target} for term in shown.terms],
        "prompt": shown.text,
        "prompt_tokens": shown.tokens,
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
        **{
            name: [{**each, "text": index} for index, one in enumerate(answers) for each in one[name]]
            for name in ("warnings", "changes")
        },
        "usage": {
            "segments": sum(one.segments for one in finished),
            "input_tokens": sum(one.input_tokens for one in finished),
            "output_tokens": sum(one.output_tokens for one in finished),
            "seconds": round(max(one.seconds for one in finished), 3),
        },
        "model": finished[0].model,
    }


def language_answers(codes: Sequence[str]) -> list[LanguageAnswer]:
    return [
        LanguageAnswer(
            code=language.code,
            name=language.english,
            name_zh=language.chinese,
            name_own=language.own,
            direction=language.direction,
            script=language.script,
            targets=[code for code in codes if code != language.code],
        )
        for language in map(LANGUAGES.__getitem__, codes)
    ]
