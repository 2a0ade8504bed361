"""A real server on a free port for any test that wants one: `serve(backend)` gives its address. And a tiny model."""

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from engine.backends.base import Backend
from engine.backends.late import LateBackend
from engine.backends.select import EMBEDDED_FOLDER
from engine.config import GC_THRESHOLD, Config
from engine.documents.store import Documents
from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.server.app import create_app
from engine.termbase.store import Glossaries
from engine.translator import Translator

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from engine.backends.remote import RemoteBackend


class Serve:
    """Starts servers, each in its own thread; they live until the tests of the module end."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def __call__(
        self,
        backend: Backend,
        *,
        page: bool = False,
        slots: int = 8,
        max_requests: int = 256,
        root_path: str = "",
        config: Config | None = None,
        tested: bool = True,
        data_dir: Path | None = None,
        port: int = 0,
        serving: Callable[[uvicorn.Config], uvicorn.Server] = uvicorn.Server,
    ) -> str:
        """`page` mounts the studio at `/`; `tested` waits for the self-test, so that the backend is at rest. A
        `LateBackend` is loaded once the server is up."""
        data_dir = data_dir or self._folders.mktemp("data")
        config = replace(config or Config(root_path=root_path), data_dir=str(data_dir))
        scheduler = Scheduler(slots, max_requests)
        translator = Translator(backend, scheduler, config.max_text_tokens)
        metrics = Metrics(backend.memory)
        documents, glossaries = Documents(translator, metrics, data_dir), Glossaries(data_dir)
        late = backend if isinstance(backend, LateBackend) else None
        app = create_app(config, translator, scheduler, metrics, documents, glossaries, backend.close, late)
        if page:
            app = asyncio.run(_with_page(app, translator, config))
        listener = socket.create_server(("127.0.0.1", port))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as app.py's has it: else 40 ms an answer
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = serving(
            uvicorn.Config(
                app,
                root_path=config.root_path,
                log_level="warning",
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        self._running.append((server, thread))
        soon(lambda: server.started or not thread.is_alive(), seconds=60)
        if tested:
            soon(lambda: httpx.get(f"{url}/readyz").json()["status"] != "loading", seconds=60)
        return url

    def stop(self, *, last: bool = False) -> None:
        """All of them, or the one that was started last."""
        stopping = [self._running.pop()] if last else self._running
        for server, _ in stopping:
            server.should_exit = True
        for _, thread in stopping:
            thread.join(timeout=10)
        stopping.clear()


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> None:
    """httpx reads all that there are for each client, which takes 35 ms; and nothing here speaks TLS."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    one = tmp_path_factory.mktemp("certificates") / "one.pem"
    one.write_text(first + end)
    os.environ["SSL_CERT_FILE"] = str(one)


@pytest.fixture(scope="module", autouse=True)
def only_its_own_environment() -> Iterator[None]:
    """A tool that is run here sets variables as it likes, which programs that others start would get."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module", autouse=True)
def only_its_own_garbage() -> Iterator[None]:
    """The collector looks at what a module made, and not again and again at what those before it left; and as seldom
    as in the program."""
    gc.set_threshold(*GC_THRESHOLD)
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    serving = Serve(tmp_path_factory)
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def chromium(address: str) -> Iterator["Browser"]:
    """After the module's server, which is the one to look at: Playwright keeps an event loop in this thread."""
    from tests.studio import a_browser  # here, since most tests need no browser

    with a_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def desk(chromium: "Browser") -> Iterator["BrowserContext"]:
    """One for most tests of a module, since its cache saves each of them a second."""
    with chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US") as context:
        yield context


@pytest.fixture(scope="module")
def window(desk: "BrowserContext") -> Iterator["Page"]:
    """One for most tests of a module, who leave it as they found it: to open another takes as long as to load a page.
    It cannot be had by who changes what goes over a WebSocket, which stays changed."""
    with desk.new_page() as page:
        yield page


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HY-MT of three small layers with random weights, whole and in fp32. For reading only: others share it."""
    from tests.checkpoints import write_checkpoint  # here, since torch costs seconds and most tests need none

    return write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "tiny", yiwen={"name": "tiny", "segment_tokens": 64}
    )


@pytest.fixture
def opened() -> Iterator[Callable[..., "RemoteBackend"]]:
    """What asks a server elsewhere, by its address; closed once the test is over."""
    from engine.backends.remote import RemoteBackend  # here, since torch costs seconds and most tests need none

    backends: list[RemoteBackend] = []

    def load(url: str, **settings: Any) -> RemoteBackend:
        backends.append(RemoteBackend.load(Config(remote_url=(url,), **settings)))
        return backends[-1]

    yield load
    for backend in backends:
        asyncio.run(backend.close())


@pytest.fixture(scope="session")
def embedded() -> Iterator[Backend]:
    """The model that ships, loaded once for all; whoever has it leaves it open."""
    from engine.backends.local import LocalBackend  # here, since torch costs seconds and most tests need none

    backend = LocalBackend.load(Config(model=str(EMBEDDED_FOLDER), devices="cpu"))
    close, backend.close = backend.close, _stays_open  # type: ignore[method-assign]  # servers that have it end before
    yield backend
    asyncio.run(close())


async def _stays_open() -> None:
    pass


def soon(fact: Callable[[], bool], seconds: float = 9.0, every_seconds: float = 0.01) -> None:
    """Wait until it holds; the test fails if it does not in time. That is long, for a machine with much else to do."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(every_seconds)


async def _with_page(app: FastAPI, translator: Translator, config: Config) -> FastAPI:
    """In a loop, since Gradio makes one for itself where it finds none, and never closes it."""
    from ui.blocks import mount

    return mount(app, translator, config)
