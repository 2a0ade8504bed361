"""INT4 as it is trained and written: rounding matrices by groups, layers that round in the forward pass, GPTQ tensors.

The largest weight of a group lies at −8, the longer arm of −8…7, whatever its sign (as in ggml's Q4_0): scales may be
negative. engine/README.md has what that gains.

Training goes straight through the rounding, as if its gradient were 1; torch's own fake quantisation would leave
weights beyond the last level without any. To the compiler both roundings are closed operations: fused, they would keep
the scales in fp32, but fp16 is what is served.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.inference import checkpoint
from engine.inference.gptq import Int4Weight
from engine.inference.held import HEAD_GROUP, round_groups
from engine.inference.int8 import dequantize_rows, quantize_rows
from engine.inference.model import Embedding, HunYuanDense, ModelConfig

GROUPS = (32, 64, 128, -1)  # weights of a row that share a scale; -1: the whole row
ZERO = 8
_EMBEDDING = "model.embed_tokens.weight"


def round_symmetric(weight: Tensor, group: int) -> Int4Weight:
    """[out, in] in fp32, `group` of `GROUPS` → the nearest of 16 levels; zeros are 8, scales fp16."""
    group = weight.shape[1] if group == -1 else group
    parts = weight.view(len(weight), -1, group)
    low, high = parts.amin(-1), parts.amax(-1)
    scales = (torch.where(high > -low, high, low) / -ZERO).to(torch.float16)
    scales = torch.where(scales == 0, torch.finfo(torch.float16).tiny, scales)
    values = (parts / scales.float()[..., None]).round().clamp(-ZERO, 15 - ZERO) + ZERO
    zeros = torch.full_like(scales, ZERO, dtype=torch.uint8)
    return Int4Weight(values.to(torch.uint8).flatten(1), scales, zeros, None, group)


# ---------------------------------------------------------------------------------------------------------------------
# in training


@torch.library.custom_op("yiwen::rounded", mutates_args=())
def _rounded(weight: Tensor, group: int) -> Tensor:
    return round_symmetric(weight, group).dequantize()


@torch.library.custom_op("yiwen::rounded_head", mutates_args=())
def _rounded_head(weight: Tensor) -> Tensor:
    return round_groups(_int8(weight), HEAD_GROUP).dequantize()


_rounded.register_fake(lambda weight, group: torch.empty_like(weight))
_rounded_head.register_fake(torch.empty_like)


class RoundedLinear(nn.Linear):
    """Multiplies by its weights in INT4; `weight` itself stays as fine as training needs it."""

    def __init__(self, linear: nn.Linear, group: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.group = linear.weight, group

    def served(self) -> Tensor:
        return _straight_through(self.weight, _rounded(self.weight.detach(), self.group))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.served())


class RoundedEmbedding(Embedding):
    """Looks up rows in INT8; the tied head is these rows in INT4, as the CPU engines make it."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, device="meta")
        self.weight = embedding.weight

    def served(self) -> Tensor:
        return _straight_through(self.weight, _int8(self.weight.detach()))

    def served_head(self) -> Tensor:
        return _straight_through(self.weight, _rounded_head(self.weight.detach()))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.served())

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.served_head())


def round_in_training(model: HunYuanDense, group: int) -> None:
    """Puts rounded modules in the places of the plain ones; the parameters and their names stay."""
    check_groups(model.config, group)
    if model.config.hidden_size % HEAD_GROUP:
        raise ConfigError(
            f"The head, served in groups of {HEAD_GROUP}, has {model.config.hidden_size} inputs; take a recipe whose "
            f"hidden_size is a multiple of {HEAD_GROUP}."
        )
    for layer in model.layers:
        for name, module in layer.named_children():
            if isinstance(module, nn.Linear):
                setattr(layer, name, RoundedLinear(module, group))
    model.embedding = RoundedEmbedding(model.embedding)


def _int8(weight: Tensor) -> Tensor:
    return dequantize_rows(*quantize_rows(weight), torch.float32)


def _straight_through(weight: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` to the last bit, with the gradient of `weight`."""
    return rounded + (weight - weight.detach())


# ---------------------------------------------------------------------------------------------------------------------
# as stored


def check_groups(config: ModelConfig, group: int) -> None:
    inputs = (config.hidden_size, config.heads * config.head_dim, config.intermediate_size)
    fitting = [each for each in GROUPS if each == -1 or not any(count % each for count in inputs)]
    if group not in fitting:
        undivided = next(count for count in inputs if count % group)
        offered = " or ".join(map(str, fitting))
        raise ConfigError(f"Groups of {group} do not divide the {undivided} inputs of a layer; take {offered}.")


def pack(weight: Int4Weight) -> dict[str, Tensor]:
    """The tensors of one matrix in GPTQ's format v1, by their last names: the inverse of `gptq.read`. Its columns must
    be in order, its rows a multiple of eight."""
    assert weight.order is None
    groups = torch.arange(weight.values.shape[1], dtype=torch.int32) // weight.group
    return {
        "qweight": _packed(weight.values).T.contiguous(),
        "qzeros": _packed(weight.zeros.T) - _packed(torch.ones_like(weight.zeros.T)),
        "scales": weight.scales.T.clone(memory_format=torch.contiguous_format),  # no view, even of a single group
        "g_idx": groups,
    }


def settings_of(group: int) -> dict[str, Any]:
    """What `write` says of matrices that `round_symmetric` made."""
    return {"bits": 4, "group_size": group, "desc_act": False, "sym": True, "lm_head": False}


def save_model(
    model: HunYuanDense, folder: Path, group: int, extra: Mapping[str, Any], shard_bytes: int = checkpoint.WHOLE_BYTES
) -> None:
    """Writes the layers' matrices in INT4, the embedding in INT8 (only Yiwen reads it), the rest in bf16; `extra` for
    config.json."""
    tensors: dict[str, Tensor] = {}
    for name, weight in checkpoint.tensors_of(model):
        weight = weight.float().cpu()
        if weight.ndim == 2 and name.startswith("model.layers."):
            parts = pack(round_symmetric(weight, group))
            tensors |= {f"{name.removesuffix('weight')}{last}": part for last, part in parts.items()}
        else:
            tensors[name] = weight if name == _EMBEDDING else weight.to(torch.bfloat16)
    config = checkpoint.transformers_config(model.config) | dict(extra) | {"dtype": "bfloat16"}
    write(tensors, config, settings_of(group), folder, int8_embedding=True, shard_bytes=shard_bytes)


def write(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    folder: Path,
    int8_embedding: bool,
    shard_bytes: int = checkpoint.WHOLE_BYTES,
) -> None:
    """GPTQ's tensors (format v1) as a checkpoint. `settings`: bits, group_size and what else readers of it need."""
    tensors = dict(tensors)
    if int8_embedding:
        tensors[_EMBEDDING], tensors[f"{_EMBEDDING}_scale"] = quantize_rows(tensors[_EMBEDDING])
    quantization = {**settings, "quant_method": checkpoint.GPTQ_METHOD, "checkpoint_format": "gptq"}
    checkpoint.write(tensors, {**config, "quantization_config": quantization}, folder, shard_bytes)


def _packed(values: Tensor) -> Tensor:
    """uint8 [a, 8·b], each 0…15 → int32 [a, b], the first of eight in the lowest bits."""
    halves = values[:, 0::2] | values[:, 1::2] << 4
    return halves.flatten().view(torch.int32).view(len(values), -1)
