"""`/documents`: a file in, how far it is, its segments to look at and to mend, the same file in another language. Knows
HTTP and the store."""

import re
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from engine.documents.file import Options
from engine.documents.folder import Job, Order
from engine.documents.store import MOST_ZIPPED, Documents, result_name
from engine.documents.workbench import MOST_CHARACTERS, Listed
from engine.errors import InvalidRequest, TextTooLong
from engine.server import answers, incoming, questions
from engine.server.download import Download
from engine.termbase.store import Glossaries
from engine.types import new_id

PATH = "/documents"
ONLY = ("warnings", "edited")  # segments to be listed alone
ONE = f"{PATH}/{{document_id}}"
SEGMENTS = f"{ONE}/segments"
MAX_FORM_FIELDS = 20 + questions.MAX_TEXTS  # `exclude` may come many times
MOST_LISTED = 500  # segments on a page
USUALLY_LISTED = 100
MOST_NUMBER = 10**9  # of a segment
MAX_WORDS = 1_000  # characters that are looked for
MAX_EDIT_BYTES = 12 * MOST_CHARACTERS + 1_000  # JSON has six for a character, or twelve for one beyond the first plane

_FILE = {"file": {"type": "string", "format": "binary"}}
_SCHEMA = questions.DocumentFields.model_json_schema(
    ref_template="#/paths/~1documents/post/requestBody/content/multipart~1form-data/schema/$defs/{model}"
)
_FORM = {**_SCHEMA, "properties": {**_FILE, **_SCHEMA["properties"]}, "required": ["file", "target_lang"]}
_ERRORS = answers.refusals(
    {
        400: "An empty file, an unknown language, the same language twice, a glossary of other languages",
        404: "No such glossary",
        413: "The file or its text is too long",
        415: "No form, or a file of a kind that is not translated",
        422: "A damaged or protected file, or a field of the wrong kind",
        503: "Too many documents are waiting",
    }
)
_MISSING = answers.refusals({404: "No such document"})
_EARLY = answers.refusals({409: "Not translated yet"})
_NO_SEGMENT = answers.refusals({404: "No such document or segment", 409: "It is under way, and has no text yet"})
_NUMBER = re.compile("0|[1-9][0-9]{0,9}")
Index = Annotated[str, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MOST_NUMBER})]


def _asked(name: str, schema: questions.JsonObject, description: str, *, required: bool = False) -> Any:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": description}


_PAGE = {
    "parameters": [
        _asked(
            "from",
            {"type": "integer", "minimum": 0, "maximum": MOST_NUMBER, "default": 0},
            "how many to leave out at the beginning",
        ),
        _asked(
            "count",
            {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": USUALLY_LISTED},
            "how many at the most",
        ),
        _asked(
            "only",
            {"type": "string", "enum": ["", *ONLY], "default": ""},
            "those that have warnings, or were edited by hand",
        ),
        _asked("q", {"type": "string", "maxLength": MAX_WORDS, "default": ""}, "words in the source or the text"),
    ]
}
_IDS = {
    "parameters": [
        _asked(
            "id",
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_ZIPPED},
            "of each document",
            required=True,
        )
    ]
}


class SegmentFields(BaseModel):
    """A segment by hand. A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "Un mot <s1>gras</s1>."}]})

    text: str = Field(description="a string: the translation, with the marks of its source")


_EDIT = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": SegmentFields.model_json_schema()}}}
}


def router(store: Documents, glossaries: Glossaries) -> APIRouter:
    api = APIRouter()

    @api.post(
        PATH,
        status_code=202,
        summary="Translate a document",
        description="A multipart form: `file`, and the fields of `/translate` that fit; `glossary`, `sampling` and "
        "`exclude` as JSON text. What its name ends in says which kind of file it is.",
        responses={202: {"model": answers.DocumentAnswer}, **_ERRORS},
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    )
    async def add(request: Request) -> Response:
        name, data, others = await incoming.document(request, MAX_FORM_FIELDS)
        fields = questions.read_fields(questions.read_form(others), questions.DocumentFields)
        asked = await questions.to_request(fields, "", new_id(), glossaries)
        options = Options(exclude=tuple(fields.exclude), retranslate=fields.retranslate)
        job = await store.add(data, Order(name, asked, options))
        return JSONResponse(_answer(job), 202, {"Location": f"{request.scope.get('root_path', '')}{PATH}/{job.id}"})

    @api.get(
        f"{PATH}/zip",
        summary="The translated files of some documents as one zip",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/zip": {}}},
            **answers.refusals({404: "No such document", 409: "One is not translated yet", 422: "None, or too many"}),
        },
        openapi_extra=_IDS,
    )
    async def zipped(request: Request) -> Response:
        zipping = store.zipped(request.query_params.getlist("id"))
        made = await incoming.while_connected(request.receive, zipping)
        return Download(made, "translations.zip", "application/zip")

    @api.get(ONE, summary="How far a document is", responses=_MISSING)
    async def status(document_id: str) -> answers.DocumentAnswer:
        return answers.DocumentAnswer.model_validate(_answer(store.get(document_id)))

    @api.get(
        f"{ONE}/result",
        summary="The translated file",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/octet-stream": {}}}, **_MISSING, **_EARLY},
    )
    async def result(document_id: str) -> Response:
        return Download(*await store.result(document_id))

    @api.get(
        SEGMENTS,
        summary="Its segments, page by page",
        description="Also while it is under way: what has no text yet has null for it.",
        responses={200: {"model": answers.SegmentsAnswer}, **_MISSING, **answers.refusals({422: "No such page"})},
        openapi_extra=_PAGE,
    )
    async def segments(document_id: str, request: Request) -> Response:
        asked = request.query_params
        start = _whole_number("from", asked.get("from", "0"), 0, MOST_NUMBER)
        count = _whole_number("count", asked.get("count", str(USUALLY_LISTED)), 1, MOST_LISTED)
        if (only := asked.get("only", "")) not in ("", *ONLY):
            raise InvalidRequest("only must be warnings or edited, or left out.")
        if len(wanted := asked.get("q", "")) > MAX_WORDS:
            raise InvalidRequest(f"q must be a string of at most {MAX_WORDS:,} characters; it has {len(wanted):,}.")
        total, found = await store.segments(document_id, start, count, only, wanted)
        return _json({"total": total, "segments": [_segment(one) for one in found]})

    @api.patch(
        f"{SEGMENTS}/{{index}}",
        summary="Give a segment a text by hand",
        description="Its marks must be those of its source. Its warnings go; the result has the text from now on.",
        responses={
            200: {"model": answers.SegmentAnswer},
            **_NO_SEGMENT,
            **answers.refusals(
                {
                    400: "Broken JSON",
                    413: "The text is too long",
                    422: "Marks are missing, or the structure would break",
                }
            ),
        },
        openapi_extra=_EDIT,
    )
    async def edit(document_id: str, index: Index, request: Request) -> Response:
        body = await request.body()
        if len(body) > MAX_EDIT_BYTES:
            raise TextTooLong(f"A segment takes {MOST_CHARACTERS:,} characters at the most; {len(body):,} bytes came.")
        fields = questions.read_fields(questions.read_json(body), SegmentFields)
        return _json(_segment(await store.edit(document_id, _index(index), fields.text)))

    @api.post(
        f"{SEGMENTS}/{{index}}/retry",
        summary="Translate a segment again",
        description="Sampled anew, so that it may become another text. One by hand is lost.",
        responses={
            200: {"model": answers.SegmentAnswer},
            **_NO_SEGMENT,
            **answers.refusals({503: "Too busy (see Retry-After), or the model failed"}),
        },
    )
    async def retry(document_id: str, index: Index, request: Request) -> Response:
        retrying = store.retry(document_id, _index(index))
        return _json(_segment(await incoming.while_connected(request.receive, retrying)))

    @api.post(
        f"{ONE}/retry",
        status_code=202,
        summary="Translate again what failed",
        description="The segments that kept their source, or were never done; a document that ended in an error goes "
        "on where it stood.",
        responses={
            202: {"model": answers.DocumentAnswer},
            **_MISSING,
            **answers.refusals({409: "It is under way"}),
        },
    )
    async def retry_failed(document_id: str) -> Response:
        return JSONResponse(_answer(await store.retry_failed(document_id)), 202)

    @api.delete(ONE, status_code=204, summary="Cancel it and forget it", responses=_MISSING)
    async def remove(document_id: str) -> None:
        await store.remove(document_id)

    return api


def _whole_number(name: str, said: str, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(said) or not least <= (number := int(said)) <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most:,}, not {said[:20]!r}.")
    return number


def _index(said: str) -> int:
    return _whole_number("The segment", said, 0, MOST_NUMBER)


def _json(value: questions.JsonObject) -> Response:
    return Response(answers.to_json(value), media_type="application/json")


def _segment(one: Listed) -> questions.JsonObject:
    """What `answers.SegmentAnswer` says."""
    warnings = [{"code": warning.code, "message": warning.message} for warning in one.warnings]
    return {**asdict(one), "warnings": warnings}


def _answer(job: Job) -> questions.JsonObject:
    """What `answers.DocumentAnswer` says, without what is not known yet."""
    known: questions.JsonObject = {
        "id": job.id,
        "name": job.order.name,
        "kind": PurePosixPath(job.order.name).suffix[1:].lower(),
        "size_bytes": job.size_bytes,
        "created": job.created,
        "status": job.status,
        "segments_done": job.segments_done,
        "segments_total": job.segments_total,
        "segments_warned": job.warned,
        "edited": job.edited,
        "tokens_per_second": round(job.tokens_per_second, 1),
        "seconds_left": job.seconds_left,
        "target_lang": job.order.request.target,
    }
    if job.error:
        known["error"], known["code"] = job.error
    if job.answer:
        known |= {**answers.answer(job.answer), "result_name": result_name(job)}
        known["terms"] = [answers.counts(term) for term in job.answer.terms]  # without places, which nobody sees
        del known["translation"], known["changes"]  # a document has them in its file
    return known
