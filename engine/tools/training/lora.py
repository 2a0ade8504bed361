"""LoRA by peft on our fused matrices, over weights in 16 bits or INT4, and the adapter in PEFT's own format.

What is fused shares its A: query, key and value (gate and up) are written as adapters with the same A and their own
rows of B, which is the same sum. So transformers, vLLM and `engine.tools.convert --lora` read it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.inference.checkpoint import LAYER_NAMES
from engine.inference.gptq import Int4Weight
from engine.inference.model import HunYuanDense, Layer
from engine.tools.int4 import check_groups, round_symmetric

TARGETS = ("qkv", "output", "gate_up", "down")
ADAPTER = "default"  # peft's name of the only one
ROUNDED_GROUP = 128  # of weights that share a scale, where a model is rounded for training


class FrozenInt4(nn.Linear):
    """A matrix that is not trained, held in INT4, two values a byte, and widened each time it is used."""

    values: Tensor
    scales: Tensor
    zeros: Tensor
    order: Tensor | None

    def __init__(self, held: Int4Weight) -> None:
        nn.Module.__init__(self)  # a linear layer to peft, without its weight
        self.out_features, self.in_features = held.values.shape
        self.register_parameter("bias", None)
        self.register_buffer("values", held.values[:, 0::2] | held.values[:, 1::2] << 4)
        self.register_buffer("scales", held.scales)
        self.register_buffer("zeros", held.zeros)
        self.register_buffer("order", held.order)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Where peft looks for the device."""
        return self.values

    @classmethod
    def rounded(cls, linear: nn.Linear, device: torch.device | None = None) -> Self:
        return cls(round_symmetric(linear.weight.detach().to(device, torch.float32), ROUNDED_GROUP))

    def forward(self, x: Tensor) -> Tensor:
        if self.order is not None:
            x = x[..., self.order]
        product: Tensor = _Product.apply(x, self.values, self.scales, self.zeros)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """x @ w.T; the backward pass widens w again, so that no wide copy is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        ctx.save_for_backward(values, scales, zeros)
        return F.linear(x, _widened(values, scales, zeros, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        values, scales, zeros = ctx.saved_tensors
        return gradient @ _widened(values, scales, zeros, gradient.dtype), None, None, None


def _widened(values: Tensor, scales: Tensor, zeros: Tensor, dtype: torch.dtype) -> Tensor:
    """Two values a byte [out, in / 2] → [out, in]."""
    whole = torch.stack((values & 15, values >> 4), -1).view(len(values), scales.shape[1], -1)
    wide = (whole.to(dtype) - zeros[..., None].to(dtype)) * scales[..., None].to(dtype)
    return wide.view(len(values), -1)


def hold_in_int4(model: HunYuanDense, device: torch.device | None = None) -> None:
    """Rounds the matrices of the layers, one at a time, onto `device` (of a model on the host, a card then never holds
    more than one in 16 bits). Raises `ConfigError` where groups do not divide them."""
    check_groups(model.config, ROUNDED_GROUP)
    for layer in model.layers:
        for name in TARGETS:
            linear = getattr(layer, name)
            if not isinstance(linear, FrozenInt4):
                setattr(layer, name, FrozenInt4.rounded(linear, device))


def add(model: HunYuanDense, rank: int, alpha: float, dropout: float, dtype: torch.dtype, seed: int) -> None:
    """Puts adapters on all matrices of the layers; they alone are trained, in `dtype`. B is zero at first, so the
    model says what it said."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(seed)
    inject_adapter_in_model(_config(rank, alpha, dropout, list(TARGETS)), model)
    for _, adapted in _adapted(model):
        adapted.cast_input_dtype_enabled = False  # autocast does
        for matrix in (adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER]):
            matrix.to(model.norm.weight.device, dtype)
            matrix.weight.requires_grad_(True)


def save(model: HunYuanDense, folder: Path, start: str, alpha: float, dropout: float) -> None:
    """`adapter_config.json` and `adapter_model.safetensors`, fp32, by the names of transformers' model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    rank = 0
    for place, adapted in _adapted(model):
        down, up = (each[ADAPTER].weight.detach().float().cpu() for each in (adapted.lora_A, adapted.lora_B))
        rank = len(down)
        index, name = place.split(".")
        layer = model.layers[int(index)]
        assert isinstance(layer, Layer)
        for their_name, rows in zip(LAYER_NAMES[name], up.split(_widths(layer, name, len(up))), strict=True):
            stem = f"base_model.model.model.layers.{index}.{their_name}"
            tensors[f"{stem}.lora_A.weight"] = down.clone()
            tensors[f"{stem}.lora_B.weight"] = rows.clone()
    theirs = [name.rpartition(".")[2] for target in TARGETS for name in LAYER_NAMES[target]]
    config = _config(rank, alpha, dropout, theirs)
    config.base_model_name_or_path, config.task_type, config.inference_mode = start, "CAUSAL_LM", True
    partial = folder / "adapter_model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / "adapter_model.safetensors")
    config.save_pretrained(str(folder))


def _config(rank: int, alpha: float, dropout: float, targets: list[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)  # type: ignore[arg-type]


def _adapted(model: HunYuanDense) -> Iterator[tuple[str, Any]]:
    """("3.qkv", peft's layer)"""
    for name, module in model.layers.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _widths(layer: Layer, name: str, rows: int) -> list[int]:
    if name == "qkv":
        return list(layer.widths)
    return [rows // 2] * 2 if name == "gate_up" else [rows]
