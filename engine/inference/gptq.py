"""Reads GPTQ INT4 tensors (AutoGPTQ, GPTQModel, Tencent's own) and widens them. The fast kernel is the engine issue's.

Layout "gptq" v1, bits 4: `qweight` [in/8, out] int32 (eight rows an int, lowest first), `qzeros` [groups, out/8] int32
holding zero − 1, `scales` [groups, out], `g_idx` [in] the group of each input row (any order after act-order).
w[i, o] = (q[i, o] − zero[g, o]) · scale[g, o] with g = g_idx[i]. "gptq_v2" stores the zero itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from engine.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class GptqConfig:
    zero_offset: int  # added to a stored zero point

    @classmethod
    def read(cls, quantization: Mapping[str, Any]) -> Self:
        if quantization.get("bits") != 4:
            raise UnsupportedModel(f"GPTQ weights of {quantization.get('bits')} bits cannot be read; 4 bits can.")
        return cls(zero_offset=0 if quantization.get("checkpoint_format") == "gptq_v2" else 1)


def fit_together(tensors: Mapping[str, Tensor]) -> bool:
    """Are these the four tensors of one matrix?"""
    scales, group = tensors["scales"], tensors["g_idx"]
    if (scales.ndim, group.ndim) != (2, 1):
        return False
    groups, rows = scales.shape
    return (
        tensors["qweight"].shape == (len(group) // 8, rows)
        and tensors["qzeros"].shape == (groups, rows // 8)
        and int(group.min()) >= 0
        and int(group.max()) < groups
    )


def dequantize(tensors: Mapping[str, Tensor], config: GptqConfig) -> Tensor:
    """The weight in torch's layout: [out, in], fp32."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    packed, zeros = tensors["qweight"], tensors["qzeros"]
    values = ((packed[:, None, :] >> shifts[None, :, None]) & 15).reshape(-1, packed.shape[1])
    offsets = ((zeros[:, :, None] >> shifts) & 15).reshape(zeros.shape[0], -1) + config.zero_offset
    group = tensors["g_idx"].long()
    return ((values - offsets[group]) * tensors["scales"].float()[group]).T.contiguous()
