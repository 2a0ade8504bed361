"""What comes in from a client: a body as JSON has it, whether it is JSON or a form; and that it has left.

Knows HTTP and nothing of what is asked.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.types import Receive

from engine.errors import InvalidRequest, RequestError, UnsupportedMedia, YiwenError
from engine.server import questions
from engine.server.forms import MULTIPART, URLENCODED, media_type
from engine.server.limits import MAX_BODY_BYTES

MAX_FORM_FIELDS = 1000  # as Starlette has it for multipart
UNWATCHED_SECONDS = 0.05  # of work for a client that may have left

_FORMS = (URLENCODED, MULTIPART)

Result = TypeVar("Result")


async def read(request: Request) -> object:
    """The body as JSON has it, whether it is JSON or a form."""
    body = await request.body()
    kind = media_type(request)
    # curl calls everything a form unless told otherwise, and no form begins with a brace.
    if kind in _FORMS and not body.lstrip().startswith(b"{"):
        if kind == URLENCODED:  # a chapter in Chinese has a million escapes, so others are answered meanwhile
            return questions.read_form(await asyncio.to_thread(_read_urlencoded, body))
        async with request.form(max_part_size=MAX_BODY_BYTES) as form:
            return questions.read_form(form.multi_items())
    if kind in ("application/json", "text/plain", *_FORMS) or kind.endswith("+json"):
        return questions.read_json(body)
    raise UnsupportedMedia(f"The content type {kind[:80]!r} is not read here; send application/json or a form.")


async def document(
    request: Request, max_fields: int, missing: RequestError | None = None
) -> tuple[str, bytes, list[tuple[str, object]]]:
    """The name and the bytes of the file in a form, and its other fields. `missing`: what a service with words of its
    own says where there is none."""
    if media_type(request) != MULTIPART:
        raise missing or UnsupportedMedia("A document is sent as multipart/form-data, with a part named file.")
    async with request.form(max_files=1, max_fields=max_fields, max_part_size=MAX_BODY_BYTES) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise missing or InvalidRequest("file is missing; it must be a document, sent as a part of the form.")
        others: list[tuple[str, object]] = [(name, value) for name, value in form.multi_items() if name != "file"]
        return file.filename or "", await file.read(), others


def _read_urlencoded(body: bytes) -> list[tuple[str, str]]:
    """In UTF-8, escaped or not: Starlette's own would take what `curl -d 'text=你好'` sends for Latin-1."""
    try:
        return parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError as error:
        raise InvalidRequest(f"The form has more than {MAX_FORM_FIELDS:,} fields; send a list as JSON.") from error


class ClientLeft(YiwenError):
    """Nobody reads the answer to it."""

    status = 499  # nginx's number; only logs see it
    code = "client_left"


async def while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled at once when the client leaves; then raises `ClientLeft`. The body must
    have been read."""
    task = asyncio.current_task()
    assert task, "a request is answered in a task"
    watching: list[asyncio.Task[None]] = []
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    # not at once: the two tasks that this takes are more work than a short text is
    begin = asyncio.get_running_loop().call_later(
        UNWATCHED_SECONDS, lambda: watching.append(asyncio.create_task(watch()))
    )
    try:
        return await work
    except asyncio.CancelledError:
        if left and not task.uncancel():
            raise ClientLeft from None
        raise
    finally:
        begin.cancel()
        await cancel(watching)


async def cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
