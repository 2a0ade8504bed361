"""INT8 weights, one scale an output row: half of bf16. They are computed with by the CPU's graphs, for which a model in
16 or 32 bits is rounded as it is read; elsewhere they are widened as they are loaded.

The scheme is plain round to nearest, w ≈ q·s with s = max|w| / 127 of the row; norms are left as they are.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

BLOCK_ROWS = 1_024  # in fp32 at once: the embedding of a 7B would take 2.1 GB


class Int8Rows(nn.Module):
    """Stands where a matrix [rows, in] belongs in a model that is loaded only to be made a graph of: INT8 `weight`,
    fp32 `scale` [rows]."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.float())


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] in any float dtype → INT8 [out, in] and fp32 scales [out], with no more than a block in fp32 beside."""
    values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(len(weight), device=weight.device)
    for rounded, scale, block in zip(
        *(torch.split(each, BLOCK_ROWS) for each in (values, scales, weight)), strict=True
    ):
        wide = block.float()
        scale.copy_((wide.abs().amax(1) / 127).clamp(min=1e-12))
        rounded.copy_((wide / scale[:, None]).round_())
    return values, scales


def dequantize_rows(quantized: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[out, in] in `dtype`, with no more than a block of it in fp32 beside."""
    wide = torch.empty(quantized.shape, dtype=dtype, device=quantized.device)
    blocks = (torch.split(each, BLOCK_ROWS) for each in (wide, quantized, scale))
    for part, values, scales in zip(*blocks, strict=True):
        part.copy_(values * scales.float()[:, None])
    return wide


def float_weight(module: nn.Module) -> Tensor:
    """The matrix of a linear layer or embedding in a float dtype, [out, in]; INT8 rows are widened to fp32."""
    if isinstance(module, Int8Rows):
        return dequantize_rows(module.weight, module.scale, torch.float32)
    assert isinstance(module.weight, Tensor)
    return module.weight.detach()


def float_blocks(module: nn.Module) -> Iterator[Tensor]:
    """The same in fp32, a block of rows at a time."""
    if isinstance(module, Int8Rows):
        weights, scales = torch.split(module.weight, BLOCK_ROWS), torch.split(module.scale, BLOCK_ROWS)
        yield from map(partial(dequantize_rows, dtype=torch.float32), weights, scales)
    else:
        yield from (part.float() for part in torch.split(float_weight(module), BLOCK_ROWS))
