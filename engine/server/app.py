"""The server: every face on one FastAPI app. Knows which faces there are; each knows the rest of itself."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from engine.documents.store import Documents
from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.server import documents, errors, glossaries, health, rest, websocket
from engine.server.limits import LimitBody
from engine.server.origin import OwnPageOnly
from engine.termbase.store import Glossaries
from engine.translator import Translator

_ALL_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def create_app(
    translator: Translator,
    scheduler: Scheduler,
    metrics: Metrics,
    close: Callable[[], Awaitable[None]],
    document_store: Documents,
    glossary_store: Glossaries,
    max_upload_mb: int = 50,
) -> FastAPI:
    """`close` is awaited when the server stops. A page may be mounted at `/` afterwards."""
    self_test = health.SelfTest(translator)
    uploads = dict.fromkeys((documents.PATH, glossaries.PATH), max_upload_mb * 1024**2)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        testing = asyncio.create_task(self_test.run())
        await document_store.start()
        await glossary_store.start()
        try:
            yield
        finally:
            testing.cancel()
            await asyncio.gather(testing, return_exceptions=True)
            await document_store.close()
            await glossary_store.close()
            await close()

    app = FastAPI(
        title="Yiwen",
        version="1",
        docs_url=None,  # FastAPI's pages load their scripts from a CDN, and Yiwen works offline
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(LimitBody, uploads=uploads)
    app.add_middleware(OwnPageOnly)  # the last added is asked first
    errors.add_handlers(app)
    faces = (
        rest.router(translator, metrics, glossary_store),
        websocket.router(translator, metrics, glossary_store),
        documents.router(document_store, glossary_store),
        glossaries.router(glossary_store),
        health.router(translator, scheduler, metrics, self_test),
    )
    for face in faces:
        app.include_router(face)
    _refuse_other_methods(app)
    return app


def _refuse_other_methods(app: FastAPI) -> None:
    """A page mounted at `/` takes what no route takes, so `GET /translate` would not be a 405 by itself."""
    for path, taken in app.openapi()["paths"].items():
        allowed = {method.upper() for method in taken}

        async def refuse(_request: Request, allow: str = ", ".join(sorted(allowed))) -> Response:
            raise HTTPException(405, headers={"Allow": allow})

        app.add_api_route(path, refuse, methods=sorted(_ALL_METHODS - allowed), include_in_schema=False)
