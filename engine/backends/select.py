"""Config → what loads the backend. The one place with late imports: a backend's libraries cost seconds."""

import logging
import re
from dataclasses import replace
from pathlib import Path

from engine.backends.base import Backend
from engine.backends.late import Load
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound
from engine.progress import Progress

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[2] / "assets" / "models" / "yiwen-mini"

log = logging.getLogger(__name__)


def select(config: Config) -> Backend:
    """Loaded. Raises what `choose` raises, and what its answer does."""
    return choose(config)(Progress())


def choose(config: Config) -> Load:
    """What loads the backend. All that can be told at once is: raises `ModelNotFound`, `ConfigError`."""
    if config.backend == "echo":
        from engine.backends.echo import EchoBackend

        log.info("backend=echo: asked for; it has no model and says the source back")
        return lambda _: EchoBackend()
    if config.backend == "onnx":
        config = _for_onnx(config)
    chosen = replace(config, model=_model(config.model))
    reason = "our engine runs this model on this machine" if config.backend == "auto" else "asked for"
    log.info("backend=%s: %s", config.backend.replace("auto", "local"), reason)

    def load(progress: Progress) -> Backend:
        progress.report("libraries" if Path(chosen.model).is_dir() else "download")
        from engine.backends.local import LocalBackend

        return LocalBackend.load(chosen, progress)

    return load


def _for_onnx(config: Config) -> Config:
    """ONNX Runtime serves the CPU, with a buffer for each sequence instead of pages."""
    if config.devices not in ("auto", "cpu"):
        raise ConfigError(f"--backend onnx runs on the CPU, not on {config.devices}; leave --devices out.")
    if config.kv_window is not None:
        raise ConfigError("--backend onnx knows no --kv-window; leave it out, or use --backend local.")
    if config.deterministic:  # a row alone and beside others takes other products in ONNX Runtime
        raise ConfigError("--backend onnx cannot be --deterministic; leave it out, or use --backend local.")
    return replace(config, devices="cpu")


def _model(name: str) -> str:
    """A folder that exists, or a hub id as it is."""
    folder = EMBEDDED_FOLDER if name == EMBEDDED else Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"The folder {str(folder)!r} holds no config.json, so it is no model.")
        return str(folder)
    if name == EMBEDDED:
        raise ModelNotFound(f"The embedded model is not in {folder}; fetch the repository again, with its assets.")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return name
    raise ModelNotFound(
        f"There is no model folder {str(folder)!r}; give a folder with config.json and weights, a hub id such as "
        "tencent/HY-MT1.5-1.8B, or nothing for the embedded model."
    )
