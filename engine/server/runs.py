"""Runs of the translator as faces answer with them: many texts at once, or one as a stream of server-sent events.

Knows no face.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

from fastapi import Response
from starlette.types import Receive, Scope, Send

from engine.errors import RequestError, YiwenError
from engine.metrics import Metrics
from engine.server import answers, incoming
from engine.server.questions import JsonObject
from engine.translator import SHORT_CHARACTERS, Translator
from engine.types import Finished, TranslationEvent, TranslationRequest

TEXTS_AT_ONCE = 32  # of one list: the rest wait here, so that a long list does not fill the scheduler alone

log = logging.getLogger(__name__)
Events = AsyncGenerator[TranslationEvent, None]


async def translate_all(
    translator: Translator, metrics: Metrics, requests: Sequence[TranslationRequest]
) -> list[Finished]:
    """All at once, answers in order; the first that fails ends the rest, and says which text it was."""
    if len(requests) == 1:
        return [await _translated(translator, metrics, requests[0])]
    turn = asyncio.Semaphore(TEXTS_AT_ONCE)

    async def translate(index: int, request: TranslationRequest) -> Finished:
        async with turn:
            try:
                return await _translated(translator, metrics, request)
            except RequestError as error:
                raise type(error)(f"text[{index}]: {error}") from error

    tasks = [asyncio.create_task(translate(index, request)) for index, request in enumerate(requests)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await incoming.cancel(tasks)


async def _translated(translator: Translator, metrics: Metrics, request: TranslationRequest) -> Finished:
    whole = len(request.text) < SHORT_CHARACTERS  # else the tokens are counted as they come
    with metrics.run() as run:
        async with aclosing(translator.stream(request, whole=whole)) as events:
            async for event in events:
                run.take(event)
                if isinstance(event, Finished):
                    return event
    raise AssertionError("a run ended without Finished")


async def messages(run_id: str, events: Events) -> AsyncGenerator[JsonObject, None]:
    """A run's events as the messages of the WebSocket."""
    async with aclosing(events):
        async for event in events:
            yield answers.event_message(run_id, event)


class EventStream(Response):
    """Server-sent events, a line of JSON each. An error before the first is an ordinary answer.

    `failed` makes the last message of an error that comes later; `last` is a line after all others. `named` gives each
    event its message's type for a name.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        messages: AsyncGenerator[JsonObject, None],
        failed: Callable[[Exception], JsonObject],
        last: str = "",
        named: bool = False,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._messages, self._failed, self._last, self._named = messages, failed, last, named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(incoming.ClientLeft):
            await incoming.while_connected(receive, self._forward(send))

    async def _forward(self, send: Send) -> None:
        async with aclosing(self._messages) as messages:
            message = await anext(messages)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._say(send, message)
                async for message in messages:
                    await self._say(send, message)
            except Exception as error:  # too late for a status: the last resort of a stream that has begun
                if not isinstance(error, YiwenError):
                    log.exception("a stream failed")
                await self._say(send, self._failed(error))
            if self._last:
                await _send_lines(send, f"data: {self._last}")
        await send({"type": "http.response.body"})

    async def _say(self, send: Send, message: JsonObject) -> None:
        name = f"event: {message['type']}\n" if self._named else ""
        await _send_lines(send, f"{name}data: {answers.to_json(message)}")


async def _send_lines(send: Send, lines: str) -> None:
    await send({"type": "http.response.body", "body": f"{lines}\n\n".encode(), "more_body": True})
