"""The server: every face on one FastAPI app. Knows which faces there are; each knows the rest of itself."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from engine.backends.late import LateBackend
from engine.config import Config
from engine.documents.store import Documents
from engine.metrics import Metrics
from engine.progress import Progress
from engine.scheduler import Scheduler
from engine.server import (
    access,
    answers,
    bench,
    closer,
    deepl,
    deepl_documents,
    deeplx,
    docs,
    documents,
    errors,
    glossaries,
    health,
    immersive,
    libretranslate,
    login,
    openai,
    prometheus,
    rest,
    system,
    tracing,
    websocket,
)
from engine.server.auth import NeedsKey
from engine.server.clients import KnowClient
from engine.server.direct import Straight
from engine.server.headers import SecurityHeaders
from engine.server.keys import Keys
from engine.server.limits import LimitBody
from engine.server.origin import Cors, OwnHostOnly, OwnPageOnly
from engine.server.throttle import Throttle, Throttled
from engine.suggestions import Suggestions
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.version import VERSION

_ALL_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"}


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
    self_test = health.SelfTest(translator, metrics, late.progress if late else Progress())
    sampler = system.sampler_of(translator, metrics)
    requests = access.Requests()
    figures = prometheus.Figures(
        requests, translator, scheduler, metrics, sampler, document_store.counts, self_test.look
    )
    spans = tracing.provider_of()
    large = (documents.PATH, glossaries.PATH, libretranslate.UPLOAD, deepl_documents.PATH)
    uploads = dict.fromkeys(large, config.max_upload_mb * 1024**2)
    suggestions = Suggestions(Path(config.data_dir))

    async def make_ready() -> None:
        if late is None:
            return await self_test.run()
        late.start()
        while True:  # one after the other, as they break
            arrival = await late.loaded()
            scheduler.grow(arrival.slots)
            await self_test.run()
            await asyncio.shield(asyncio.wrap_future(arrival.failed))

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
            await self_test.close()
            await document_store.close()
            await glossary_store.close()
            suggestions.close()
            await close()
            if spans:
                await asyncio.to_thread(tracing.close, spans)

    app = FastAPI(
        title="Yiwen",
        version=VERSION,
        description=docs.ABOUT,
        docs_url=None,  # FastAPI's pages load their scripts from a CDN, and Yiwen works offline
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it tells of queries, in which keys are
    )
    app.add_middleware(LimitBody, uploads=uploads)
    throttle = _guard(app, config)
    translator.spent = throttle.spend
    errors.add_handlers(app)
    faces = (
        rest.router(translator, metrics, glossary_store),
        closer.router(translator, metrics, glossary_store),
        libretranslate.router(config, translator, document_store, suggestions),
        immersive.router(translator, metrics),
        deeplx.router(translator, metrics),
        openai.router(translator, metrics, glossary_store),
        *deepl.routers(translator, metrics, document_store, glossary_store),
        websocket.router(translator, metrics, glossary_store, throttle.request),
        documents.router(document_store, glossary_store),
        glossaries.router(glossary_store),
        docs.router(),
        health.router(translator, self_test),
        system.router(translator, scheduler, metrics, sampler, self_test.state, config.provider),
        bench.router(translator, metrics),
        prometheus.router(figures),
    )
    for face in faces:
        app.include_router(face, responses=answers.EVERYWHERE)
    app.user_middleware.append(Middleware(Straight, of=app, faces=faces))  # the last in this list is asked last
    _refuse_other_methods(app, faces)
    paths = frozenset(route.path for face in faces for route in face.routes if isinstance(route, Route))
    app.add_middleware(access.AccessLog, requests=requests, paths=paths)  # the last added is asked first
    metrics.listeners.append(access.log_run)
    if spans:
        tracer = spans.get_tracer("yiwen")
        app.add_middleware(tracing.Traced, tracer=tracer)
        metrics.listeners.append(tracing.listener(tracer, metrics))
    return app


def _guard(app: FastAPI, config: Config) -> Throttle:
    """All that a request passes before its body is read. The last added is asked first."""
    keys = Keys(Path(config.api_keys)) if config.api_keys else None
    throttle = Throttle(config.requests_per_minute, config.tokens_per_minute, config.max_per_client)
    if keys or throttle.limits:
        app.add_middleware(Throttled, throttle=throttle)
    if keys:
        sessions = login.Sessions(keys, Path(config.data_dir))
        app.include_router(login.router(keys, sessions))
        app.add_middleware(NeedsKey, keys=keys, sessions=sessions)
    app.add_middleware(OwnPageOnly, allowed=config.allowed_origins)
    if config.allowed_origins:
        app.add_middleware(Cors, allowed=config.allowed_origins)
    app.add_middleware(OwnHostOnly, host=config.host, allowed=config.allowed_hosts)
    app.add_middleware(SecurityHeaders, framing=config.allowed_origins)
    app.add_middleware(KnowClient, trusted=config.trusted_proxies)
    return throttle


def _refuse_other_methods(app: FastAPI, faces: Sequence[APIRouter]) -> None:
    """A page mounted at `/` takes what no route takes, so `GET /translate` would not be a 405 by itself."""
    taken: dict[str, set[str]] = {}
    for face in faces:
        for route in face.routes:
            if isinstance(route, Route):
                taken.setdefault(route.path, set()).update(route.methods or ())
    for path, allowed in taken.items():
        app.add_route(path, _refusal(allowed), methods=sorted(_ALL_METHODS - allowed), include_in_schema=False)
    for start in dict.fromkeys(path.split("/")[1] for path in taken):  # nor `GET /v1/nothing` a 404 in words of ours
        app.add_route(f"/{start}/{{rest:path}}", _nothing, methods=sorted(_ALL_METHODS), include_in_schema=False)


async def _nothing(_request: Request) -> Response:
    raise HTTPException(404)


def _refusal(allowed: Iterable[str]) -> Callable[[Request], Awaitable[Response]]:
    headers = {"Allow": ", ".join(sorted(allowed))}

    async def refuse(_request: Request) -> Response:
        raise HTTPException(405, headers=headers)

    return refuse
