"""A model's name → everything needed to run it: a folder or a hub id, its family, its weights, tokenizer and sampling.

Nothing of a model is hard-coded here but names by which the two families of prompts are told apart.
"""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import DryRunError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

from engine.errors import ConfigError, ModelNotFound, UnsupportedModel
from engine.inference.checkpoint import MakeLinear, MakeRows, load_model, read_config, read_json
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
_FILES = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.md"]  # that are fetched of a model
_BYTES_BAR = "huggingface_hub.snapshot_download"  # what the hub's library calls its bar of bytes on the disk

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
) -> Loaded:
    """`name`: a folder, or a hub id (downloaded once, into the hub's own cache). The others as `hardware.plan` has
    decided: `device`: cpu, cuda:N. `dtype` of activations and of all weights but those that `int4` and `int8` are
    given, see `load_model`, as is `rounded`: fp32, bf16, fp16. `folder`: where `folder_of` has found it. `told` learns
    how much is read.

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
        model = load_model(folder, config, _DTYPES[dtype], device, int4, int8, told, rounded)
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
    """What the checkpoint says of itself (`yiwen.family`), else by name: 1.5 and 2 share their config.

    Raises `UnsupportedModel` where it says another.
    """
    if declared := _ours(config).get("family"):
        for family in _LICENCES:
            if declared == family:
                return family
        raise UnsupportedModel(
            f"config.json says yiwen.family {str(declared)[:40]!r}; it must be {' or '.join(_LICENCES)}."
        )
    return "hy-mt2" if re.search(r"hy-?mt-?2", name, re.IGNORECASE) else "hy-mt1.5"


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
    try:
        size = _missing_bytes(name)
        expect(size)
        return Path(snapshot_download(name, allow_patterns=_FILES, tqdm_class=_bar(told, size)))
    except (httpx.HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"There is no folder {name!r}, and the model hub did not give a model of that name "
            f"({type(error).__name__}); check the name, the network, or HF_ENDPOINT."
        ) from error


def _missing_bytes(name: str) -> int:
    """That are not in the hub's cache yet; 0 too where the hub is out of reach."""
    try:
        files = snapshot_download(name, allow_patterns=_FILES, dry_run=True, tqdm_class=_Undrawn)
    except DryRunError:  # what is in the cache may be enough; if not, it is said when that is looked at
        return 0
    return sum(file.file_size or 0 for file in files if file.will_download)


class _Undrawn(tqdm):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]


def _bar(told: Advance, size: int) -> type[tqdm]:
    """A bar as the hub's library draws them, on a terminal, which also tells how much of `size` bytes is on the disk.

    The library makes several of it: the one that counts these bytes is told by its name.
    """
    lock = threading.Lock()  # files come side by side

    class Bar(tqdm):
        def __init__(self, *arguments: Any, name: str | None = None, **options: Any) -> None:
            super().__init__(*arguments, name=name, **options)  # type: ignore[no-untyped-call]
            self._counts = name == _BYTES_BAR
            self._bytes = 0.0

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and size:
                with lock:
                    self._bytes += n or 0
                told(self._bytes / size)
            drawn: bool | None = super().update(n)
            return drawn

    return Bar


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
