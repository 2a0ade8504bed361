"""Every way a request can fail, said as {"error": sentence, "code": word}, or as the service whose address was asked
says it. Knows HTTP, not what was asked."""

import errno
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from engine.errors import NotStored, TryLater, YiwenError
from engine.log import request_id

Said = Mapping[str, str]  # {"error": sentence, "code": word}

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
_FEWER = {409: 400, 415: 400, 422: 400, 507: 503}  # of our numbers, those that DeepL's and OpenAI's clients know not
_UNFORESEEN = "Yiwen made a mistake; its log says more."
_SENTENCES = {
    404: "Nothing is at this address; see /openapi.json for what there is.",
    405: "This address does not take {method}; see /openapi.json for what it takes.",
}


def describe(error: Exception) -> dict[str, str]:
    """An error nobody foresaw tells the caller nothing of our insides."""
    if isinstance(error, YiwenError):
        return {"error": str(error), "code": error.code}
    return {"error": _UNFORESEEN, "code": YiwenError.code}


def answer(error: YiwenError, scope: Scope) -> Response:
    return _response(scope, describe(error), error.status, _headers(error))


def path_of(scope: Scope) -> str:
    """What was asked for, without the path before ours that a proxy serves Yiwen below."""
    return str(scope.get("path", "")).removeprefix(scope.get("root_path", "")) or "/"


def _headers(error: YiwenError) -> dict[str, str] | None:
    if isinstance(error, TryLater):
        return {"Retry-After": str(error.retry_after_seconds)}
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else None


def _response(scope: Scope, said: Said, status: int, headers: Mapping[str, str] | None = None) -> Response:
    path = path_of(scope)
    shape = next((shape for start, shape in _SHAPES.items() if path.startswith(start)), None)
    content, status = shape(said, status) if shape else (said, status)
    return JSONResponse(content, status, headers)


def _as_deepl(said: Said, status: int) -> tuple[dict[str, Any], int]:
    """Its clients know 400 for all that is wrong with a request, 403 for the key, 456 for what is used up, and 503 also
    for a document that is not ready."""
    of_code = {"document_not_ready": 503, "too_many_glossaries": 456}
    status = of_code.get(said["code"], {**_FEWER, 401: 403}.get(status, status))
    return {"message": said["error"], "detail": said["code"]}, status


def as_openai(said: Said, status: int) -> tuple[dict[str, Any], int]:
    """Its clients know 400 for all that is wrong with a request."""
    kind = "server_error" if status >= 500 else {401: "authentication_error", 429: "rate_limit_error"}.get(status)
    wrong = {"message": said["error"], "type": kind or "invalid_request_error", "param": None, "code": said["code"]}
    return {"error": wrong}, _FEWER.get(status, status)


def _as_deeplx(said: Said, status: int) -> tuple[dict[str, Any], int]:
    return {"code": status, "message": said["error"]}, status


_SHAPES: dict[str, Callable[[Said, int], tuple[dict[str, Any], int]]] = {  # by what an address begins with
    "/v1/": as_openai,
    "/v2/": _as_deepl,
    "/v3/": _as_deepl,
    "/deeplx": _as_deeplx,
}


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(YiwenError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _of_the_disk)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, YiwenError)
    return answer(error, request.scope)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = _SENTENCES.get(error.status_code, error.detail).replace("{method}", request.method)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _response(request.scope, {"error": sentence, "code": code}, error.status_code, error.headers)


async def _of_the_disk(request: Request, error: Exception) -> Response:
    """An upload that found no room, say, where nobody has said so in better words."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        raise error
    refused = NotStored(f"The disk of the server refused this ({error.strerror}); see to its temporary folder.")
    return answer(refused, request.scope)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """Starlette raises it again after this, and the server logs it. This is outside of what else names the request."""
    return _response(request.scope, describe(error), 500, {"X-Request-Id": request_id.get()})
