"""Yiwen's roof: config → backend → scheduler → translator → server → page → uvicorn. Nothing is wired elsewhere."""

import gc
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from engine.backends import ranks
from engine.config import GC_THRESHOLD, Config
from engine.errors import ConfigError, DeviceLost, StartupError
from engine.log import start as start_log

STOP_SECONDS = 1  # at the end, for connections that have nothing under way: those that are kept open
LOADING_STOP_SECONDS = 2  # for a model that is being loaded then
FAILED_SECONDS = 2.5  # that a page has to read why the model could not be loaded; it asks every 2 s
PONG_SECONDS = 60  # in which a WebSocket answers a ping, behind all that it has not read yet
ALONE = ("127.0.0.1", "localhost", "::1")  # hosts on which no other machine reaches us
LOST = 75  # exit status: start me again (EX_TEMPFAIL)

log = logging.getLogger("yiwen")


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container is stopped as a terminal is: with Ctrl-C
    if argv[:1] == ["models"]:  # a program of its own
        sys.argv[1:] = argv[1:]
        runpy.run_module("engine.tools.models", run_name="__main__")
        return 0
    try:
        rank = ranks.rank_of(os.environ)
        config = Config.load(argv, os.environ)
        start_log(config.log_level, config.log_format, {"rank": str(rank.number)} if rank else None)
        ranks.settle(os.environ)
        if rank and rank.number:
            ranks.host(rank)
            return 0
        config = ranks.as_launched(config, rank, os.environ)
        with _listen(config.host, config.port) as listener, ranks.meeting(rank) as others:
            _serve(config, listener, others)
    except StartupError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several on a machine one says it
            print(f"yiwen: {error}", file=sys.stderr)
        return 2
    except DeviceLost as error:
        print(f"yiwen: {error}", file=sys.stderr)
        return LOST
    except KeyboardInterrupt:  # before there was a server
        pass
    log.info("stopped")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Take the port now: no model is loaded in vain, and a page opened early waits for it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere this would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {error.strerror}; choose another --port or stop what has it."
        ) from error
    return listener


def _serve(config: Config, listener: socket.socket, others: ranks.Others | None) -> None:
    """Until Ctrl-C, or until the model turns out not to load. The imports stand here since they cost seconds: what the
    user mistyped is told before, and the model's own libraries come once the page is up."""
    from engine.backends.base import Backend
    from engine.backends.late import LateBackend
    from engine.backends.select import choose

    load = choose(config, others)

    import uvicorn

    from engine import detect
    from engine.documents.store import Documents
    from engine.metrics import Metrics, resident_bytes
    from engine.progress import Progress
    from engine.scheduler import Scheduler
    from engine.server.app import create_app
    from engine.server.connections import Bounds, Ending, Server, most_connections
    from engine.termbase.store import Glossaries
    from engine.translator import Translator

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    from ui.blocks import mount

    def loaded(progress: Progress) -> Backend:
        backend = load(progress)
        info = backend.info
        log.info("model %s, %s on %s", info.name, info.precision, info.device)
        if "Tencent HY" in info.licence and config.provider is None and config.host not in ALONE:
            log.warning("others can reach this, and the model's licence wants its provider named: give --provider")
        detect.load()  # half a second, which the first translation would wait for
        return backend

    def leave() -> None:
        time.sleep(FAILED_SECONDS)
        server.should_exit = True

    gc.set_threshold(*GC_THRESHOLD)
    backend = LateBackend(loaded, leave)
    scheduler = Scheduler(1, config.max_waiting)  # it gets the backend's slots once that is there
    translator = Translator(backend, scheduler, config.max_text_tokens)
    limit = None if config.max_vram_gb is None else int(config.max_vram_gb * 1e9)
    first = os.getppid() if others else None  # of our processes: the launcher
    metrics = Metrics(backend.memory, lambda: resident_bytes(first), limit_bytes=limit)
    documents = Documents(translator, metrics, Path(config.data_dir))
    glossaries = Glossaries(Path(config.data_dir))
    app = create_app(config, translator, scheduler, metrics, documents, glossaries, backend.close, backend)
    mount(app, translator, config)

    def refuse() -> None:
        backend.progress.leave(scheduler.close())
        documents.pause()

    def busy() -> bool:
        return scheduler.requests > 0 or metrics.snapshot().running > 0

    server = Server(
        uvicorn.Config(
            app,
            root_path=config.root_path,
            log_config=None,
            log_level="warning",
            proxy_headers=False,  # `server.clients` believes those of trusted proxies, and no others
            timeout_graceful_shutdown=STOP_SECONDS,
            ws_per_message_deflate=False,  # a delta is a word or less; to pack it costs as much as all else
            ws_ping_timeout=PONG_SECONDS,
        ),
        Ending(config.grace_seconds, refuse, busy, backend.close),
        Bounds(most_connections(), trusted=config.trusted_proxies),
    )
    # While it stops, uvicorn logs a traceback for each stream it cuts off.
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
    # Any client could fill the log with these: a traceback for each broken message of a WebSocket.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Invalid UTF-8" not in str(record.msg))
    host, port = listener.getsockname()[:2]
    log.info("open http://%s:%d%s", f"[{host}]" if ":" in host else host, port, config.root_path or "/")
    try:
        server.run(sockets=[listener])
    finally:
        backend.stop(LOADING_STOP_SECONDS)
    if backend.failure:
        raise backend.failure


def _end(status: int) -> NoReturn:
    """Python would be taken down around a model that is still being loaded or at work, by code which cannot be
    interrupted; that may crash."""
    if any(thread.name in ("loading", "generation") for thread in threading.enumerate()):
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _end(main(sys.argv[1:]))
