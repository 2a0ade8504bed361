"""A model's name → everything needed to run it: a folder or a hub id, its family, its weights, tokenizer and sampling.

Nothing of a model is hard-coded here but names by which the two families of prompts are told apart.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from engine.errors import ConfigError, ModelNotFound, UnsupportedModel
from engine.inference.checkpoint import (
    GPTQ_METHOD,
    INT8_METHOD,
    MakeLinear,
    load_model,
    read_config,
    read_json,
)
from engine.inference.model import HunYuanDense
from engine.inference.tokenizer import ChatTokenizer
from engine.languages import LANGUAGES
from engine.shape import ModelShape
from engine.types import Family, ModelInfo, Sampling

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEPT_PRECISIONS = ("auto", "int4")  # asked so, INT4 weights stay INT4
_MADE_BY = {INT8_METHOD: ("int8", "engine.tools.convert"), GPTQ_METHOD: ("int4", "engine.tools.quantize")}
_LICENCES: dict[Family, str] = {
    "hy-mt1.5": "Tencent HY Community License: not granted in the EU, the UK and South Korea; "
    "not affiliated with Tencent",
    "hy-mt2": "Apache-2.0, by Tencent",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    model: HunYuanDense
    tokenizer: ChatTokenizer
    info: ModelInfo
    sampling: Sampling  # as the checkpoint recommends


def load(
    name: str, device: str, precision: str, linear: MakeLinear | None = None, folder: Path | None = None
) -> Loaded:
    """`name`: a folder, or a hub id (downloaded once, into the hub's own cache). `device`: auto, cpu, cuda:N.
    `precision`: auto, fp32, bf16, fp16, int8, int4. With auto and int4 the matrices of an INT4 checkpoint are what
    `linear` makes of them; without it, and with the others, they are widened. `folder`: where `folder_of` has found it.

    Raises `ModelNotFound`, `UnsupportedModel`, or `ConfigError` for a device that is not there or too small.
    """
    device = _device(device)
    folder = folder or folder_of(name)
    config = read_config(folder)
    if precision not in KEPT_PRECISIONS:
        linear = None
    dtype, shown = _precision(precision, config, device, linear is not None)
    log.info("loading %s as %s on %s", name, shown, device)
    sampling, tokenizer = _sampling(folder), ChatTokenizer(folder)  # before the weights, which take longer to fail
    try:
        model = load_model(folder, config, dtype, device, linear)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"The weights of {name!r} do not fit the memory of {device} as {shown}; "
            "use a smaller model, another device, or --devices cpu."
        ) from error
    return Loaded(model, tokenizer, _info(name, config, shown, device), sampling)


def family_of(name: str, config: dict[str, Any]) -> Family:
    """What the checkpoint says of itself (`yiwen.family`), else by name: 1.5 and 2 share their config."""
    declared: Family | None = _ours(config).get("family")
    if declared:
        return declared
    return "hy-mt2" if re.search(r"hy-?mt-?2", name, re.IGNORECASE) else "hy-mt1.5"


def licence_of(name: str, config: dict[str, Any]) -> str:
    return str(_ours(config).get("licence") or _LICENCES[family_of(name, config)])


def _ours(config: dict[str, Any]) -> dict[str, Any]:
    """What our own tools write into config.json."""
    return config.get("yiwen") or {}


def folder_of(name: str) -> Path:
    if Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return Path(name).expanduser()
    log.warning("model %s: %s", name, _LICENCES[family_of(name, {})])
    try:
        patterns = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.md"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (httpx.HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"There is no folder {name!r}, and the model hub did not give a model of that name "
            f"({type(error).__name__}); check the name, the network, or HF_ENDPOINT."
        ) from error


def _device(asked: str) -> str:
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda:0" if cards else "cpu"
    if asked != "cpu" and int(asked.removeprefix("cuda:")) >= cards:
        raise ConfigError(f"There is no device {asked!r}: this machine has {cards} CUDA cards; use --devices cpu.")
    return asked


def _precision(asked: str, config: dict[str, Any], device: str, keeps_int4: bool) -> tuple[torch.dtype, str]:
    """(dtype of activations and unquantised weights, what to call it)."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    for stored, (asked_for, tool) in _MADE_BY.items():
        if asked == asked_for and method != stored:
            raise UnsupportedModel(
                f"This model is not stored in {asked.upper()}; make an {asked.upper()} copy with `python -m {tool}`, "
                "or leave --precision out."
            )
    if asked not in _DTYPES:
        on_cpu_without_bf16 = device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        asked = "fp32" if on_cpu_without_bf16 else "bf16"
    int4 = "gptq-int4" if keeps_int4 else "gptq-int4, widened"
    return _DTYPES[asked], {INT8_METHOD: "int8", GPTQ_METHOD: int4}.get(method or "", asked)


def _info(name: str, config: dict[str, Any], precision: str, device: str) -> ModelInfo:
    ours, shape = _ours(config), ModelShape.read(config)
    return ModelInfo(
        name=ours.get("name") or Path(name).name if Path(name).is_dir() else name,
        family=family_of(name, config),
        languages=tuple(ours.get("languages") or LANGUAGES),
        precision=precision,
        device=device,
        max_context_tokens=shape.context_tokens,
        segment_tokens=shape.segment_tokens,
        licence=licence_of(name, config),
        hub=ours.get("hub"),
    )


def _sampling(folder: Path) -> Sampling:
    path = folder / "generation_config.json"
    declared = read_json(path) if path.exists() else {}
    return Sampling(
        temperature=declared.get("temperature") if declared.get("do_sample") else 0.0,
        top_p=declared.get("top_p"),
        top_k=declared.get("top_k"),
        repetition_penalty=declared.get("repetition_penalty"),
    )
