"""`/translate`, `/detect` and `/languages`. Knows HTTP and the door; what may be asked is in `questions`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from engine.detect import detect, is_certain
from engine.errors import InvalidRequest, RequestError, UnsupportedMedia, YiwenError
from engine.languages import LANGUAGES
from engine.metrics import Metrics
from engine.server import answers, questions
from engine.server.forms import MULTIPART, URLENCODED, media_type
from engine.server.limits import MAX_BODY_BYTES
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import Finished, Guess, TranslationEvent, TranslationRequest, new_id

TEXTS_AT_ONCE = 32  # of one list: the rest wait here, so that a long list does not fill the scheduler alone
MAX_FORM_FIELDS = 1000  # as Starlette has it for multipart
CLIENT_CLOSED_REQUEST = 499  # nginx's number; only logs see it

_FORMS = (URLENCODED, MULTIPART)
# Where the schema of the body will stand in /openapi.json, so that its parts can point at each other.
_BODY_SCHEMA = "#/paths/~1translate/post/requestBody/content/application~1json/schema/$defs/{model}"
_SCHEMA = questions.TranslateFields.model_json_schema(ref_template=_BODY_SCHEMA)
_DETECT_SCHEMA = questions.DetectFields.model_json_schema()
_ERRORS = answers.refusals(
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

_DETECT_ERRORS = answers.refusals({status: str(_ERRORS[status]["description"]) for status in (403, 413, 415, 422)})

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Events = AsyncGenerator[TranslationEvent, None]


def router(translator: Translator, metrics: Metrics, glossaries: Glossaries) -> APIRouter:
    api = APIRouter()

    @api.post(
        "/translate",
        summary="Translate a text, or a list of texts",
        description="A form (urlencoded or multipart) takes the same fields; `glossary` and `sampling` as JSON text. "
        "`stream` answers with server-sent events, the messages of the WebSocket `/ws/translate`.",
        responses={200: {"model": answers.TranslateAnswer}, **_ERRORS},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}},
    )
    async def translate(request: Request) -> Response:
        fields = questions.read_fields(await _read(request), questions.TranslateFields)
        texts = [fields.text] if isinstance(fields.text, str) else fields.text
        run_id = new_id()  # one for all texts of a list: they take turns with other requests as one
        first = await questions.to_request(fields, texts[0], run_id, glossaries)
        requests = [replace(first, text=text) for text in texts]
        if fields.stream:
            if not isinstance(fields.text, str):
                raise InvalidRequest("A stream carries one text; send text as a string, or leave out stream.")
            return EventStream(run_id, metrics.observe(translator.stream(requests[0])))
        try:
            finished = await _while_connected(request.receive, _translate_all(translator, metrics, requests))
        except _ClientLeft:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        one = isinstance(fields.text, str)
        return JSONResponse(answers.answer(finished[0]) if one else answers.answer_for_list(finished))

    @api.post(
        "/detect",
        summary="Which language a text is in, or each of a list of texts",
        description="Among all languages that Yiwen knows, also those that the model lacks.",
        responses={200: {"model": answers.DetectAnswer}, **_DETECT_ERRORS},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _DETECT_SCHEMA}}}},
    )
    async def which(request: Request) -> Response:
        fields = questions.read_fields(await _read(request), questions.DetectFields)
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
        with suppress(_ClientLeft):
            await _while_connected(receive, self._forward(send))

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


async def _read(request: Request) -> object:
    """The body as JSON has it, whether it is JSON or a form."""
    body = await request.body()
    kind = media_type(request)
    # curl calls everything a form unless told otherwise, and no form begins with a brace.
    if kind in _FORMS and not body.lstrip().startswith(b"{"):
        if kind == URLENCODED:  # a chapter in Chinese has a million escapes, so others are answered meanwhile
            return questions.read_form(await asyncio.to_thread(_read_urlencoded, body))
        async with request.form(max_part_size=MAX_BODY_BYTES) as form:
            return questions.read_form(form.multi_items())
    if kind in ("application/json", "text/plain", *_FORMS) or kind.endswith("+json"):
        return questions.read_json(body)
    raise UnsupportedMedia(f"The content type {kind[:80]!r} is not read here; send application/json or a form.")


def _read_urlencoded(body: bytes) -> list[tuple[str, str]]:
    """In UTF-8, escaped or not: Starlette's own would take what `curl -d 'text=你好'` sends for Latin-1."""
    try:
        return parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError as error:
        raise InvalidRequest(f"The form has more than {MAX_FORM_FIELDS:,} fields; send a list as JSON.") from error


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
        await _cancel(tasks)


class _ClientLeft(Exception):
    pass


async def _while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled at once when the client leaves; then raises `_ClientLeft`."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _ClientLeft
        return working.result()
    finally:
        await _cancel((working, leaving))


async def _disconnected(receive: Receive) -> None:
    """Comes back when the client is gone. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
