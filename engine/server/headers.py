"""What browsers are told of every answer of ours: what it is, who may frame it, what it may load. Knows no address.

An answer that has a policy of its own keeps it: the studio's, which allows its scripts, is made in `ui/blocks.py`.
"""

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HSTS_SECONDS = 180 * 24 * 3600
POLICY = b"content-security-policy"

_LOCAL = ("127.0.0.1", "::1")
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a browser would call the origin of our own forms null
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_HTTPS = (b"strict-transport-security", f"max-age={HSTS_SECONDS}".encode())
_ALONE = (b"cross-origin-opener-policy", b"same-origin")  # browsers complain of it where they do not trust the line


class SecurityHeaders:
    """`framing`: origins whose pages may show ours in a frame."""

    def __init__(self, app: ASGIApp, framing: Sequence[str] = ()) -> None:
        self._app = app
        # The older header knows no list; where there is one, the policy alone says who may.
        framed = () if framing else ((b"x-frame-options", b"SAMEORIGIN"),)
        self._always = (*_ALWAYS, *framed)
        self._names = frozenset(name for name, _ in self._always)
        who = " ".join(("'self'", *framing))
        self._policy = (POLICY, f"default-src 'none'; frame-ancestors {who}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message.get("headers", ()) if name not in self._names]
                if not any(name == POLICY for name, _ in own):
                    own.append(self._policy)
                own.extend(self._always)
                if scope["scheme"] == "https":
                    own += (_HTTPS, _ALONE)
                elif (scope.get("server") or ("",))[0] in _LOCAL:
                    own.append(_ALONE)
                message["headers"] = own
            await send(message)

        await self._app(scope, receive, say)
