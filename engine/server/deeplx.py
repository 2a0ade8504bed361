"""DeepLX's API at `/deeplx`: one text. Knows HTTP and the door.

Its clients have no field for how many other translations they want, so that stands in the address, if it does:
`/deeplx?alternatives=3`. Each costs as much as the text.
"""

import secrets
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from engine.metrics import Metrics
from engine.server import incoming, others, questions
from engine.translator import Translator

PATHS = ("/deeplx", "/deeplx/translate")  # the second for clients that are told a host


class DeepLXFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    text: str = Field(description="a string")
    target_lang: str = Field(description="the code of a language, such as en")
    source_lang: str = Field(default=others.AUTO, description="the code of a language, such as zh, or auto")
    tag_handling: Literal["", "html", "xml"] = Field(default="", description="html or xml, or empty")
    alternatives: int = Field(
        default=0,
        ge=0,
        le=questions.MAX_ALTERNATIVES,
        description=f"a whole number from 0 to {questions.MAX_ALTERNATIVES}",
    )


def router(translator: Translator, metrics: Metrics) -> APIRouter:
    api = APIRouter(include_in_schema=False)

    async def translate(request: Request) -> Response:
        body = await incoming.read(request)
        if isinstance(body, dict) and (count := request.query_params.get("alternatives")):
            body = {**body, "alternatives": count}
        fields = others.read_fields(body, DeepLXFields)
        (asked,) = others.requests([fields.text], fields.source_lang, fields.target_lang, fields.tag_handling or "text")
        work = others.translate_with_others(translator, metrics, asked, fields.alternatives)
        finished, found = await incoming.while_connected(request.receive, work)
        return JSONResponse(
            {
                "code": 200,
                "id": secrets.randbelow(10**10),
                "method": "Free",
                "data": finished.text,
                "alternatives": found,
                "source_lang": finished.source.upper(),
                "target_lang": fields.target_lang.upper(),
            }
        )

    for path in PATHS:
        api.add_api_route(path, translate, methods=["POST"])
    return api
