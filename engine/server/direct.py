"""The straight way to an endpoint. Knows FastAPI and no face."""

from collections.abc import Awaitable, Callable, Iterable
from inspect import signature

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.server.errors import path_of

Endpoint = Callable[[Request], Awaitable[Response]]


class Straight:
    """An endpoint that takes the request alone and answers with a response needs nothing that FastAPI does around it:
    to find it among all routers takes as long as a short text. Others, and what no route takes, go the whole way.

    To be the last middleware, since it stands for the app.
    """

    def __init__(self, app: ASGIApp, of: FastAPI, faces: Iterable[APIRouter]) -> None:
        self._app = app
        self._ways: dict[tuple[str, str], tuple[APIRoute, ASGIApp]] = {}
        # but for what nobody foresaw, which goes on to the server, and so into the log
        handlers = {kind: each for kind, each in of.exception_handlers.items() if kind not in (500, Exception)}
        for route in (route for face in faces for route in face.routes):
            if isinstance(route, APIRoute) and "{" not in route.path and not route.dependencies and _is_plain(route):
                way = ExceptionMiddleware(_answering(route.endpoint), handlers=handlers)
                for method in route.methods or ():
                    self._ways.setdefault((method, route.path), (route, way))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (found := self._ways.get((scope["method"], path_of(scope)))):
            scope["route"], way = found
            await way(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_plain(route: APIRoute) -> bool:
    said = signature(route.endpoint, eval_str=True)
    return [each.annotation for each in said.parameters.values()] == [Request] and said.return_annotation is Response


def _answering(endpoint: Endpoint) -> ASGIApp:
    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return answering
