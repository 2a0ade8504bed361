"""`/documents`: a file in, how far it is, the same file in another language. Knows HTTP and the store."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import UploadFile

from engine.documents.file import Options
from engine.documents.folder import Job, Order
from engine.documents.store import Documents, result_name
from engine.errors import InvalidRequest, UnsupportedMedia
from engine.server import answers, questions
from engine.server.forms import MULTIPART, media_type
from engine.server.limits import MAX_BODY_BYTES
from engine.termbase.store import Glossaries
from engine.types import new_id

PATH = "/documents"
MAX_FORM_FIELDS = 20

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
        if media_type(request) != MULTIPART:
            raise UnsupportedMedia("A document is sent as multipart/form-data, with a part named file.")
        async with request.form(max_files=1, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_BODY_BYTES) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidRequest("file is missing; it must be a document, sent as a part of the form.")
            others = [(name, value) for name, value in form.multi_items() if name != "file"]
            fields = questions.read_fields(questions.read_form(others), questions.DocumentFields)
            name, data = file.filename or "", await file.read()
        asked = await questions.to_request(fields, "", new_id(), glossaries)
        options = Options(exclude=tuple(fields.exclude), retranslate=fields.retranslate)
        job = await store.add(data, Order(name, asked, options))
        return JSONResponse(_answer(job), 202, {"Location": f"{request.scope.get('root_path', '')}{PATH}/{job.id}"})

    @api.get(f"{PATH}/{{document_id}}", summary="How far a document is", responses=_MISSING)
    async def status(document_id: str) -> answers.DocumentAnswer:
        return answers.DocumentAnswer.model_validate(_answer(store.get(document_id)))

    @api.get(
        f"{PATH}/{{document_id}}/result",
        summary="The translated file",
        response_class=FileResponse,
        responses={200: {"content": {"application/octet-stream": {}}}, **_MISSING, **_EARLY},
    )
    async def result(document_id: str) -> Response:
        path, name = store.result(document_id)
        # never shown by the browser: a document is a stranger's, and would speak as a page of ours
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
        return FileResponse(path, filename=name, headers=headers, media_type="application/octet-stream")

    @api.delete(f"{PATH}/{{document_id}}", status_code=204, summary="Cancel it and forget it", responses=_MISSING)
    async def remove(document_id: str) -> None:
        await store.remove(document_id)

    return api


def _answer(job: Job) -> questions.JsonObject:
    """What `answers.DocumentAnswer` says, without what is not known yet."""
    known: questions.JsonObject = {
        "id": job.id,
        "name": job.order.name,
        "status": job.status,
        "segments_done": job.segments_done,
        "segments_total": job.segments_total,
        "target_lang": job.order.request.target,
    }
    if job.error:
        known["error"], known["code"] = job.error
    if job.answer:
        known |= {**answers.answer(job.answer), "result_name": result_name(job)}
        known["terms"] = [answers.counts(term) for term in job.answer.terms]  # without places, which nobody sees
        del known["translation"]
    return known
