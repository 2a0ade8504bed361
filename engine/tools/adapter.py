"""A LoRA adapter in PEFT's own layout, added to the weights it was trained on: W + B·A·alpha/r, in fp32.

Reads `adapter_config.json` and `adapter_model.safetensors` without PEFT. What is more than plain LoRA on the matrices
of the layers is refused by name. Knows nothing of the files of the model.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from engine.errors import ModelNotFound, UnsupportedModel
from engine.inference.checkpoint import check_finite, opened, read_json, refuse_pickles

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(
    r"base_model\.model\.(model\.layers\.\d+\.(?:self_attn|mlp)\.(?:[qkvo]|gate|up|down)_proj)\.lora_([AB])\.weight"
)
_PLAIN: tuple[object, ...] = (None, False, "none", [], {}, "")
_MORE = (  # settings of PEFT's that are more than a sum, or of more than the layers' matrices
    "use_dora",
    "bias",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)
_WEIGHTS_UNTOUCHED = (None, True, False, "gaussian", "eva", "orthogonal")  # others change them, or are no sum


@dataclass(frozen=True, slots=True)
class Adapter:
    _factors: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in], B [out, r] by the matrix's name
    _scales: Mapping[str, float]

    @classmethod
    def read(cls, folder: Path, shapes: Mapping[str, torch.Size]) -> Self:
        """`shapes`: of the model's weights, by name. Raises `ModelNotFound`, and `UnsupportedModel` for what cannot be
        merged into that model."""
        config = _config(folder)
        factors = _factors(folder)
        for name, (down, up) in factors.items():
            if name not in shapes:
                raise UnsupportedModel(f"The adapter {str(folder)!r} is for another model: this one has no {name}.")
            made = (len(up), down.shape[1])
            if made != shapes[name]:
                raise UnsupportedModel(
                    f"The adapter {str(folder)!r} is for another model: it adds to {name} as {made}, which has "
                    f"{tuple(shapes[name])} here."
                )
        _check_layers(folder, config, factors, shapes)
        scales = {name: _scale(config, name, len(down), folder) for name, (down, _) in factors.items()}
        return cls(factors, scales)

    @property
    def matrices(self) -> int:
        return len(self._factors)

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """fp32 [out, in]; what it has nothing for is given back."""
        if name not in self._factors:
            return weight
        down, up = self._factors[name]
        return weight.float() + (up.float() @ down.float()) * self._scales[name]


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelNotFound(f"There is no adapter folder {str(folder)!r}; give one that holds {CONFIG}.")
    try:
        config = read_json(folder / CONFIG)
    except FileNotFoundError as error:
        raise ModelNotFound(f"The folder {str(folder)!r} holds no {CONFIG}, so it is no adapter of PEFT's.") from error
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{str(folder)!r} is an adapter of type {config.get('peft_type')}; LORA can be merged.")
    more = [name for name in _MORE if config.get(name) not in _PLAIN]
    if more:
        raise UnsupportedModel(
            f"The adapter {str(folder)!r} has {' and '.join(f'{name} {config[name]!r}' for name in more)}; only plain "
            "LoRA can be merged here, so merge it with PEFT (merge_and_unload)."
        )
    if config.get("init_lora_weights") not in _WEIGHTS_UNTOUCHED:
        raise UnsupportedModel(
            f"The adapter {str(folder)!r} began with init_lora_weights {config['init_lora_weights']!r}, which is more "
            "than a sum; merge it with PEFT (merge_and_unload)."
        )
    return config


def _factors(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    path = folder / WEIGHTS
    if not path.exists():
        refuse_pickles(folder)
    halves: dict[str, dict[str, Tensor]] = {}
    with opened(path) as file:
        for full in list(file.keys()):
            found = _FACTOR.fullmatch(full)
            if not found:
                raise UnsupportedModel(
                    f"The adapter {str(folder)!r} has {full}; only lora_A and lora_B of the layers' q, k, v, o, gate, "
                    "up and down projections can be merged."
                )
            name, half = found.groups()
            halves.setdefault(name, {})[half] = file.get_tensor(full)
            check_finite(full, halves[name][half], folder)
    if not halves:
        raise UnsupportedModel(f"The adapter {str(folder)!r} holds no weights.")
    for name, pair in halves.items():
        whole = len(pair) == 2 and all(half.ndim == 2 for half in pair.values())
        if not whole or len(pair["A"]) != pair["B"].shape[1]:
            raise UnsupportedModel(f"In the adapter {str(folder)!r} lora_A and lora_B of {name} do not fit together.")
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}


def _check_layers(
    folder: Path, config: Mapping[str, Any], factors: Mapping[str, object], shapes: Mapping[str, object]
) -> None:
    """An adapter of a model of the same widths with fewer layers would fit, and be wrong."""
    chosen = config.get("layers_to_transform") is not None or isinstance(config.get("target_modules"), str)
    adapted, there = _layers(factors), _layers(shapes)
    if not chosen and config.get("exclude_modules") in _PLAIN and adapted != there:
        raise UnsupportedModel(
            f"The adapter {str(folder)!r} is for another model: it has {len(adapted)} layers and this one {len(there)}."
        )


def _layers(names: Mapping[str, object]) -> set[str]:
    return {name.split(".")[2] for name in names if name.startswith("model.layers.")}


def _scale(config: Mapping[str, Any], name: str, rank: int, folder: Path) -> float:
    try:
        said, alpha = _of(config, "rank_pattern", "r", name), _of(config, "alpha_pattern", "lora_alpha", name)
    except (re.error, AttributeError) as error:
        raise UnsupportedModel(
            f"The rank_pattern or alpha_pattern of {str(folder / CONFIG)!r} cannot be read ({error})."
        ) from error
    if said != rank or not isinstance(alpha, int | float):
        raise UnsupportedModel(
            f"{str(folder / CONFIG)!r} says rank {said!r} and alpha {alpha!r} for {name}, whose lora_A has {rank} rows."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of(config: Mapping[str, Any], pattern: str, default: str, name: str) -> Any:
    """As PEFT has it: the first key that, as an expression, matches the end of the name."""
    for key, value in (config.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return config.get(default)
