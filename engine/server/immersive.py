"""Immersive Translate's custom API at `/immersive`: paragraphs of a page, in a list. Knows HTTP and the door.

What is no text in a paragraph comes as `{0}`, `{{0}}` or `<b0></b0>` and goes back as it came, since plain text keeps
placeholders and tags.
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from engine.metrics import Metrics
from engine.server import incoming, others, questions
from engine.translator import Translator

PATH = "/immersive"
_ITS_CODES = {"zh": "zh-CN", "zh-Hant": "zh-TW", "tl": "fil"}  # for ours, where they are other ones


class ImmersiveFields(BaseModel):
    """A description ends the sentence 'the field must be …' in an error."""

    target_lang: str = Field(description="the code of a language, such as en")
    source_lang: str = Field(default=others.AUTO, description="the code of a language, such as zh, or auto")
    text_list: list[str] = Field(
        max_length=questions.MAX_TEXTS, description=f"a list of at most {questions.MAX_TEXTS} strings"
    )


def router(translator: Translator, metrics: Metrics) -> APIRouter:
    api = APIRouter(include_in_schema=False)

    @api.post(PATH)
    async def translate(request: Request) -> Response:
        fields = others.read_fields(await incoming.read(request), ImmersiveFields)
        asked = others.requests(fields.text_list, fields.source_lang, fields.target_lang, "text")
        work = others.translate_all(translator, metrics, asked)
        finished = await incoming.while_connected(request.receive, work)
        return JSONResponse(
            {
                "translations": [
                    {"detected_source_lang": _ITS_CODES.get(one.source, one.source), "text": one.text}
                    for one in finished
                ]
            }
        )

    return api
