"""Who may ask from inside a browser: our own page. Knows nothing of what is asked.

A browser lets any page open a WebSocket to any host, and send it a form, and says in `Origin` whose page that was. So a
page of another host could otherwise use the model of whoever visits it. Programs send no `Origin`.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import RequestError
from engine.server.errors import answer

_ONLY_READ = ("GET", "HEAD", "OPTIONS")  # the answer is kept from the other page by its browser


class ForeignPage(RequestError):
    status = 403
    code = "foreign_page"


class OwnPageOnly:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _ONLY_READ):
            headers = Headers(scope=scope)
            if (origin := headers.get("Origin")) and _is_foreign(origin, headers):
                if scope["type"] == "websocket":  # an empty 403: no page can read what comes with it
                    return await send({"type": "websocket.close", "code": 1008})
                refusal = ForeignPage(
                    f"A page of {origin[:80]!r} asked, and only pages of this host may; open Yiwen's own page. "
                    "A proxy in front of Yiwen must pass on Host, or send X-Forwarded-Host."
                )
                return await answer(refusal, scope)(scope, receive, send)
        await self._app(scope, receive, send)


def _is_foreign(origin: str, headers: Headers) -> bool:
    """Ports are not compared, since proxies drop them; a page cannot send a header of a proxy's without our consent."""
    scheme, _, netloc = origin.partition("://")
    if scheme not in ("http", "https", "null"):  # null: a file, or a frame that may not say where it is from
        return False  # a browser's extension, or an app: the user has installed it
    hosts = [host for name in ("Host", "X-Forwarded-Host") for host in headers.get(name, "").split(",")]
    own = {_host_name(host.strip()) for host in hosts}
    return _host_name(netloc) not in own - {None}


def _host_name(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:  # a bracket that is not closed
        return None
