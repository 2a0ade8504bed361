"""`/bench`: a short benchmark, a point at a time as server-sent events. Knows HTTP; `benchmark` measures."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from engine.benchmark import MOST_SECONDS, Benchmark, Point
from engine.errors import YiwenError
from engine.server import answers, incoming, questions
from engine.server.errors import describe
from engine.server.questions import JsonObject
from engine.translator import Translator

_ERRORS = answers.refusals(
    {
        409: "A benchmark is running already",
        422: "The number of seconds is not from 1 to 10",
        503: "Too busy, or the model is still being loaded (see Retry-After)",
    }
)

log = logging.getLogger(__name__)


class BenchFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    seconds: float = Field(
        default=MOST_SECONDS, ge=1, le=MOST_SECONDS, description=f"a number from 1 to {MOST_SECONDS}: of the whole"
    )


def router(translator: Translator) -> APIRouter:
    api = APIRouter()

    @api.post(
        "/bench",
        summary="How fast the model is, for 1, 2, 4, … segments at once",
        description="On sentences of our own, in turn with whoever else translates. Server-sent events: a point is "
        '`{"type": "point", "streams": 4, "tokens_per_second": 310.5, "first_token_ms": 22.1}`, the last is '
        '`{"type": "done"}` or an error. To leave is to stop it.',
        responses={200: {"content": {"text/event-stream": {}}}, **_ERRORS},
        openapi_extra={
            "requestBody": {"content": {"application/json": {"schema": BenchFields.model_json_schema()}}},
        },
    )
    async def bench(request: Request) -> Response:
        body = await request.body()
        fields = questions.read_fields(questions.read_json(body) if body else {}, BenchFields)
        return _Points(translator.benchmark, fields.seconds)

    return api


class _Points(Response):
    """An error before it has begun is an ordinary answer."""

    media_type = "text/event-stream"

    def __init__(self, benchmark: Benchmark, seconds: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._benchmark, self._seconds = benchmark, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._benchmark.begun(self._seconds) as points:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with suppress(incoming.ClientLeft):
                await incoming.while_connected(receive, _forward(points, send))


async def _forward(points: AsyncGenerator[Point, None], send: Send) -> None:
    try:
        async with aclosing(points):
            async for point in points:
                await _send_line(send, {"type": "point", **asdict(point)})
    except Exception as error:  # too late for a status: the last resort of a stream that has begun
        if not isinstance(error, YiwenError):
            log.exception("the benchmark failed")
        await _send_line(send, {"type": "error", **describe(error)})
    else:
        await _send_line(send, {"type": "done"})
    await send({"type": "http.response.body"})


async def _send_line(send: Send, message: JsonObject) -> None:
    line = f"data: {answers.to_json(message)}\n\n".encode()
    await send({"type": "http.response.body", "body": line, "more_body": True})
