"""A file that is open, as what a client saves. Knows nothing of what is in it."""

from collections.abc import Iterator
from typing import IO
from urllib.parse import quote

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

COPIED_BYTES = 256 * 1024  # at once
# never shown by the browser: a document is a stranger's, and would speak as a page of ours
_DOWNLOAD = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


class Download(StreamingResponse):
    """All of a file that is open, which is closed then, whoever leaves."""

    def __init__(self, file: IO[bytes], name: str, media_type: str = "application/octet-stream") -> None:
        size = file.seek(0, 2)
        file.seek(0)
        plain = quote(name)
        named = f'filename="{name}"' if plain == name else f"filename*=utf-8''{plain}"
        headers = {**_DOWNLOAD, "Content-Disposition": f"attachment; {named}", "Content-Length": str(size)}
        super().__init__(_copied(file), media_type=media_type, headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _copied(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(COPIED_BYTES):
        yield data
