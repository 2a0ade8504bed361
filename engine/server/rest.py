"""`/translate`, `/detect` and `/languages`. Knows HTTP and the door; what may be asked is in `questions`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from engine.detect import detect, is_certain
from engine.errors import InvalidRequest, RequestError, YiwenError
from engine.languages import LANGUAGES
from engine.metrics import Metrics
from engine.server import answers, incoming, questions
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import Finished, Guess, TranslationEvent, TranslationRequest, new_id

TEXTS_AT_ONCE = 32  # of one list: the rest wait here, so that a long list does not fill the scheduler alone

log = logging.getLogger(__name__)
Events = AsyncGenerator[TranslationEvent, None]


def router(translator: Translator, metrics: Metrics, glossaries: Glossaries) -> APIRouter:
    api = APIRouter()

    @api.post(
        "/translate",
        summary="Translate a text, or a list of texts",
        description="A form (urlencoded or multipart) takes the same fields; `glossary` and `sampling` as JSON text. "
        "`stream` answers with server-sent events, the messages of the WebSocket `/ws/translate`.",
        responses={200: {"model": answers.TranslateAnswer}, **answers.TEXT_ERRORS},
        openapi_extra=questions.body_schema("/translate", questions.TranslateFields),
    )
    async def translate(request: Request) -> Response:
        fields = questions.read_fields(await incoming.read(request), questions.TranslateFields)
        texts = [fields.text] if isinstance(fields.text, str) else fields.text
        run_id = new_id()  # one for all texts of a list: they take turns with other requests as one
        first = await questions.to_request(fields, texts[0], run_id, glossaries)
        requests = [replace(first, text=text) for text in texts]
        if fields.stream:
            if not isinstance(fields.text, str):
                raise InvalidRequest("A stream carries one text; send text as a string, or leave out stream.")
            return EventStream(run_id, metrics.observe(translator.stream(requests[0])))
        finished = await incoming.while_connected(request.receive, _translate_all(translator, metrics, requests))
        one = isinstance(fields.text, str)
        return JSONResponse(answers.answer(finished[0]) if one else answers.answer_for_list(finished))

    @api.post(
        "/detect",
        summary="Which language a text is in, or each of a list of texts",
        description="Among all languages that Yiwen knows, also those that the model lacks.",
        responses={200: {"model": answers.DetectAnswer}, **answers.READING_ERRORS},
        openapi_extra=questions.body_schema("/detect", questions.DetectFields),
    )
    async def which(request: Request) -> Response:
        fields = questions.read_fields(await incoming.read(request), questions.DetectFields)
        texts = [fields.text] if isinstance(fields.text, str) else fields.text
        guesses = await asyncio.to_thread(lambda: [_detected(text) for text in texts])
        each = [{"detection": [asdict(guess) for guess in found], "certain": is_certain(found)} for found in guesses]
        one = isinstance(fields.text, str)
        return JSONResponse(each[0] if one else {name: [said[name] for said in each] for name in each[0]})

    @api.get("/languages", summary="The languages of the model")
    async def languages() -> list[answers.LanguageAnswer]:
        return [answers.language_answer(LANGUAGES[code]) for code in translator.info.languages]

    return api


def _detected(text: str) -> tuple[Guess, ...]:
    """Half a character, which JSON can say and no encoding has, is passed over."""
    return detect(text.encode(errors="ignore").decode(), LANGUAGES)


class EventStream(Response):
    """Server-sent events, one for each event of a run. An error before the first is an ordinary answer."""

    media_type = "text/event-stream"

    def __init__(self, run_id: str, events: Events) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._run_id = run_id
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(incoming.ClientLeft):
            await incoming.while_connected(receive, self._forward(send))

    async def _forward(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            event = await anext(events)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await _send_line(send, answers.event_message(self._run_id, event))
                async for event in events:
                    await _send_line(send, answers.event_message(self._run_id, event))
            except Exception as error:  # too late for a status: the last resort of a stream that has begun
                if not isinstance(error, YiwenError):
                    log.exception("a stream failed")
                await _send_line(send, answers.error_message(self._run_id, error))
        await send({"type": "http.response.body"})


async def _send_line(send: Send, message: questions.JsonObject) -> None:
    line = f"data: {answers.to_json(message)}\n\n".encode()
    await send({"type": "http.response.body", "body": line, "more_body": True})


async def _translate_all(
    translator: Translator, metrics: Metrics, requests: Sequence[TranslationRequest]
) -> list[Finished]:
    """All at once, answers in order; the first that fails ends the rest."""
    turn = asyncio.Semaphore(TEXTS_AT_ONCE)

    async def translate(index: int, request: TranslationRequest) -> Finished:
        async with turn, aclosing(metrics.observe(translator.stream(request))) as events:
            try:
                async for event in events:
                    if isinstance(event, Finished):
                        return event
            except RequestError as error:
                if len(requests) == 1:
                    raise
                raise type(error)(f"text[{index}]: {error}") from error
        raise AssertionError("a run ended without Finished")

    tasks = [asyncio.create_task(translate(index, request)) for index, request in enumerate(requests)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await incoming.cancel(tasks)
