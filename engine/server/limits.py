"""How large a request's body may be. Knows nothing of what is in it."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from engine.errors import RequestError

MAX_BODY_BYTES = 8 * 1024**2
DROPPED_BYTES = 64 * 1024**2  # past the limit, read and dropped: a client that still sends does not see our answer


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class LimitedRoute(APIRoute):
    """Counts the body as it comes in, so that chunked bodies are limited too.

    FastAPI's own `max_body_size` answers in plain text, and before the client has finished sending.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            return await handle(Request(request.scope, _limit(request.receive)))

        return limited


def _limit(receive: Receive) -> Receive:
    received_bytes = 0

    async def limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes <= MAX_BODY_BYTES:
            return message
        while message.get("more_body", False) and received_bytes <= MAX_BODY_BYTES + DROPPED_BYTES:
            message = await receive()
            received_bytes += len(message.get("body", b""))
        raise BodyTooLarge(
            f"The request is larger than {MAX_BODY_BYTES // 1024**2} MiB, the most that is taken; send it in parts."
        )

    return limited
