"""DeepL's API, for programs that speak to it and may be told another address: texts, languages and usage; documents and
glossaries are beside. Knows HTTP, DeepL's shapes, and the door."""

import asyncio
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.documents.store import Documents
from engine.errors import BrokenMarkup, InvalidRequest, NotSupported
from engine.markup.parse import PARSERS
from engine.metrics import Metrics
from engine.server import deepl_documents, deepl_fields, deepl_glossaries, incoming, others, questions
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import Finished, Format, ModelInfo, Split, TagRules, TranslationRequest, new_id

UNLIMITED = 1_000_000_000_000  # characters, which is how DeepL says that there is no limit

_SPLITS: dict[str, Split] = {"0": "none", "1": "sentences", "nonewlines": "no_newlines"}
_RESOURCES = {  # of /v3/languages: what each does, and of which side of a translation that must be supported
    "translate_text": ("formality", "tag_handling", "glossary", "auto_detection"),
    "translate_document": ("formality", "glossary", "auto_detection"),
    "glossary": (),
}
_SIDES = {
    "formality": ("target",),
    "tag_handling": ("source", "target"),
    "glossary": ("source", "target"),
    "auto_detection": ("source",),
}
# DeepL's own, of which nothing is here
_ABSENT = ("/v2/admin", "/v2/write", "/v3/style_rules", "/v3/translation_memories", "/v2/voice", "/v3/voice")
_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def routers(
    translator: Translator, metrics: Metrics, documents: Documents, glossaries: Glossaries
) -> tuple[APIRouter, ...]:
    usage = deepl_fields.Usage()
    return (
        _texts(translator, metrics, glossaries, usage),
        deepl_documents.router(translator, documents, glossaries, usage),
        deepl_glossaries.router(translator, glossaries),
    )


def _texts(translator: Translator, metrics: Metrics, glossaries: Glossaries, usage: deepl_fields.Usage) -> APIRouter:
    api = APIRouter(include_in_schema=False)

    @api.post("/v2/translate")
    async def translate(request: Request) -> Response:
        fields = deepl_fields.read(await deepl_fields.asked(request), deepl_fields.TextOptions)
        choice = await deepl_fields.choice(fields, translator.info, glossaries)
        run_id = new_id()  # one for all texts: they take turns with other requests as one
        formats = await _formats(fields)
        asked = [_request(fields, choice, *each, run_id) for each in zip(fields.text, formats, strict=True)]
        work = others.translate_all(translator, metrics, asked)
        finished = await incoming.while_connected(request.receive, work)
        usage.characters += sum(map(len, fields.text))
        answers = [_answer(fields, text, each) for text, each in zip(fields.text, finished, strict=True)]
        return JSONResponse({"translations": answers})

    @api.api_route("/v2/languages", methods=["GET", "POST"])
    async def languages(request: Request) -> Response:
        kind = (await deepl_fields.asked(request)).get("type") or "source"
        if kind not in ("source", "target"):
            raise InvalidRequest("type must be source or target.")
        return JSONResponse(list(_sources(translator.info) if kind == "source" else _targets(translator.info)))

    @api.api_route("/v2/usage", methods=["GET", "POST"])
    async def used(_request: Request) -> Response:
        return JSONResponse({"character_count": usage.characters, "character_limit": UNLIMITED})

    @api.get("/v3/languages")
    async def languages_of(request: Request) -> Response:
        resource = request.query_params.get("resource") or request.query_params.get("product", "")
        if resource not in _RESOURCES:
            raise InvalidRequest(f"resource must be one of: {', '.join(_RESOURCES)}.")
        return JSONResponse(list(_languages(translator.info, _RESOURCES[resource])))

    @api.get("/v3/languages/resources")
    async def resources(_request: Request) -> Response:
        def described(name: str) -> questions.JsonObject:
            features = [{"name": each, **_needs(each)} for each in _RESOURCES[name]]
            return {"name": name, "features": features}

        return JSONResponse([described(name) for name in _RESOURCES])

    @api.get("/v3/style_rules")
    async def style_rules(_request: Request) -> Response:
        return JSONResponse({"style_rules": []})

    @api.get("/v3/translation_memories")
    async def translation_memories(_request: Request) -> Response:
        return JSONResponse({"translation_memories": [], "total_count": 0})

    async def refuse(request: Request) -> Response:
        raise NotSupported(f"{request.url.path[:80]} is an address of DeepL's for something that Yiwen does not do.")

    for start in _ABSENT:
        for path in (start, f"{start}/{{rest:path}}"):
            api.add_api_route(path, refuse, methods=_ALL_METHODS)
    return api


async def _formats(fields: deepl_fields.TextOptions) -> list[Format]:
    """Of each text. The second version of DeepL's tag handling refuses an XML that is not well formed; the first takes
    what tags there are, as a reader of HTML does."""
    if fields.tag_handling == "xml" and fields.tag_handling_version != "v2":
        return await asyncio.to_thread(lambda: ["xml" if _is_well_formed(text) else "html" for text in fields.text])
    return [fields.tag_handling or "text"] * len(fields.text)


def _is_well_formed(xml: str) -> bool:
    try:
        PARSERS["xml"].parse(xml)
    except BrokenMarkup:
        return False
    return True


def _request(
    fields: deepl_fields.TextOptions, choice: deepl_fields.Choice, text: str, markup: Format, run_id: str
) -> TranslationRequest:
    return TranslationRequest(
        text=text,
        target=choice.target,
        source=choice.source,
        format=markup,
        tags=TagRules(
            ignore=frozenset(fields.ignore_tags),
            splitting=frozenset(fields.splitting_tags),
            non_splitting=frozenset(fields.non_splitting_tags),
            outline=fields.outline_detection,
        ),
        split=_SPLITS[fields.split_sentences],
        glossary=choice.terms,
        context=fields.context,
        style=choice.style,
        id=run_id,
    )


def _answer(fields: deepl_fields.TextOptions, text: str, finished: Finished) -> questions.JsonObject:
    """`billed_characters` whether they were asked for or not: DeepL's own client takes an answer without for broken."""
    answer: questions.JsonObject = {
        "detected_source_language": deepl_fields.code_of(finished.source),
        "text": finished.text,
        "billed_characters": len(text),
    }
    if fields.model_type:  # there is one model, and it is what was wished for
        answer["model_type_used"] = fields.model_type.removeprefix("prefer_")
    return answer


def _sources(model: ModelInfo) -> Iterator[questions.JsonObject]:
    for ours in model.languages:
        code, name = deepl_fields.names_of_source(ours)
        yield {"language": code, "name": name}


def _targets(model: ModelInfo) -> Iterator[questions.JsonObject]:
    for ours in model.languages:
        formality = deepl_fields.has_formality(model, ours)
        for code, name in deepl_fields.names_of_target(ours).items():
            yield {"language": code, "name": name, "supports_formality": formality}


def _languages(model: ModelInfo, features: tuple[str, ...]) -> Iterator[questions.JsonObject]:
    """Each language and each of its variants, as /v3/languages has them: codes as BCP 47 writes them."""
    for ours in model.languages:
        variants = deepl_fields.names_of_target(ours)
        source, name = deepl_fields.names_of_source(ours)
        for code in dict.fromkeys((source, *variants)):
            sides = {"source": code == source, "target": code in variants}
            has = {
                each: {"status": "stable"}
                for each in features
                if any(sides[side] for side in _SIDES[each])
                and (each != "formality" or deepl_fields.has_formality(model, ours))
            }
            yield {
                "lang": _bcp47(code),
                "name": name if code == source else variants[code],
                "usable_as_source": sides["source"],
                "usable_as_target": sides["target"],
                "status": "stable",
                "features": has,
            }


def _needs(feature: str) -> dict[str, bool]:
    return {f"needs_{side}_support": True for side in _SIDES[feature]}


def _bcp47(code: str) -> str:
    """ZH-HANT → zh-Hant, EN-US → en-US"""
    language, _, rest = code.partition("-")
    return language.lower() + (f"-{rest if len(rest) == 2 else rest.title()}" if rest else "")
