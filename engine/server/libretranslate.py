"""LibreTranslate's API: its fields and answers at `/translate` and `/detect`, and the addresses that are its alone.

Knows HTTP, the door, and the stores of documents and suggestions. Codes of languages are taken as it writes them, old
and new (zt, zh-Hant, pb, pt-BR), and given as ours. Errors are in its words.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TypeGuard
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.config import Config
from engine.detect import detect
from engine.documents.folder import Job, Order
from engine.documents.read import KINDS
from engine.documents.store import Documents, result_name
from engine.errors import BackendError, BadDocument, NoSuchDocument, RequestError, UnknownLanguage
from engine.languages import LANGUAGES, resolve_any
from engine.metrics import Metrics
from engine.server import incoming, others
from engine.server.download import Download
from engine.server.questions import MAX_ALTERNATIVES, MAX_TEXTS, JsonObject
from engine.suggestions import Suggestion, Suggestions
from engine.translator import Translator
from engine.types import Finished, Format, Guess, TranslationRequest

UPLOAD = "/translate_file"
DOWNLOAD = "/download_file"
MAX_FORM_FIELDS = 20
LOOK_SECONDS = 0.05, 1.0  # between two looks at a document: at first, and at the longest
FRONTEND_TIMEOUT_MS = 500  # after the last key, as LibreTranslate's own page waits
NOTHING_FOUND = Guess("en", 0.0)  # what it says of a text without letters

_NAMES = ("q", "source", "target")
_FORMATS: dict[str, Format] = {"text": "text", "html": "html"}
_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?")


async def read(request: Request) -> object:
    """The body; where it is LibreTranslate's together with the query, in which all of it may stand."""
    if not request.scope["query_string"]:
        return await incoming.read(request)
    query = dict(request.query_params)
    body = {} if is_asked(query) and not await request.body() else await incoming.read(request)
    return {**query, **body} if isinstance(body, dict) and is_asked({**query, **body}) else body


def is_asked(fields: object) -> TypeGuard[JsonObject]:
    """Whether a body is LibreTranslate's, by the names that only it uses."""
    return isinstance(fields, dict) and "text" not in fields and not fields.keys().isdisjoint(_NAMES)


async def translate(
    translator: Translator, metrics: Metrics, request: Request, fields: Mapping[str, object]
) -> Response:
    many = isinstance(fields.get("q"), list)
    texts, source, target = _texts(fields), _word(fields, "source"), _word(fields, "target")
    count = _alternatives(fields)
    _refuse_unknown(source, target, translator)
    asked = others.requests(texts, source, target, _format(fields))
    work = _translated(translator, metrics, asked, count)
    finished, found = await incoming.while_connected(request.receive, work)
    answer: JsonObject = {"translatedText": [one.text for one in finished]}
    if _is_auto(source):
        answer["detectedLanguage"] = [_guess((*one.detection, NOTHING_FOUND)[0]) for one in finished]
    if count:
        answer["alternatives"] = found
    return JSONResponse(answer if many else {name: each[0] for name, each in answer.items()})


async def which(fields: Mapping[str, object]) -> Response:
    """Of a list one answer for all, as LibreTranslate has it: each language with its mean, that of most text first."""
    texts = _texts(fields)
    found = await asyncio.to_thread(lambda: [detect(_sound(text), LANGUAGES) for text in texts])
    scores, sizes = defaultdict[str, list[float]](list), defaultdict[str, float](float)
    for text, guesses in zip(texts, found, strict=True):
        for guess in guesses:
            scores[guess.lang].append(guess.score)
            sizes[guess.lang] += guess.score * len(text)
    means = [Guess(lang, sum(scores[lang]) / len(scores[lang])) for lang in sorted(sizes, key=sizes.__getitem__)[::-1]]
    likely = [mean for mean in means if _guess(mean)["confidence"]]
    return JSONResponse([_guess(mean) for mean in likely or [NOTHING_FOUND]])


def router(config: Config, translator: Translator, documents: Documents, suggestions: Suggestions) -> APIRouter:
    api = APIRouter(include_in_schema=False)

    @api.post(UPLOAD)
    async def translate_file(request: Request) -> Response:
        name, data, said = await incoming.document(request, MAX_FORM_FIELDS, _missing("file"))
        source, target = (_word(dict(said), word) for word in ("source", "target"))
        if not name:
            raise RequestError("Invalid request: empty file")
        if PurePosixPath(name).suffix.lower() not in KINDS:
            raise RequestError("Invalid request: file format not supported")
        _refuse_unknown(source, target, translator)
        (asked,) = others.requests([""], source, target, "auto")
        job = await documents.add(data, Order(name, asked))
        try:
            await incoming.while_connected(request.receive, _end(documents, job))
        except BaseException:
            with suppress(NoSuchDocument):  # nobody else knows of it
                await documents.remove(job.id)
            raise
        return JSONResponse({"translatedFileUrl": f"{_base(request)}{DOWNLOAD}/{job.id}.{quote(result_name(job))}"})

    @api.get(f"{DOWNLOAD}/{{name}}")
    async def download(name: str) -> Response:
        return Download(*await documents.result(name.partition(".")[0]))

    @api.get("/frontend/settings")
    async def settings() -> Response:
        known = translator.info.languages
        target = LANGUAGES["en" if "en" in known else known[0]]
        return JSONResponse(
            {
                "apiKeys": config.api_keys is not None,
                "charLimit": config.max_text_tokens,  # a token has a character at the least
                "filesTranslation": True,
                "frontendTimeout": FRONTEND_TIMEOUT_MS,
                "keyRequired": config.api_keys is not None,
                "language": {
                    "source": {"code": others.AUTO, "name": "Auto Detect"},
                    "target": {"code": target.code, "name": target.english},
                },
                "suggestions": True,
                "supportedFilesFormat": KINDS,
            }
        )

    @api.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @api.get("/spec")
    async def spec(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    @api.post("/suggest")
    async def suggest(request: Request) -> Response:
        if not isinstance(fields := await read(request), dict):
            raise RequestError("Invalid JSON format")
        said = [_word(fields, name) for name in ("q", "s", "source", "target")]
        source, target = (resolve_any(code) for code in said[2:])
        if not source or not target:
            raise _unknown(said[3] if source else said[2])
        await suggestions.add(Suggestion(source, target, said[0], said[1]))
        return JSONResponse({"success": True})

    return api


async def _translated(
    translator: Translator, metrics: Metrics, asked: Sequence[TranslationRequest], count: int
) -> tuple[list[Finished], list[list[str]]]:
    if not count:
        return await others.translate_all(translator, metrics, asked), []
    each = [await others.translate_with_others(translator, metrics, request, count) for request in asked]
    return [finished for finished, _ in each], [found for _, found in each]


async def _end(documents: Documents, job: Job) -> None:
    """Comes back when the document is done. Raises why it failed."""
    pause, longest = LOOK_SECONDS
    while not documents.get(job.id).ended:
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
    if job.status == "error" and job.error:
        sentence, code = job.error
        raise BackendError(sentence) if code == BackendError.code else BadDocument(sentence)


def _texts(fields: Mapping[str, object]) -> list[str]:
    q = fields.get("q")
    if not q:
        raise _missing("q")
    said = q if isinstance(q, list) else [q]
    if len(said) > MAX_TEXTS:
        raise RequestError(f"Invalid request: request ({len(said)}) exceeds text limit ({MAX_TEXTS})")
    if len(texts := [text for text in said if isinstance(text, str)]) < len(said):
        raise RequestError(f"q must be a string, or a list of 1 to {MAX_TEXTS} strings.")
    return texts


def _word(fields: Mapping[str, object], name: str) -> str:
    if not (value := fields.get(name)):
        raise _missing(name)
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a string.")
    return value


def _alternatives(fields: Mapping[str, object]) -> int:
    said = fields.get("alternatives") or 0
    if isinstance(said, bool) or not re.fullmatch(r"[+-]?\d{1,9}", str(said)[:20]):
        raise RequestError("Invalid request: alternatives parameter is not a number")
    if (count := int(str(said))) > MAX_ALTERNATIVES:
        raise RequestError(f"Invalid request: alternatives parameter must be <= {MAX_ALTERNATIVES}")
    return max(0, count)


def _format(fields: Mapping[str, object]) -> Format:
    said = fields.get("format") or "text"
    if not isinstance(said, str) or said not in _FORMATS:
        raise RequestError(f"{_shown(said)} format is not supported")
    return _FORMATS[said]


def _missing(name: str) -> RequestError:
    return RequestError(f"Invalid request: missing {name} parameter")


def _refuse_unknown(source: str, target: str, translator: Translator) -> None:
    for code in (target,) if _is_auto(source) else (source, target):
        if resolve_any(code) not in translator.info.languages:
            raise _unknown(code)


def _unknown(code: str) -> UnknownLanguage:
    return UnknownLanguage(f"{_shown(code)} is not supported")


def _is_auto(source: str) -> bool:
    return source.strip().casefold() == others.AUTO


def _shown(value: object) -> str:
    return _sound(str(value)[:40])


def _sound(text: str) -> str:
    """Without halves of characters, which JSON can say and no encoding has."""
    return text.encode(errors="ignore").decode()


def _guess(guess: Guess) -> JsonObject:
    return {"confidence": round(100 * guess.score), "language": guess.lang}


def _base(request: Request) -> str:
    """Where we are, as who asks sees it: behind a proxy that does not pass on Host, as that says. It is told to nobody
    else, so that who sends a false one fools himself alone."""
    said = {name: request.headers.get(f"X-Forwarded-{name}", "").split(",")[0].strip() for name in ("Host", "Proto")}
    host = next((each for each in (said["Host"], request.headers.get("Host", "")) if _HOST.fullmatch(each)), "")
    scheme = said["Proto"] if said["Proto"] in ("http", "https") else request.url.scheme
    path = request.scope.get("root_path", "")
    return f"{scheme}://{host}{path}" if host else path
