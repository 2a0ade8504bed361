"""A model's name → everything needed to run it: a folder or a hub id, its family, its weights, tokenizer and sampling.

Nothing of a model is hard-coded here but names by which the two families of prompts are told apart.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine import hub
from engine.errors import ConfigError, UnsupportedModel
from engine.inference.checkpoint import MakeLinear, MakeRows, Places, load_model, read_config, read_json
from engine.inference.model import HunYuanDense
from engine.inference.tokenizer import ChatTokenizer
from engine.languages import LANGUAGES
from engine.progress import Advance, untold
from engine.shape import ModelShape
from engine.types import Family, ModelInfo, Sampling

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LICENCES: dict[Family, str] = {
    "hy-mt1.5": "Tencent HY Community License: not granted in the EU, the UK and South Korea; "
    "not affiliated with Tencent",
    "hy-mt2": "Apache-2.0, by Tencent",
}
_VERSION = re.compile(r"hy-?mt-?(1\.5|2)", re.IGNORECASE)
CARD_CHARACTERS = 4_096  # of a model's card, which begins with its name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Described:
    """All of a checkpoint but its weights."""

    tokenizer: ChatTokenizer
    info: ModelInfo
    sampling: Sampling  # as the checkpoint recommends


@dataclass(frozen=True, slots=True)
class Loaded(Described):
    model: HunYuanDense


def load(
    name: str,
    device: str,
    dtype: str,
    int4: MakeLinear | None = None,
    int8: MakeRows | None = None,
    folder: Path | None = None,
    told: Advance = untold,
    rounded: bool = False,
    places: Places | None = None,
) -> Loaded:
    """`name`: a folder, or a hub id (downloaded once, into the hub's own cache). The others as `hardware.plan` has
    decided: `device`: cpu, cuda:N. `dtype` of activations and of all weights but those that `int4` and `int8` are
    given, see `load_model`, as are `rounded` and `places`: fp32, bf16, fp16. `folder`: where `folder_of` has found it.
    `told` learns how much is read.

    Raises `ModelNotFound`, `UnsupportedModel`, or `ConfigError` for a device that is too small.
    """
    folder = folder or folder_of(name)
    config = read_config(folder)
    shape = ModelShape.read(config)
    kept = {"gptq-int4": int4, "int8": int8}
    shown = dtype if shape.stored not in kept else shape.stored + ("" if kept[shape.stored] else ", widened")
    if rounded:
        shown = f"int8, rounded from {shape.stored}"
    log.info("loading %s as %s on %s", name, shown, device)
    described = describe(name, folder, config, shown, device)  # before the weights, which take longer to fail
    told(0.0)
    try:
        model = load_model(folder, config, _DTYPES[dtype], device, int4, int8, told, rounded, places=places)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"The weights of {name!r} do not fit the memory of {device} as {shown}; "
            "use a smaller model, another device, or --devices cpu."
        ) from error
    return Loaded(described.tokenizer, described.info, described.sampling, model)


def describe(name: str, folder: Path, config: dict[str, Any], precision: str, device: str) -> Described:
    """`config`: of the folder, as `read_config` gives it. Raises `ModelNotFound`, `UnsupportedModel`."""
    info = _info(name, config, ModelShape.read(config), precision, device)
    sampling = _sampling(folder)  # before the tokenizer, whose reader looks into that file too and does not name it
    return Described(ChatTokenizer(folder), info, sampling)


def family_of(name: str, config: dict[str, Any]) -> Family:
    """What the checkpoint says of itself (`yiwen.family`), else by its name or its card: 1.5 and 2 share their config.

    Raises `UnsupportedModel` where it says another.
    """
    if declared := _ours(config).get("family"):
        for family in _LICENCES:
            if declared == family:
                return family
        raise UnsupportedModel(
            f"config.json says yiwen.family {str(declared)[:40]!r}; it must be {' or '.join(_LICENCES)}."
        )
    version = _VERSION.search(name) or _VERSION.search(_card(name))
    return "hy-mt2" if version and version[1] == "2" else "hy-mt1.5"


def _card(name: str) -> str:
    """The beginning of what its publisher says in the model's folder; nothing where there is none."""
    try:
        with (Path(name).expanduser() / "README.md").open(encoding="utf-8", errors="replace") as card:
            return card.read(CARD_CHARACTERS)
    except OSError:
        return ""


def licence_of(name: str, config: dict[str, Any]) -> str:
    return str(_ours(config).get("licence") or _LICENCES[family_of(name, config)])


def _ours(config: dict[str, Any]) -> dict[str, Any]:
    """What our own tools write into config.json."""
    return config.get("yiwen") or {}


def folder_of(name: str, told: Advance = untold, expect: Callable[[int], None] = lambda _: None) -> Path:
    """`told` learns which share is downloaded, `expect` before how many bytes that is of."""
    if Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return Path(name).expanduser()
    log.warning("model %s: %s", name, _LICENCES[family_of(name, {})])
    return hub.folder_of(name, told, expect)


def _info(name: str, config: dict[str, Any], shape: ModelShape, precision: str, device: str) -> ModelInfo:
    ours = _ours(config)
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
