"""Config → backend, loaded and ready. The one place with late imports: a backend's libraries cost seconds."""

import logging
import re
from dataclasses import replace
from pathlib import Path

from engine.backends.base import Backend
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[2] / "assets" / "models" / "yiwen-mini"

log = logging.getLogger(__name__)


def select(config: Config) -> Backend:
    """Raises `ModelNotFound`, `UnsupportedModel`, `ConfigError`."""
    if config.backend == "echo":
        from engine.backends.echo import EchoBackend

        log.info("backend=echo: asked for; it has no model and says the source back")
        return EchoBackend()
    if config.backend == "onnx":
        config = _for_onnx(config)
    model = _model(config.model)  # before torch is imported: a mistyped folder is told at once
    from engine.backends.local import LocalBackend

    reason = "our engine runs this model on this machine" if config.backend == "auto" else "asked for"
    log.info("backend=%s: %s", config.backend.replace("auto", "local"), reason)
    return LocalBackend.load(replace(config, model=model))


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
        return str(folder)
    if name == EMBEDDED:
        raise ModelNotFound(f"The embedded model is not in {folder}; fetch the repository again, with its assets.")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return name
    raise ModelNotFound(
        f"There is no model folder {str(folder)!r}; give a folder with config.json and weights, a hub id such as "
        "tencent/HY-MT1.5-1.8B, or nothing for the embedded model."
    )
