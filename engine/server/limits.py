"""How large a request's body may be, whoever reads it: ours or the page's. Knows nothing of what is in it."""

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import RequestError
from engine.server.errors import answer, path_of

MAX_BODY_BYTES = 8 * 1024**2
DROPPED_BYTES = 64 * 1024**2  # past the limit, read and dropped: a client that still sends does not see our answer


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class LimitBody:
    """Counts each body as it comes in, so that chunked bodies are limited too.

    FastAPI's own `max_body_size` answers in plain text, and before the client has finished sending. `uploads` are
    the paths whose bodies may be larger, as may be those of what stands below them, and how many bytes those may have.
    """

    def __init__(self, app: ASGIApp, uploads: Mapping[str, int]) -> None:
        self._app, self._uploads = app, uploads
        self._starts = tuple(uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received_bytes = 0
        refusal: BodyTooLarge | None = None
        max_bytes = self._most(path_of(scope))

        async def limited() -> Message:
            nonlocal received_bytes, refusal
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes <= max_bytes:
                return message
            while message.get("more_body", False) and received_bytes <= max_bytes + DROPPED_BYTES:
                message = await receive()
                received_bytes += len(message.get("body", b""))
            refusal = BodyTooLarge(
                f"The request is larger than {max_bytes // 1024**2} MiB, the most that is taken; send it in parts."
            )
            raise refusal

        async def say(message: Message) -> None:
            if refusal is None:  # else the app says in its own way what we shall say in ours
                await send(message)

        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            await self._app(scope, limited, say)
        except ClientDisconnect:
            return  # it left before its body was whole: nobody is there to be answered, and nothing of ours is wrong
        except Exception:
            if refusal is None:
                raise
        if refusal is not None:
            await answer(refusal, scope)(scope, receive, send)

    def _most(self, path: str) -> int:
        if not path.startswith(self._starts):
            return MAX_BODY_BYTES
        fitting = (most for start, most in self._uploads.items() if path == start or path.startswith(f"{start}/"))
        return next(fitting, MAX_BODY_BYTES)
