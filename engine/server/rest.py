"""`/translate`, `/detect` and `/languages`. Knows HTTP and the door; what may be asked is in `questions`.

The first two are LibreTranslate's addresses too: which service a request means is told by its fields.
"""

import asyncio
from dataclasses import asdict, replace
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.detect import detect, is_certain
from engine.errors import InvalidRequest
from engine.languages import LANGUAGES
from engine.metrics import Metrics
from engine.server import answers, incoming, libretranslate, questions, runs
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import Guess, new_id


def router(translator: Translator, metrics: Metrics, glossaries: Glossaries) -> APIRouter:
    api = APIRouter()

    @api.post(
        "/translate",
        summary="Translate a text, or a list of texts",
        description="A form (urlencoded or multipart) takes the same fields; `glossary` and `sampling` as JSON text. "
        "`stream` answers with server-sent events, the messages of the WebSocket `/ws/translate`.",
        responses={200: answers.TRANSLATED, **answers.TEXT_ERRORS},
        openapi_extra=questions.body_schema("/translate", questions.TranslateFields),
    )
    async def translate(request: Request) -> Response:
        body = await libretranslate.read(request)
        if libretranslate.is_asked(body):
            return await libretranslate.translate(translator, metrics, request, body)
        fields = questions.read_fields(body, questions.TranslateFields)
        texts = [fields.text] if isinstance(fields.text, str) else fields.text
        run_id = new_id()  # one for all texts of a list: they take turns with other requests as one
        first = await questions.to_request(fields, texts[0], run_id, glossaries)
        requests = [first, *(replace(first, text=text) for text in texts[1:])]
        if fields.stream:
            if not isinstance(fields.text, str):
                raise InvalidRequest("A stream carries one text; send text as a string, or leave out stream.")
            events = metrics.observe(translator.stream(requests[0]))
            return runs.EventStream(runs.messages(run_id, events), partial(answers.error_message, run_id))
        finished = await incoming.while_connected(request.receive, runs.translate_all(translator, metrics, requests))
        one = isinstance(fields.text, str)
        said = answers.answer(finished[0]) if one else answers.answer_for_list(finished)
        return Response(answers.to_json(said), media_type="application/json")

    @api.post(
        "/detect",
        summary="Which language a text is in, or each of a list of texts",
        description="Among all languages that Yiwen knows, also those that the model lacks.",
        responses={200: {"model": answers.DetectAnswer}, **answers.READING_ERRORS},
        openapi_extra=questions.body_schema("/detect", questions.DetectFields),
    )
    async def which(request: Request) -> Response:
        body = await libretranslate.read(request)
        if libretranslate.is_asked(body):
            return await libretranslate.which(body)
        fields = questions.read_fields(body, questions.DetectFields)
        texts = [fields.text] if isinstance(fields.text, str) else fields.text
        guesses = await asyncio.to_thread(lambda: [_detected(text) for text in texts])
        each = [{"detection": [asdict(guess) for guess in found], "certain": is_certain(found)} for found in guesses]
        one = isinstance(fields.text, str)
        return JSONResponse(each[0] if one else {name: [said[name] for said in each] for name in each[0]})

    @api.get("/languages", summary="The languages of the model")
    async def languages() -> list[answers.LanguageAnswer]:
        return answers.language_answers(translator.info.languages)

    return api


def _detected(text: str) -> tuple[Guess, ...]:
    """Half a character, which JSON can say and no encoding has, is passed over."""
    return detect(text.encode(errors="ignore").decode(), LANGUAGES)
