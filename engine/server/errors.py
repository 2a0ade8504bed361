"""Every way a request can fail, said as {"error": sentence, "code": word}. Knows HTTP, not what was asked."""

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engine.errors import Overloaded, YiwenError

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


def answer(error: YiwenError) -> Response:
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, Overloaded) else None
    return JSONResponse(describe(error), error.status, headers)


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(YiwenError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, YiwenError)
    return answer(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = _SENTENCES.get(error.status_code, error.detail).replace("{method}", request.method)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return JSONResponse({"error": sentence, "code": code}, error.status_code, error.headers)


async def _unforeseen(_request: Request, error: Exception) -> Response:
    return JSONResponse(describe(error), 500)  # Starlette raises it again after this, and the server logs it
