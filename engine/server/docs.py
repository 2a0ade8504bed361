"""`/docs`: the API as a page to read and try, by Swagger UI from a package that brings its files along: no other host
is asked. Knows nothing of the API; the page reads `/openapi.json`. Its addresses are relative, so that a proxy may
serve it below a path.
"""

from importlib.metadata import distribution
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse

# Found but not imported: it would bring an app of its own.
_FILES = Path(str(distribution("fastapi-offline").locate_file("fastapi_offline/static")))
_ONLY_OURS = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
ABOUT = """A translation server that keeps what it is given to itself.

Where keys are asked for, send yours as `Authorization: Bearer KEY` or `X-API-Key: KEY`. An error is
`{"error": sentence, "code": word}`.

**WebSocket `/ws/translate`**: one socket, many runs; every message is a JSON object. A client sends

- `{"type": "start", "id": "r1", …}` with the fields of `POST /translate` for one text; the id is yours to choose,
- `{"type": "cancel", "id": "r1"}`, and `{"type": "ping"}`.

It is sent, of each run,

- `{"type": "queued", "id", "ahead"}` while others are before it,
- `{"type": "started", "id", "segments", "detected_source_lang", "detection"}`,
- `{"type": "delta", "id", "segment", "text"}`: to be appended; all of them joined are the translation,
- `{"type": "replace", "id", "segment", "text"}`: all that was said of this segment is to be exchanged for it,
- `{"type": "segment", "id", "index", "text", "terms", "warnings", "source"}` when a segment is done,
- and at the end one of `{"type": "done", "id", …}` with the answer of `POST /translate`, `{"type": "cancelled", "id"}`
  and `{"type": "error", "id", "code", "error"}`;
- `{"type": "pong"}` for a ping.

The same messages come as server-sent events from `POST /translate` with `"stream": true`.
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Yiwen: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# The validator, which would be sent our address, is one of Swagger's own servers.
_START = """SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href, dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
});
"""


def router() -> APIRouter:
    api = APIRouter(include_in_schema=False)

    @api.get("/docs")
    async def page() -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _ONLY_OURS})

    @api.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @api.get("/docs/swagger-ui-bundle.js")
    async def script() -> Response:
        return FileResponse(_FILES / "swagger-ui-bundle.js", media_type="text/javascript")

    @api.get("/docs/swagger-ui.css")
    async def style() -> Response:
        return FileResponse(_FILES / "swagger-ui.css", media_type="text/css")

    return api
