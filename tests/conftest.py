"""A real server on a free port for any test that wants one: `serve(backend)` gives its address. And a tiny model."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from engine.backends.base import Backend
from engine.config import Config
from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.server.app import create_app
from engine.translator import Translator


class Serve(Protocol):
    """`page` mounts the studio at `/`; `tested` waits for the self-test, so that the backend is at rest."""

    def __call__(
        self,
        backend: Backend,
        *,
        page: bool = False,
        slots: int = 8,
        max_requests: int = 256,
        root_path: str = "",
        tested: bool = True,
    ) -> str: ...


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Servers live until the tests end, each in its own thread: to stop one takes longer than to start it."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(
        backend: Backend,
        *,
        page: bool = False,
        slots: int = 8,
        max_requests: int = 256,
        root_path: str = "",
        tested: bool = True,
    ) -> str:
        config = Config(root_path=root_path)
        scheduler = Scheduler(slots, max_requests)
        translator = Translator(backend, scheduler, config.max_text_tokens)
        metrics = Metrics(backend.memory)
        app = create_app(translator, scheduler, metrics, backend.close)
        if page:
            app = asyncio.run(_with_page(app, translator, config, metrics))
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(app, root_path=root_path, log_level="warning", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        soon(lambda: server.started or not thread.is_alive(), seconds=10)
        if tested:
            soon(lambda: httpx.get(f"{url}/readyz").json()["status"] != "loading", seconds=10)
        return url

    yield start
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(timeout=10)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HY-MT of three small layers with random weights, whole and in fp32. For reading only: others share it."""
    from tests.checkpoints import write_checkpoint  # here, since torch costs seconds and most tests need none

    return write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "tiny", yiwen={"name": "tiny", "segment_tokens": 64}
    )


def soon(fact: Callable[[], bool], seconds: float = 2.0) -> None:
    """Wait until it holds; the test fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.002)


async def _with_page(app: FastAPI, translator: Translator, config: Config, metrics: Metrics) -> FastAPI:
    """In a loop, since Gradio makes one for itself where it finds none, and never closes it."""
    from ui.blocks import mount

    return mount(app, translator, config, metrics)
