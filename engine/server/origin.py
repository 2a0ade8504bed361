"""Who may ask from inside a browser, and under which name: our own page, under a name of ours. Knows nothing of what is
asked.

A browser lets any page open a WebSocket to any host, and send it a form, and says in `Origin` whose page that was. So a
page of another host could otherwise use the model of whoever visits it. Programs send no `Origin`. And a page can have
its own name lead to this machine, once the browser has loaded it from elsewhere: then it is of our host as far as the
browser knows, and only the name in `Host` gives it away.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import RequestError
from engine.server.errors import answer

LOCAL = ("localhost", "127.0.0.1", "::1")
ANY = "*"
_ONLY_READ = ("GET", "HEAD", "OPTIONS")  # the answer is kept from the other page by its browser
_PREFLIGHT_SECONDS = 3600


class ForeignPage(RequestError):
    status = 403
    code = "foreign_page"


class ForeignHost(RequestError):
    status = 403
    code = "foreign_host"


class OwnHostOnly:
    """`allowed`: names, `*` for all, `*.example.com` for all below one. Without any, all are answered, but for a server
    that listens to this machine only."""

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str]) -> None:
        self._app = app
        self._names = {_host_name(name) for name in (*LOCAL, host, *allowed) if not name.startswith(ANY)}
        self._below = tuple(name[1:].lower() for name in allowed if name.startswith("*."))
        self._all = ANY in allowed or not (allowed or _is_local(host))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._all or scope["type"] == "lifespan" or self._is_ours(host := _header(scope, b"host")):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        refusal = ForeignHost(
            f"Nobody may ask here for the host {host[:80]!r}; start Yiwen with --allowed-hosts and that name if it is "
            "yours, or have the proxy in front of it pass on another."
        )
        await answer(refusal, scope)(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        """Without a name it was no browser."""
        name = _host_name(host) or ""
        return not host or name in self._names or name.endswith(self._below)


class OwnPageOnly:
    """`allowed`: origins of others whose pages may ask too, `*` for all."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str] = ()) -> None:
        self._app, self._allowed = app, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        acts = scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _ONLY_READ)
        origin = _header(scope, b"origin") if acts else ""
        if origin and not self._may_ask(origin, Headers(scope=scope)):
            if scope["type"] == "websocket":  # an empty 403: no page can read what comes with it
                return await send({"type": "websocket.close", "code": 1008})
            refusal = ForeignPage(
                f"A page of {origin[:80]!r} asked, and only pages of this host may; open Yiwen's own page, or name "
                "that origin in --allowed-origins. "
                "A proxy in front of Yiwen must pass on Host, or send X-Forwarded-Host."
            )
            return await answer(refusal, scope)(scope, receive, send)
        await self._app(scope, receive, send)

    def _may_ask(self, origin: str, headers: Headers) -> bool:
        return origin in self._allowed or ANY in self._allowed or not _is_foreign(origin, headers)


class Cors(CORSMiddleware):
    """Lets pages of named origins read our answers, refusals too. They bring a key, never a cookie."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=(ANY,),
            expose_headers=("Retry-After", "Content-Disposition"),
            max_age=_PREFLIGHT_SECONDS,
        )


def _header(scope: Scope, name: bytes) -> str:
    """The first of this name; `Headers` would take longer to make than all else here takes."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_foreign(origin: str, headers: Headers) -> bool:
    """Ports are not compared, since proxies drop them; a page cannot send a header of a proxy's without our consent."""
    scheme, _, netloc = origin.partition("://")
    if scheme.lower() not in ("http", "https", "null"):  # null: a file, or a frame that may not say where it is from
        return False  # a browser's extension, or an app: the user has installed it
    hosts = [host for name in ("Host", "X-Forwarded-Host") for host in headers.get(name, "").split(",")]
    own = {_host_name(host.strip()) for host in hosts}
    return _host_name(netloc) not in own - {None}


@lru_cache(256)
def _host_name(netloc: str) -> str | None:
    """Without its port, in small letters; an address of IPv6 may come without brackets."""
    try:
        return urlsplit(f"//[{netloc}]" if netloc.count(":") > 1 and "[" not in netloc else f"//{netloc}").hostname
    except ValueError:  # a bracket that is not closed
        return None
