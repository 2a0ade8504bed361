"""Config → what loads the backend. The one place with late imports: a backend's libraries cost seconds."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from engine import known_models, licences
from engine.backends.base import Backend
from engine.backends.late import Load
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound, UnsupportedModel
from engine.progress import Progress

if TYPE_CHECKING:
    from engine.backends.ranks import Others

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[2] / "assets" / "models" / "yiwen-mini"

log = logging.getLogger(__name__)


def select(config: Config) -> Backend:
    """Loaded. Raises what `choose` raises, and what its answer does."""
    return choose(config)(Progress())


def choose(config: Config, others: "Others | None" = None) -> Load:
    """What loads the backend; on several devices in processes of our own, or of these `others` but for the first. All
    that can be told at once is: raises `ModelNotFound`, `ConfigError`."""
    if config.backend == "echo":
        from engine.backends.echo import EchoBackend

        log.info("backend=echo: asked for; it has no model and says the source back")
        return lambda _: EchoBackend()
    if config.backend == "remote" or (config.backend == "auto" and config.remote_url):
        return _remote(config)
    chosen = resolved(config)
    if chosen.devices == "all" or "," in chosen.devices:
        return partial(_on_each_device, chosen, others)
    return partial(_on_one_device, chosen)


def resolved(config: Config) -> Config:
    """With the folder of the model, or its hub id, and the backend that it is for. Raises as `choose` does."""
    model = _model(config.model)
    if not Path(model).is_dir():
        model = _of_hub(model, config)
    exported = (Path(model) / "model.onnx").is_file()  # as engine.tools.export_onnx writes it
    if exported and config.backend == "local":
        raise ConfigError(f"The folder {model!r} holds a graph for ONNX Runtime; leave --backend out.")
    chosen = replace(config, model=model, backend="onnx" if exported else config.backend)
    reason = "asked for"
    if config.backend == "auto":
        reason = "the model is a graph for it" if exported else "our engine runs this model on this machine"
    log.info("backend=%s: %s", chosen.backend.replace("auto", "local"), reason)
    if chosen.backend == "onnx":
        _check_onnx(chosen)
    if chosen.split == "tensor" and "+" not in chosen.devices:
        raise ConfigError(
            "--split tensor divides one model over cards that --devices joins by +, such as cuda:0+cuda:1; name them, "
            "or leave it out."
        )
    return chosen


def _of_hub(name: str, config: Config) -> str:
    """A hub id, or the folder where `models download` has put that model. Its licence is asked for before anything is
    downloaded."""
    from engine import hub

    known, licence = known_models.on_hub(name), known_models.licence_to_accept(name)
    if known and not known.runs:
        raise UnsupportedModel(
            f"{name} is stored in FP8, which Yiwen's engine does not read; take {name.removesuffix('-FP8')}, or serve "
            "it with vLLM and give --remote-url."
        )
    if hub.cached(name):
        return name
    if known and hub.is_whole(folder := known.folder(config.data_dir)):
        return str(folder)
    if licence:
        licences.agree(name, licence, hub.cache_folder(name), config.accept_licence)
    return name


def _on_one_device(config: Config, progress: Progress) -> Backend:
    progress.report("libraries" if Path(config.model).is_dir() else "download")
    if config.backend == "onnx":
        try:
            from engine.backends import onnx
        except ImportError as error:
            raise ConfigError(
                f"ONNX Runtime cannot be imported ({error}); install the versions that requirements.txt names."
            ) from error
        return onnx.load(config, progress)
    from engine.backends.local import LocalBackend

    return LocalBackend.load(config, progress)


def _remote(config: Config) -> Load:
    """The model that others serve; of several, whoever has least to do is asked."""
    from engine.backends.pool import Pool
    from engine.backends.remote import RemoteBackend

    if not config.remote_url:
        raise ConfigError("--backend remote needs --remote-url, the address of a server that has the model.")
    loads = [(url, partial(RemoteBackend.load, replace(config, remote_url=(url,)))) for url in config.remote_url]
    log.info("backend=remote: %s", ", ".join(config.remote_url))
    return loads[0][1] if len(loads) == 1 else lambda progress: Pool.load(loads, progress)


def _on_each_device(config: Config, others: "Others | None", progress: Progress) -> Backend:
    """The model on each device of the config, each in a process of its own."""
    from engine.backends.pool import Pool
    from engine.backends.process import ProcessBackend
    from engine.footprint import RAM_SHARE
    from engine.inventory import GB, ram, survey

    devices = config.devices.split(",")
    if config.devices == "all":
        devices = [card.device for card in survey(config.devices).cards]
        if not devices:
            raise ConfigError("--devices all means all cards, and this machine has no CUDA card; leave it out.")
        log.info("devices=%s: all cards of this machine", ",".join(devices))
    if len(devices) == 1:
        return _on_one_device(replace(config, devices=devices[0]), progress)
    slots = config.max_concurrent and -(-config.max_concurrent // len(devices))
    # of what is free before any of them is there, for one that comes again finds what the others have left
    ram_gb = min(config.max_ram_gb or inf, ram()[1] * RAM_SHARE / GB) / len(devices)
    loads = []
    for number, (device, name, cores) in enumerate(zip(devices, names_of(devices), cores_of(devices), strict=True)):
        split = config.split if "+" in device else "auto"
        one = replace(config, devices=device, split=split, max_concurrent=slots, max_ram_gb=round(ram_gb, 1))
        load = partial(others.load, number) if others and number else ProcessBackend.load
        loads.append((name, partial(load, one, cores=cores, name=name)))
    return Pool.load(loads, progress)


def names_of(devices: Sequence[str]) -> list[str]:
    """The devices, and where several are on the same one, which of them: "cpu#2"."""
    numbers = {device: count(1) for device in devices}
    return [f"{one}#{next(numbers[one])}" if devices.count(one) > 1 else one for one in devices]


def cores_of(devices: Sequence[str]) -> list[tuple[int, ...]]:
    """Those of a process on each device: several on the CPU divide its cores; none are all of them."""
    from engine.inventory import allowed_cores

    on_cpu, cores = devices.count("cpu"), tuple(allowed_cores())
    shares = iter([cores[number::on_cpu] for number in range(on_cpu)] if on_cpu > 1 else [()])
    return [next(shares) if device == "cpu" else () for device in devices]


def _check_onnx(config: Config) -> None:
    """ONNX Runtime has a buffer for each sequence instead of pages, in the numbers that it computes in."""
    if config.kv_window is not None:
        raise ConfigError("--backend onnx knows no --kv-window; leave it out, or use --backend local.")
    if config.kv_dtype != "auto":
        raise ConfigError("--backend onnx knows no --kv-dtype; leave it out, or use --backend local.")
    if config.deterministic:  # a row alone and beside others takes other products in ONNX Runtime
        raise ConfigError("--backend onnx cannot be --deterministic; leave it out, or use --backend local.")


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
