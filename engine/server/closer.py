"""`/prompt`, `/alternatives` and `/render`: a closer look at a text and its translation.

Knows HTTP, the door, and how a text is shown.
"""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.errors import InvalidRequest
from engine.markup.parse import Markup, format_of
from engine.markup.preview import page
from engine.metrics import Metrics
from engine.server import answers, incoming, questions
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import Alternatives, TranslationRequest, new_id

_ERRORS = {
    **answers.TEXT_ERRORS,
    **answers.refusals({422: "A field is missing, unknown or of the wrong kind, or there is no such segment"}),
}


def router(translator: Translator, metrics: Metrics, glossaries: Glossaries) -> APIRouter:
    api = APIRouter()

    @api.post(
        "/prompt",
        summary="What the model will be shown first of a segment",
        description="The fields of `/translate`, for one text. Word for word what a translation of it would ask first; "
        "`before`, `context` and `terms` are those that are in it. Where tags leave no other way, a segment is asked "
        "for in several prompts, here parted by an empty line; and no prompt at all is an empty one.",
        responses={200: {"model": answers.PromptAnswer}, **_ERRORS},
        openapi_extra=questions.body_schema("/prompt", questions.PromptFields, one_text=True),
    )
    async def prompt(request: Request) -> Response:
        fields = questions.read_fields(await incoming.read(request), questions.PromptFields)
        asked = await _asked(fields, glossaries)
        return JSONResponse(answers.prompt_answer(await translator.prompt(asked, fields.segment)))

    @api.post(
        "/alternatives",
        summary="Other translations of a segment",
        description="The fields of `/translate`, for one text. Sampled more freely, checked as every answer is; there "
        "may be fewer than `count`.",
        responses={200: {"model": answers.AlternativesAnswer}, **_ERRORS},
        openapi_extra=questions.body_schema("/alternatives", questions.AlternativesFields, one_text=True),
    )
    async def alternatives(request: Request) -> Response:
        fields = questions.read_fields(await incoming.read(request), questions.AlternativesFields)
        asked = await _asked(fields, glossaries)

        async def work() -> Alternatives:
            with metrics.run() as run:
                found = await translator.alternatives(asked, fields.segment, fields.count, fields.without)
                run.finished(1, found.input_tokens, found.output_tokens)
                return found

        found = await incoming.while_connected(request.receive, work())
        return JSONResponse({"segment": found.segment, "alternatives": found.texts})

    @api.post(
        "/render",
        summary="How a text looks",
        description="A whole page for a sandboxed frame, in which nothing runs and for which nothing is fetched.",
        responses={200: {"model": answers.RenderAnswer}, **answers.READING_ERRORS},
        openapi_extra=questions.body_schema("/render", questions.RenderFields),
    )
    async def render(request: Request) -> Response:
        fields = questions.read_fields(await incoming.read(request), questions.RenderFields)
        return Response(await asyncio.to_thread(_rendered, fields), media_type="application/json")

    return api


def _rendered(fields: questions.RenderFields) -> bytes:
    """The answer, which may be long."""
    markup: Markup = format_of(fields.text) if fields.format == "auto" else fields.format
    return answers.to_json({"format": markup, "html": page(markup, fields.text)}).encode()


async def _asked(fields: questions.PromptFields, glossaries: Glossaries) -> TranslationRequest:
    if not isinstance(fields.text, str):
        raise InvalidRequest("text must be a string: a segment is one of one text.")
    return await questions.to_request(fields, fields.text, new_id(), glossaries)
