"""`/ws/translate`: many runs on one socket. Knows its messages, spelt out in `questions` and `answers`, and the door.

Nothing is buffered here: a run waits until its message is taken, so a slow reader slows its own runs and no more.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from engine.errors import DuplicateRun, InvalidRequest, Overloaded, YiwenError
from engine.metrics import Metrics
from engine.server import answers, questions
from engine.server.limits import MAX_BODY_BYTES, BodyTooLarge
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import new_id

MAX_RUNS = 16  # on one socket; a page uses one or two
MAX_ID_CHARACTERS = 128

log = logging.getLogger(__name__)


def router(
    translator: Translator,
    metrics: Metrics,
    glossaries: Glossaries,
    admitted: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> APIRouter:
    """Each run is `admitted`, which may raise."""
    api = APIRouter()

    @api.websocket("/ws/translate")
    async def translate(websocket: WebSocket) -> None:
        await websocket.accept()
        await _Socket(websocket, translator, metrics, glossaries, admitted).serve()

    return api


class _Socket:
    def __init__(
        self,
        websocket: WebSocket,
        translator: Translator,
        metrics: Metrics,
        glossaries: Glossaries,
        admitted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._websocket = websocket
        self._translator = translator
        self._metrics = metrics
        self._glossaries = glossaries
        self._admitted = admitted
        self._runs: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until the socket closes, which ends every run on it."""
        try:
            while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
                await self._take(message.get("text") or message.get("bytes") or "")
        finally:
            await self._stop(*self._runs.values())

    async def _take(self, message: str | bytes) -> None:
        run_id: str | None = None
        try:
            fields = _read(message)
            kind = fields.pop("type", None)
            if kind == "ping":
                return await self._send({"type": "pong"})
            if kind not in ("start", "cancel"):
                raise InvalidRequest("type must be start, cancel or ping.")
            run_id = _run_id(fields.pop("id", None))
            if kind == "start":
                self._start(run_id, fields)
            else:
                await self._cancel(run_id)
        except YiwenError as error:
            await self._send(answers.error_message(run_id, error))

    def _start(self, run_id: str, fields: questions.JsonObject) -> None:
        if run_id in self._runs:
            raise DuplicateRun(f"The run {run_id!r} is under way and goes on; give a new run a new id.")
        if len(self._runs) >= MAX_RUNS:
            raise Overloaded(f"This socket has {MAX_RUNS} runs under way, the most there may be; wait, or cancel one.")
        read = questions.read_fields(fields, questions.TranslateFields)
        if not isinstance(read.text, str):
            raise InvalidRequest("text must be a string: a run carries one text.")
        task = self._runs[run_id] = asyncio.create_task(self._run(run_id, read, read.text))
        task.add_done_callback(lambda _: self._runs.pop(run_id))  # also when cancelled before its first step

    async def _run(self, run_id: str, fields: questions.TranslateFields, text: str) -> None:
        try:
            with self._admitted():
                # The client's id is its own; the scheduler's is new, since two sockets may both call a run 'r1'.
                request = await questions.to_request(fields, text, new_id(), self._glossaries)
                async with aclosing(self._metrics.observe(self._translator.stream(request))) as events:
                    async for event in events:
                        await self._send(answers.event_message(run_id, event))
        except Exception as error:  # the last resort of a run: the socket and its other runs go on
            if not isinstance(error, YiwenError):
                log.exception("a run failed")
            await self._send(answers.error_message(run_id, error))

    async def _cancel(self, run_id: str) -> None:
        """Answers always: after `cancelled` nothing of that id comes, whether it ran, had ended or never was."""
        if run_id in self._runs:
            await self._stop(self._runs[run_id])
        await self._send({"type": "cancelled", "id": run_id})

    async def _stop(self, *runs: asyncio.Task[None]) -> None:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def _send(self, message: questions.JsonObject) -> None:
        """Says nothing to a reader who has left: `serve` is told of that, and ends the runs."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError):  # uvicorn's, of one it has closed for a broken frame
                await self._websocket.send_text(answers.to_json(message))


def _read(message: str | bytes) -> questions.JsonObject:
    if len(message) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"A message may have {MAX_BODY_BYTES // 1024**2} MiB at most; send the text in parts.")
    fields = questions.read_json(message)
    if not isinstance(fields, dict):
        raise InvalidRequest('A message must be one JSON object, such as {"type": "ping"}.')
    return fields


def _run_id(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARACTERS or not value.isprintable():
        raise InvalidRequest(
            f"id must be a string of 1 to {MAX_ID_CHARACTERS} printable characters that names the run."
        )
    return value
