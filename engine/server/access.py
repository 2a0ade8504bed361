"""One line and one count for each request: what was asked, how it ended, how long it took. The outermost layer.

Knows routes, not what is asked: no text, no query, and no path but the route's own, since paths name documents and
anybody can make them up. Addresses are logged at the level debug alone.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Collection
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.log import request_id
from engine.metrics import Histogram, Run
from engine.server.errors import path_of
from engine.types import new_id

HEADER = b"x-request-id"
CLIENT_LEFT = 499  # nginx's number; nobody has read that answer
NOBODY = "other"  # the route of what no route takes
PAGE = "page"  # that of all that the page brings with it
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Asked for again and again, by machines and by the page itself
_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/system", "/health", PAGE})
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)
_on_socket: ContextVar[bool] = ContextVar("on_socket", default=False)


class Requests:
    """What was answered. Routes are templates, so that nobody can make up more of them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, int]] = Counter()  # by route, method and status
        self.seconds: dict[str, Histogram] = {}  # by route, without WebSockets


class AccessLog:
    """`paths` of routes, of which those without parameters tell the route of what is refused before it comes there."""

    def __init__(self, app: ASGIApp, requests: Requests, paths: Collection[str]) -> None:
        self._app, self._requests, self._paths = app, requests, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        app, root, path = scope.get("app"), scope.get("root_path", ""), path_of(scope)
        own_id = _taken_over(scope) or new_id()
        request_id.set(own_id)  # for good: the server's own lines, after us, are of this request too
        socket = scope["type"] == "websocket"
        _on_socket.set(socket)
        status = size = 0
        began = time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status, size
            match message["type"]:
                case "http.response.body" | "websocket.http.response.body":
                    size += len(message.get("body", b""))
                case "http.response.start" | "websocket.accept" | "websocket.http.response.start":
                    status = message.get("status", 101)
                    message["headers"] = [*message.get("headers", ()), (HEADER, own_id.encode())]
                case "websocket.send":
                    size += len(message.get("text") or message.get("bytes") or "")
                case "websocket.close" if not status:
                    status = 403
            await send(message)

        try:
            await self._app(scope, receive, told)
        except Exception:
            status = status or 500
            raise
        finally:
            seconds = time.perf_counter() - began
            route = path if path in self._paths else _template(scope, app, root)
            method = "WEBSOCKET" if socket else scope["method"] if scope["method"] in METHODS else "OTHER"
            status = status or CLIENT_LEFT
            scope.setdefault("state", {})["answered"] = method, route, status
            self._requests.counts[route, method, status] += 1
            if not socket:
                self._requests.seconds.setdefault(route, Histogram()).add(seconds)
            level = logging.DEBUG if route in _QUIET or route.endswith("/{path}") else logging.INFO
            if log.isEnabledFor(level):
                fields = {
                    "method": method,
                    "route": route,
                    "status": status,
                    "seconds": round(seconds, 4),
                    "bytes": size,
                    **_client(scope),
                }
                log.log(level, "closed" if socket else "answered", extra={"fields": fields})


def log_run(run: Run) -> None:
    """A listener of the metrics: a line for each run of a WebSocket, and for others where much is to be told."""
    level = logging.INFO if _on_socket.get() else logging.DEBUG
    if log.isEnabledFor(level):
        fields = {
            "outcome": run.outcome,
            "seconds": round(run.ended - run.began, 4),
            "first_text_seconds": None if run.spoke is None else round(run.spoke - run.began, 4),
            "segments": run.segments,
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
        }
        log.log(level, "run", extra={"fields": fields})


def _template(scope: Scope, app: object, root: str) -> str:
    """The route's; `app` and `root` are the scope's as it came in. There are few, whatever is asked for: all that no
    route takes is one."""
    if scope.get("app") is not app:  # the page, which is an app of its own
        return PAGE
    if template := getattr(scope.get("route"), "path_format", None):
        return str(template)
    if (mounted := str(scope.get("root_path", ""))) != root:
        return f"{mounted.removeprefix(root)}/{{path}}"
    return NOBODY


def _taken_over(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return given.decode() if _ID.fullmatch(given) else ""


def _client(scope: Scope) -> dict[str, str | None]:
    client = scope.get("state", {}).get("client")
    address = scope["client"][0] if scope.get("client") and log.isEnabledFor(logging.DEBUG) else None
    return {"client": getattr(client, "name", None) or None, "address": address}
