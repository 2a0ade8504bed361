"""`/glossaries`: terms come as JSON or as a file, are stored, and go out as either. Knows HTTP and the store."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from engine.errors import EmptyGlossary, InvalidRequest, SameLanguage, UnknownLanguage, UnsupportedMedia
from engine.languages import LANGUAGES, resolve_any
from engine.server import answers, questions
from engine.server.forms import MULTIPART, URLENCODED, media_type
from engine.server.limits import MAX_BODY_BYTES, BodyTooLarge
from engine.termbase.entries import MAX_TERMS, Problem, sound
from engine.termbase.read import read
from engine.termbase.store import Glossaries, Stored
from engine.termbase.write import FORMATS, TEMPLATES, template, write
from engine.types import Term

PATH = "/glossaries"
ONE = f"{PATH}/{{glossary_id}}"
MAX_FORM_FIELDS = 10
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "tbx": "application/x-tbx+xml",
    "json": "application/json",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}

_BAD = {
    400: "Broken JSON, an unknown language, the same language twice",
    409: "As many are stored as may be",
    413: "The file, or what it holds, is too large",
    415: "Neither JSON nor a form, or a file of a kind that holds no terms",
    422: "A file that cannot be read, no term in it, or a field of the wrong kind",
    507: "The disk is full",
}
_MISSING = {404: "No such glossary"}
_FORM = questions.GlossaryFileFields.model_json_schema()
_JSON = questions.json_schema(PATH, questions.GlossaryFields)
_FILE = {"file": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": _JSON},
        MULTIPART: {"schema": {**_FORM, "properties": {**_FILE, **_FORM["properties"]}, "required": ["file"]}},
    },
}


def _kinds(formats: Sequence[str]) -> questions.JsonObject:
    """What /openapi.json says of an address that answers with a file in one of these."""
    schema = {"type": "string", "enum": list(formats), "default": "csv"}
    return {"parameters": [{"name": "format", "in": "query", "required": False, "schema": schema}]}


@dataclass(frozen=True, slots=True)
class _Sent:
    """A glossary as it was sent, made sound."""

    name: str
    source_lang: str
    target_lang: str
    terms: tuple[Term, ...]
    problems: tuple[Problem, ...]


def router(store: Glossaries) -> APIRouter:
    api = APIRouter()
    reading = asyncio.Semaphore(1)  # a file takes many times its size while it is read, and a core

    @api.post(
        PATH,
        status_code=201,
        summary="Store a glossary",
        description="JSON, or a multipart form with the glossary's `file`: CSV, TSV, XLSX, JSON, TBX or TMX. Rows that "
        "cannot be used are told in `problems`, the others are stored.",
        responses={201: {"model": answers.StoredAnswer}, **answers.refusals(_BAD)},
        openapi_extra={"requestBody": _BODY},
    )
    async def add(request: Request) -> Response:
        sent = await _read(request, reading)
        stored = await store.add(sent.name, sent.source_lang, sent.target_lang, sent.terms)
        where = f"{request.scope.get('root_path', '')}{PATH}/{stored.id}"
        return JSONResponse(_stored_answer(stored, sent.problems), 201, {"Location": where})

    @api.get(PATH, summary="The stored glossaries, the oldest first")
    async def listed() -> list[answers.GlossaryAnswer]:
        return [answers.GlossaryAnswer.model_validate(_answer(stored)) for stored in store.listed()]

    @api.get(  # before the address of one glossary, which would take it for an id
        f"{PATH}/template",
        summary="A small glossary to begin with, as a file",
        response_class=Response,
        responses={200: {"content": _contents(TEMPLATES)}, **answers.refusals({422: "No such format"})},
        openapi_extra=_kinds(TEMPLATES),
    )
    async def example(request: Request) -> Response:
        kind = _kind(request, TEMPLATES)
        data = await asyncio.to_thread(lambda: template(kind))
        return Response(data, media_type=MEDIA_TYPES[kind], headers=_download(f"glossary-template.{kind}"))

    @api.get(
        ONE,
        summary="A glossary and its terms",
        responses={200: {"model": answers.WholeGlossaryAnswer}, **answers.refusals(_MISSING)},
    )
    async def whole(glossary_id: str) -> Response:
        stored = await store.get(glossary_id)
        text = await asyncio.to_thread(lambda: answers.to_json(_whole_answer(stored)))
        return Response(text, media_type="application/json")

    @api.get(
        f"{ONE}/file",
        summary="A glossary as a file",
        response_class=Response,
        responses={
            200: {"content": _contents(FORMATS)},
            **answers.refusals({**_MISSING, 422: "No such format"}),
        },
        openapi_extra=_kinds(FORMATS),
    )
    async def file(glossary_id: str, request: Request) -> Response:
        kind = _kind(request, FORMATS)
        stored = await store.get(glossary_id)
        data = await asyncio.to_thread(
            lambda: write(kind, stored.terms, stored.source_lang, stored.target_lang, stored.name)
        )
        return Response(data, media_type=MEDIA_TYPES[kind], headers=_download(f"{stored.name}.{kind}"))

    @api.put(
        ONE,
        summary="Replace a glossary whole",
        description="Takes what POST takes. A file that comes without a name leaves the glossary its own.",
        responses={200: {"model": answers.StoredAnswer}, **answers.refusals({**_BAD, **_MISSING})},
        openapi_extra={"requestBody": _BODY},
    )
    async def replace(glossary_id: str, request: Request) -> Response:
        kept = next((stored.name for stored in store.listed() if stored.id == glossary_id), "")
        sent = await _read(request, reading, kept)
        stored = await store.replace(glossary_id, sent.name, sent.source_lang, sent.target_lang, sent.terms)
        return JSONResponse(_stored_answer(stored, sent.problems))

    @api.delete(ONE, status_code=204, summary="Forget a glossary", responses=answers.refusals(_MISSING))
    async def remove(glossary_id: str) -> None:
        await store.remove(glossary_id)

    return api


def _contents(formats: Sequence[str]) -> dict[str, questions.JsonObject]:
    return {MEDIA_TYPES[kind].partition(";")[0]: {} for kind in formats}


def _kind(request: Request, formats: Sequence[str]) -> str:
    kind = request.query_params.get("format", "csv").lower()
    if kind not in formats:
        raise InvalidRequest(f"format must be one of: {', '.join(formats)}.")
    return kind


async def _read(request: Request, reading: asyncio.Semaphore, name: str = "") -> _Sent:
    """`name`: of a file that comes without one; else its own."""
    kind = media_type(request)
    if kind == MULTIPART:
        async with request.form(max_files=1, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_BODY_BYTES) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise InvalidRequest("file is missing; it must be a glossary, sent as a part of the form.")
            others = {name: value for name, value in form.multi_items() if name != "file"}
            fields = questions.read_fields(others, questions.GlossaryFileFields)
            async with reading:
                data = await upload.read()
                return await asyncio.to_thread(_from_file, fields, name, upload.filename or "", data)
    if kind in ("application/json", "text/plain", URLENCODED) or kind.endswith("+json"):  # a form: as curl calls all
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:  # what follows would hold up everybody for seconds
            most = MAX_BODY_BYTES // 1024**2
            raise BodyTooLarge(f"A glossary as JSON may have {most} MiB at most; send it as a file in a form.")
        async with reading:
            return await asyncio.to_thread(_from_json, body)
    raise UnsupportedMedia("A glossary is sent as application/json, or as multipart/form-data with a part named file.")


def _from_json(body: bytes) -> _Sent:
    fields = questions.read_fields(questions.read_json(body), questions.GlossaryFields, MAX_TERMS)
    both = [given for given in (fields.glossary, fields.terms) if given is not None]
    if len(both) != 1:
        raise InvalidRequest("Either terms or glossary must be there, and not both.")
    name, source, target = questions.glossary_name(fields.name), _code(fields.source_lang), _code(fields.target_lang)
    terms, problems = sound(enumerate(questions.to_terms(both[0]), 1))
    return _checked(_Sent(name, source, target, terms, problems))


def _from_file(fields: questions.GlossaryFileFields, name: str, file_name: str, data: bytes) -> _Sent:
    source, target = (code and _code(code) for code in (fields.source_lang.strip(), fields.target_lang.strip()))
    found = read(file_name, data, source, target)
    source, target = source or found.source_lang, target or found.target_lang
    for field, code in (("source_lang", source), ("target_lang", target)):
        if not code:
            raise InvalidRequest(f"{field} is missing, and the file does not say it; send the code of a language.")
    stem = PurePosixPath(file_name.replace("\\", "/")).stem[: questions.MAX_NAME_CHARACTERS]
    name = questions.glossary_name(fields.name or name or stem or "Glossary")
    return _checked(_Sent(name, source, target, found.terms, found.problems))


def _checked(sent: _Sent) -> _Sent:
    if sent.source_lang == sent.target_lang:
        name = LANGUAGES[sent.source_lang].english
        raise SameLanguage(f"Source and target are both {name} ({sent.source_lang}); choose two different languages.")
    if not sent.terms:
        why = f"; row {sent.problems[0].row:,}: {sent.problems[0].message}" if sent.problems else "; send at least one."
        raise EmptyGlossary(f"The glossary has no term that can be used{why}")
    return sent


def _code(said: str) -> str:
    if (code := resolve_any(said)) is None:
        raise UnknownLanguage(f"There is no language {said[:40]!r} here; choose one of: {', '.join(LANGUAGES)}.")
    return code


def _download(name: str) -> dict[str, str]:
    """The file is never shown by the browser: its words are a stranger's, and would speak as a page of ours."""
    name = re.sub(r"[<>:\"|?*/\\]", "_", name).strip(". ")
    plain = name.encode("ascii", "replace").decode().replace("?", "_")  # for curl, which reads no other
    return {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _answer(stored: Stored) -> questions.JsonObject:
    return {
        "id": stored.id,
        "name": stored.name,
        "source_lang": stored.source_lang,
        "target_lang": stored.target_lang,
        "term_count": stored.term_count,
        "created": int(stored.created),
    }


def _stored_answer(stored: Stored, problems: Sequence[Problem]) -> questions.JsonObject:
    return {**_answer(stored), "problems": [asdict(problem) for problem in problems]}


def _whole_answer(stored: Stored) -> questions.JsonObject:
    return {**_answer(stored), "terms": [asdict(term) for term in stored.terms]}
