"""A model on ONNX Runtime as a Backend, on the CPU or on a card: a checkpoint, whose graph is made in memory, or a
folder that holds one, as engine.tools.export_onnx writes it. Streams are `LocalBackend`'s; knows no tokens.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from engine import hardware, inventory
from engine.backends.local import LocalBackend, prepared
from engine.config import Config
from engine.errors import ConfigError, UnsupportedModel
from engine.footprint import LoadPlan
from engine.inference import onnx_folder
from engine.inference.kv_cache import PAGE_TOKENS
from engine.inference.loader import Described, describe
from engine.inference.onnx_graph import Compute, build
from engine.inference.onnx_runner import OnnxRunner, Session, runs_on_cards
from engine.progress import Progress

log = logging.getLogger(__name__)


def load(config: Config, progress: Progress | None = None) -> LocalBackend:
    """The model of `config.model`. Raises what `LocalBackend.load` raises, and `ConfigError` for a device that ONNX
    Runtime cannot use."""
    progress = progress or Progress()
    folder = Path(config.model)
    if onnx_folder.is_exported(folder):
        return _exported(config, folder, progress)
    devices = _devices(config.devices)
    if devices != "cpu" and config.precision in ("fp32", "bf16"):
        if devices != "auto":
            raise ConfigError(
                f"ONNX Runtime attends in fp16 on cards, not in {config.precision}; leave --precision out, or use "
                "--devices cpu."
            )
        log.info("devices=cpu: ONNX Runtime attends in fp16 on cards, not in %s", config.precision)
        devices = "cpu"
    config = replace(config, devices=devices)
    loaded, plan = prepared(config, progress)
    progress.report("prepare")
    compute: Compute = "fp32" if plan.device == "cpu" else "fp16"
    session = Session.of(build(loaded.model, compute), plan.device, plan.threads, _most_bytes(config, plan))
    described = Described(loaded.tokenizer, replace(loaded.info, device=plan.device), loaded.sampling)
    return _backend(described, plan, session)


def _exported(config: Config, folder: Path, progress: Progress) -> LocalBackend:
    progress.report("libraries")
    exported = onnx_folder.read(folder)
    if config.precision not in ("auto", exported.precision):
        raise UnsupportedModel(
            f"{str(folder)!r} has been exported in {exported.precision.upper()}; leave --precision out, or export the "
            f"model in {config.precision.upper()}."
        )
    devices = _devices(config.devices, exported.compute)
    config = replace(config, devices=devices, precision=exported.precision, backend="onnx")
    plan = hardware.plan(config, exported.shape, inventory.survey(devices))
    log.info("plan: %s", plan.reason)
    if plan.device == "cpu" and exported.compute == "fp16":
        log.warning("this graph computes in fp16, for cards, and a CPU is slower so; export it with --compute fp32")
    torch.set_num_threads(min(plan.threads, torch.get_num_threads()))  # of the choice of tokens
    described = describe(config.model, folder, dict(exported.config), exported.precision, plan.device)
    progress.report("prepare")
    session = Session.of_file(exported.graph, exported.nbytes, plan.device, plan.threads, _most_bytes(config, plan))
    return _backend(described, plan, session)


def _devices(asked: str, compute: Compute | None = None) -> str:
    """Those that may be planned with. `compute`: what a graph that is made already computes in."""
    if asked == "cpu":
        return asked
    if not runs_on_cards():
        if asked == "auto":
            return "cpu"
        raise ConfigError(
            f"The ONNX Runtime that is installed has no part for cards such as {asked}; install onnxruntime-gpu in "
            "the place of onnxruntime, or use --devices cpu."
        )
    if compute == "fp32":
        if asked == "auto":
            log.info("devices=cpu: this graph computes in fp32, and ONNX Runtime attends in fp16 on cards")
            return "cpu"
        raise ConfigError(
            f"This graph computes in fp32, and ONNX Runtime attends in fp16 on cards such as {asked}; export the model "
            "with --compute fp16, or use --devices cpu."
        )
    return asked


def _most_bytes(config: Config, plan: LoadPlan) -> int | None:
    """Of a card, for all that ONNX Runtime takes by itself."""
    if plan.device == "cpu" or config.max_vram_gb is None:
        return None
    return int(config.max_vram_gb * inventory.GB) - plan.bytes.context


def _backend(described: Described, plan: LoadPlan, session: Session) -> LocalBackend:
    log.info("ONNX Runtime: %s", ", ".join(session.session.get_providers()))
    runner = OnnxRunner(session, plan.slots, plan.pages // plan.slots * PAGE_TOKENS)
    return LocalBackend(described, plan, runner, share=False)  # its slots have buffers of their own
