"""INT8 weights, one scale an output row: half of bf16, and on the CPU faster than it. Activations stay in bf16 or fp32.

The scheme is plain round to nearest, w ≈ q·s with s = max|w| / 127 of the row; kept norms and activations untouched.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# On the CPU the INT8 kernel streams weights for few rows; above, a dense product of the widened weights is faster
# (two cores with AVX-512, 8 rows: a layer's four products take 428 µs in INT8 and 453 µs in bf16, the head 1.9 and
# 2.5 ms; with 4 rows 224 and 416 µs).
MAX_STREAMED_ROWS = 8


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] in any float dtype → INT8 [out, in] and fp32 scales [out]."""
    wide = weight.float()
    scale = (wide.abs().amax(1) / 127).clamp(min=1e-12)
    return (wide / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def dequantize_rows(quantized: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (quantized.float() * scale.float()[:, None]).to(dtype)


class Int8Rows(nn.Module):
    """An INT8 matrix [rows, in] with a scale each row, and its widened copy."""

    weight: Tensor
    scale: Tensor
    wide: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        # A copy, so that it is aligned: torch 2.13's kernel crashes on weights off a 64-byte boundary (a mapped file).
        self.register_buffer("weight", weight.clone(memory_format=torch.contiguous_format))
        self.register_buffer("scale", scale.to(dtype))
        self.register_buffer("wide", dequantize_rows(weight, scale, dtype))

    def product(self, x: Tensor) -> Tensor:
        """`x @ w.T`: [..., in] → [..., rows]."""
        vectors = x.numel() // x.shape[-1]
        if vectors <= MAX_STREAMED_ROWS and x.dtype == torch.bfloat16 and not x.is_cuda:
            flat: Tensor = torch._weight_int8pack_mm(x.reshape(vectors, -1), self.weight, self.scale)
            return flat.view(*x.shape[:-1], -1)
        return F.linear(x, self.wide)


class Int8Linear(Int8Rows):
    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class Int8Embedding(Int8Rows):
    """Rows looked up by id; the same matrix is the tied head through `project`."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.wide)

    def project(self, x: Tensor) -> Tensor:
        return self.product(x)


def float_weight(module: nn.Module) -> Tensor:
    """The matrix of a linear layer or embedding in a float dtype, [out, in]; INT8 rows are widened to fp32."""
    if isinstance(module, Int8Rows):
        return dequantize_rows(module.weight, module.scale, torch.float32)
    assert isinstance(module.weight, Tensor)
    return module.weight.detach()
