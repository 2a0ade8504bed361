"""DeepL's `/v2/document`: a file in, how far it is, the file in another language. Knows HTTP, DeepL's shapes, and the
store of documents."""

import asyncio
import base64
import hashlib
import math
import re
from collections import OrderedDict
from pathlib import PurePosixPath
from secrets import compare_digest

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.documents.folder import Job, Order
from engine.documents.read import KINDS
from engine.documents.store import MOST_KEPT, Documents
from engine.errors import BadDocument, DocumentNotReady, NoSuchDocument, NotSupported, UnsupportedMedia
from engine.server import deepl_fields, incoming, questions
from engine.server.download import Download
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import TranslationRequest

PATH = "/v2/document"
ONE = f"{PATH}/{{document_id}}"
MAX_FORM_FIELDS = 30
WAITED_SECONDS = 1.0  # for the end of a document before one is told of it: DeepL's clients ask every five seconds only
LOOK_SECONDS = 0.02

_MARK = re.compile(r"</?s\d{1,6}>")
_ID = re.compile(r"[0-9A-Fa-f]{32}")


def router(translator: Translator, store: Documents, glossaries: Glossaries, usage: deepl_fields.Usage) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    billed: OrderedDict[str, int] = OrderedDict()  # characters of what is done, the oldest first

    @api.post(PATH)
    async def add(request: Request) -> Response:
        file_name, data, others = await incoming.document(request, MAX_FORM_FIELDS)
        fields = deepl_fields.read(questions.read_form(others), deepl_fields.DocumentOptions)
        name = fields.filename or file_name
        _refuse_kind(name, fields.output_format)
        choice = await deepl_fields.choice(fields, translator.info, glossaries)
        asked = TranslationRequest("", choice.target, choice.source, glossary=choice.terms, style=choice.style)
        job = await store.add(data, Order(name, asked))
        return JSONResponse({"document_id": _their_id(job.id), "document_key": _key(job.id)})

    @api.api_route(ONE, methods=["GET", "POST"])
    async def status(document_id: str, request: Request) -> Response:
        job = await found(document_id, request)
        await _ended(job)
        answer: questions.JsonObject = {"document_id": _their_id(job.id), "status": job.status}
        if job.status == "translating" and job.seconds_left is not None:
            answer["seconds_remaining"] = max(1, math.ceil(job.seconds_left))
        if job.status == "done":
            answer["billed_characters"] = await characters(job)
        if job.status == "error" and job.error:
            answer["error_message"] = job.error[0]
        return JSONResponse(answer)

    @api.api_route(f"{ONE}/result", methods=["GET", "POST"])
    async def result(document_id: str, request: Request) -> Response:
        job = await found(document_id, request)
        if job.status == "error" and job.error:
            raise BadDocument(f"{job.order.name!r} was not translated: {job.error[0]}")
        return Download(*await store.result(job.id))

    async def found(document_id: str, request: Request) -> Job:
        key = (await deepl_fields.asked(request)).get("document_key")
        ours = _our_id(document_id)
        if not isinstance(key, str) or not compare_digest(key.upper().encode(errors="replace"), _key(ours).encode()):
            raise NoSuchDocument("There is no document with this document_id and document_key; send the file again.")
        return store.get(ours)

    async def characters(job: Job) -> int:
        """Those that were translated; the white space between sentences is not counted. Used once they are told."""
        if job.id not in billed:
            try:
                _, segments = await store.segments(job.id, 0, job.segments_total or 0)
                billed[job.id] = sum(len(_MARK.sub("", one.source)) for one in segments)
            except DocumentNotReady:  # it is done, but by another model, which cut it otherwise
                billed[job.id] = job.size_bytes
            usage.characters += billed[job.id]
            while len(billed) > MOST_KEPT:
                billed.popitem(last=False)
        return billed[job.id]

    return api


def _refuse_kind(name: str, wanted: str) -> None:
    kind = PurePosixPath(name).suffix.lower()
    if kind not in KINDS:
        raise UnsupportedMedia(
            f"Invalid file: nothing with the file extension {kind[:20]!r} is translated here; send one of: "
            f"{', '.join(KINDS)}."
        )
    if wanted and f".{wanted.lower().removeprefix('.')}" != kind:
        raise NotSupported(f"output_format {wanted[:20]!r} is not supported: a file comes back as the kind it is.")


async def _ended(job: Job) -> None:
    for _ in range(round(WAITED_SECONDS / LOOK_SECONDS)):
        if job.ended:
            return
        await asyncio.sleep(LOOK_SECONDS)


# DeepL's ids are 32 hexadecimal digits, and its keys 64. Ours are the same 16 random bytes in base64.


def _their_id(ours: str) -> str:
    return base64.urlsafe_b64decode(f"{ours}==").hex().upper()


def _our_id(theirs: str) -> str:
    if not _ID.fullmatch(theirs):
        return ""
    return base64.urlsafe_b64encode(bytes.fromhex(theirs)).decode().rstrip("=")


def _key(ours: str) -> str:
    """Who knows the id, which nobody can guess, may have the document; so the key need not be kept."""
    return hashlib.sha256(f"document {ours}".encode()).hexdigest().upper()
