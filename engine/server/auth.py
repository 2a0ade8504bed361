"""Nobody gets in without a key: not to an address of ours, nor to the page's, nor to one that does not exist. Knows
where the programs of each service put a key, and nothing of what they ask.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, unquote_plus

from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import Unauthorized
from engine.server import login
from engine.server.clients import Client, client_of, is_asked_by
from engine.server.errors import answer, path_of
from engine.server.keys import MOST_CHARACTERS, Key, Keys

OPEN = frozenset(("/healthz", "/readyz", "/health", login.PATH))
# LibreTranslate's programs (Weblate) ask without their key which languages there are, and its link to a translated
# file is the secret itself. A wrong key is refused there too.
_TOLD_ANYBODY = re.compile("/languages|/frontend/settings|/download_file/[^/]+")
SCHEMES = ("bearer", "deepl-auth-key")
MOST_LOOKED_AT = 1024**2  # bytes of a body; a larger one brings its key in a header
MOST_HELD = 64 * 1024**2  # of all bodies that are looked at: anybody may send them, and as slowly as he likes
LOOK_SECONDS = 2.0  # between two looks at whether the key of an open socket counts still

# Where a body may hold the key: the field's name, by what the address begins with.
_LIBRETRANSLATE = ("/translate", "/detect", "/languages", "/suggest")  # and /translate_file
_FIELDS = {"/v2/": "auth_key", **dict.fromkeys(_LIBRETRANSLATE, "api_key")}


class NeedsKey:
    def __init__(self, app: ASGIApp, keys: Keys, sessions: login.Sessions) -> None:
        self._app, self._keys, self._sessions = app, keys, sessions
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and path_of(scope) in OPEN):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        given = _in_headers(headers) or _in_query(scope)
        if given:
            key = self._keys.find(given)
        elif (key := self._sessions.read(headers.get("Cookie", ""))) is None and scope["type"] == "http":
            given, receive = await self._in_body(scope, headers, receive)
            key = self._keys.find(given) if given else None
        if key is None and not given and scope["type"] == "http" and _TOLD_ANYBODY.fullmatch(path_of(scope)):
            return await self._app(scope, receive, send)
        if key is None:
            return await _refuse(scope, receive, send, headers, given)
        address = client_of(scope).address
        is_asked_by(scope, Client(address, key.name, key.requests_per_minute, key.tokens_per_minute))
        if scope["type"] == "websocket":
            return await self._while_it_counts(key, scope, receive, send)
        await self._app(scope, receive, _kept_by_nobody_else(send))

    async def _in_body(self, scope: Scope, headers: Headers, receive: Receive) -> tuple[str, Receive]:
        """The key, and a `receive` that says again what was read to find it."""
        path = path_of(scope)
        field = next((field for start, field in _FIELDS.items() if path.startswith(start)), None)
        length = headers.get("Content-Length", "")
        multipart = headers.get("Content-Type", "").lower().startswith("multipart/")
        too_long = length.isdecimal() and int(length) > MOST_LOOKED_AT and not multipart
        if field is None or too_long or length == "0" or not (length or "Transfer-Encoding" in headers):
            return "", receive
        read = bytearray()  # as one, since a body may come a byte at a time
        message: Message = {"type": "http.request", "more_body": True}
        try:
            while message.get("more_body") and len(read) <= MOST_LOOKED_AT and self._held <= MOST_HELD:
                message = await receive()
                part = message.get("body", b"")
                read += part
                self._held += len(part)
        finally:
            self._held -= len(read)
        if message["type"] == "http.request":
            message = {**message, "body": bytes(read)}
        return _found(bytes(read[:MOST_LOOKED_AT]), field, multipart), _again(message, receive)

    async def _while_it_counts(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        """A socket may be open for days, and closes when its key is taken away."""
        over = False

        async def watch() -> None:
            nonlocal over
            while self._keys.has(key):
                await asyncio.sleep(LOOK_SECONDS)
            over = True
            await send({"type": "websocket.close", "code": 1008})

        async def say(message: Message) -> None:
            if over:
                raise OSError  # as when the client has left
            await send(message)

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, receive, say)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def _kept_by_nobody_else(send: Send) -> Send:
    """A cache on the way knows that of answers to `Authorization`, and of no other place for a key."""

    async def say(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if not any(name == b"cache-control" for name, _ in headers):
                message = {**message, "headers": [*headers, (b"cache-control", b"private")]}
        await send(message)

    return say


def _in_headers(headers: Headers) -> str:
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    if scheme.lower() in SCHEMES:
        return given.strip()
    return headers.get("X-API-Key", "")


def _in_query(scope: Scope) -> str:
    if not (query := scope["query_string"]):
        return ""
    names = ("token",) if path_of(scope).startswith("/deeplx") else ("api_key", "auth_key")
    try:
        asked = parse_qs(query.decode("latin-1"), max_num_fields=100)
    except ValueError:
        return ""
    return next((asked[name][0] for name in names if name in asked), "")


def _again(message: Message, receive: Receive) -> Callable[[], Awaitable[Message]]:
    said = [message]

    async def replayed() -> Message:
        return said.pop() if said else await receive()

    return replayed


def _found(body: bytes, field: str, multipart: bool) -> str:
    """Looked for by its field's name; who sends a text about such fields sends its quotes escaped.

    In linear time, since anybody may ask: no more is looked at than a key is long and a part has headers.
    """
    if body.lstrip().startswith(b"{"):
        pattern = rf'"{field}"\s*:\s*"([^"\\]{{1,{MOST_CHARACTERS}}})"'
    elif multipart:
        part = r"[ \t]*\r\n(?i:Content-[^\r\n]{1,200}\r\n){0,3}\r\n"
        pattern = rf'name="?{field}"?{part}([^\r\n]{{1,{MOST_CHARACTERS}}})\r\n'
    else:
        form = re.search(rf"(?:^|&){field}=([^&]{{1,{3 * MOST_CHARACTERS}}})(?:&|\Z)".encode(), body)
        return unquote_plus(form[1].decode(errors="replace")) if form else ""
    found = re.search(pattern.encode(), body)
    return found[1].decode(errors="replace") if found else ""


async def _refuse(scope: Scope, receive: Receive, send: Send, headers: Headers, given: str) -> None:
    if scope["type"] == "websocket":  # before it is accepted: an empty 403, since no page can read what comes with it
        return await send({"type": "websocket.close", "code": 1008})
    is_page = scope["method"] == "GET" or path_of(scope) == login.LEAVE
    if not given and is_page and "text/html" in headers.get("Accept", ""):
        return await RedirectResponse(login.where(scope), 303, {"Cache-Control": "no-store"})(scope, receive, send)
    refusal = Unauthorized(
        "This key is not known here, or no longer; ask whoever runs this server for another."
        if given
        else "A key is needed here, and none came; send one as Authorization: Bearer KEY, or sign in at /login."
    )
    await answer(refusal, scope)(scope, receive, send)
