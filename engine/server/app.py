"""The server: every face on one FastAPI app. Knows which faces there are; each knows the rest of itself."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from engine.backends.late import LateBackend
from engine.config import Config
from engine.documents.store import Documents
from engine.metrics import Metrics
from engine.progress import Progress
from engine.scheduler import Scheduler
from engine.server import bench, closer, docs, documents, errors, glossaries, health, rest, system, websocket
from engine.server.limits import LimitBody
from engine.server.origin import OwnPageOnly
from engine.termbase.store import Glossaries
from engine.translator import Translator

_ALL_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def create_app(
    config: Config,
    translator: Translator,
    scheduler: Scheduler,
    metrics: Metrics,
    document_store: Documents,
    glossary_store: Glossaries,
    close: Callable[[], Awaitable[None]],
    late: LateBackend | None = None,
) -> FastAPI:
    """`close` is awaited when the server stops. `late`: the translator's backend, where it is loaded once the server is
    up. A page may be mounted at `/` afterwards."""
    self_test = health.SelfTest(translator, late.progress if late else Progress())
    uploads = dict.fromkeys((documents.PATH, glossaries.PATH), config.max_upload_mb * 1024**2)

    async def make_ready() -> None:
        if late:
            late.start()
            scheduler.grow((await late.loaded()).slots)
        await self_test.run()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        making_ready = asyncio.create_task(make_ready())
        await document_store.start()
        await glossary_store.start()
        try:
            yield
        finally:
            making_ready.cancel()
            await asyncio.gather(making_ready, return_exceptions=True)
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
        closer.router(translator, glossary_store),
        websocket.router(translator, metrics, glossary_store),
        documents.router(document_store, glossary_store),
        glossaries.router(glossary_store),
        docs.router(),
        health.router(translator, self_test),
        system.router(translator, scheduler, metrics, self_test.state),
        bench.router(translator),
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
