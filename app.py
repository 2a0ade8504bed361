"""Yiwen's roof: config → backend → scheduler → translator → server → page → uvicorn. Nothing is wired elsewhere."""

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.config import GC_THRESHOLD, Config
from engine.errors import ConfigError, StartupError

STOP_SECONDS = 2  # after Ctrl-C, for answers under way; a page left open holds a stream that never ends by itself

log = logging.getLogger("yiwen")


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container is stopped as a terminal is: with Ctrl-C
    try:
        config = Config.load(argv, os.environ)
        logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        with _listen(config.host, config.port) as listener:
            _serve(config, listener)
    except StartupError as error:
        print(f"yiwen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
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


def _serve(config: Config, listener: socket.socket) -> None:
    """Until Ctrl-C. The imports stand here since they cost seconds: what the user mistyped is told before."""
    from engine.backends.select import select

    backend = select(config)

    import uvicorn

    from engine import detect
    from engine.documents.store import Documents
    from engine.metrics import Metrics
    from engine.scheduler import Scheduler
    from engine.server.app import create_app
    from engine.termbase.store import Glossaries
    from engine.translator import Translator

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    from ui.blocks import mount

    gc.set_threshold(*GC_THRESHOLD)
    detect.load()  # half a second, which the first translation would wait for
    scheduler = Scheduler(backend.slots, config.max_waiting)
    translator = Translator(backend, scheduler, config.max_text_tokens)
    metrics = Metrics(backend.memory)
    documents = Documents(translator, metrics, Path(config.data_dir))
    glossaries = Glossaries(Path(config.data_dir))
    server_app = create_app(translator, scheduler, metrics, backend.close, documents, glossaries, config.max_upload_mb)
    app = mount(server_app, translator, config, metrics)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            root_path=config.root_path,
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
    # While it stops, uvicorn logs a traceback for each stream it cuts off.
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
    host, port = listener.getsockname()[:2]
    log.info("model %s, %s on %s", backend.info.name, backend.info.precision, backend.info.device)
    log.info("open http://%s:%d%s", f"[{host}]" if ":" in host else host, port, config.root_path or "/")
    server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
