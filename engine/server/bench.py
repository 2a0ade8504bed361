"""`/bench`: a short benchmark, a point at a time as server-sent events. Knows HTTP; `benchmark` measures."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from engine.benchmark import MOST_SECONDS, Benchmark
from engine.metrics import Metrics
from engine.server import answers, questions, runs
from engine.server.errors import describe
from engine.server.questions import JsonObject
from engine.translator import Translator

_ERRORS = answers.refusals(
    {
        400: "Broken JSON",
        409: "A benchmark is running already",
        422: "The number of seconds is not from 1 to 10",
        503: "Too busy, or the model is still being loaded (see Retry-After)",
    }
)


class BenchFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    seconds: float = Field(
        default=MOST_SECONDS, ge=1, le=MOST_SECONDS, description=f"a number from 1 to {MOST_SECONDS}: of the whole"
    )


def router(translator: Translator, metrics: Metrics) -> APIRouter:
    api = APIRouter()

    @api.post(
        "/bench",
        summary="How fast the model is, for 1, 2, 4, … segments at once",
        description="On sentences of our own, in turn with whoever else translates. Server-sent events: a point is "
        '`{"type": "point", "streams": 4, "tokens_per_second": 310.5, "first_token_ms": 22.1}`, the last is '
        '`{"type": "done"}` or an error. To leave is to stop it.',
        responses={200: {"content": {"text/event-stream": {}}}, **_ERRORS},
        openapi_extra=questions.body_schema("/bench", BenchFields, required=False),
    )
    async def bench(request: Request) -> Response:
        body = await request.body()
        fields = questions.read_fields(questions.read_json(body) if body else {}, BenchFields)
        return runs.EventStream(_points(translator.benchmark, metrics, fields.seconds), _failed)

    return api


async def _points(benchmark: Benchmark, metrics: Metrics, seconds: float) -> AsyncGenerator[JsonObject, None]:
    with metrics.run() as run, benchmark.begun(seconds) as points:
        tokens = 0
        async with aclosing(points):
            async for point in points:
                run.spoke()
                said = asdict(point)
                tokens += said.pop("tokens")
                yield {"type": "point", **said}
        run.finished(segments=0, input_tokens=0, output_tokens=tokens)
        yield {"type": "done"}


def _failed(error: Exception) -> JsonObject:
    return {"type": "error", **describe(error)}
