"""Reads GPTQ tensors (AutoGPTQ, GPTQModel, Tencent's own) into one neutral form. Knows no kernel and no model.

As stored, for a matrix [out, in], four bits a value: `qweight` [in/8, out] int32 (eight inputs an int, lowest bits
first), `qzeros` [groups, out/8] int32, `scales` [groups, out], `g_idx` [in] int32: the group of each input. Eight bits
a value lie four an int; such weights can only be widened.
w[o, i] = (q[i, o] − zero[g, o]) · scale[g, o] with g = g_idx[i]. Format "gptq" (v1) stores zero − 1, "gptq_v2" zero.

With act-order each group holds inputs from all over the matrix: then the columns are sorted by group, and `order` says
where each came from. With static groups (`static_groups`) act-order leaves no trace: g_idx is i // group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from engine.errors import UnsupportedModel

NAMES = ("qweight", "qzeros", "scales", "g_idx")  # what one matrix is stored as; g_idx may be missing
_ONE_EACH = {4: 0x11111111, 8: 0x01010101}  # bits a value → one in each field of an int32
_V1, _V2 = "gptq", "gptq_v2"


@dataclass(frozen=True, slots=True)
class GptqConfig:
    name: str = "the checkpoint"
    zeros_less_one: bool = True  # format v1
    act_order: bool = False  # without static groups: then g_idx cannot be guessed
    bits: int = 4

    @classmethod
    def read(cls, quantization: Mapping[str, Any]) -> Self:
        """`quantization_config` of config.json."""
        bits = quantization.get("bits")
        if bits not in _ONE_EACH:
            raise UnsupportedModel(f"GPTQ weights of {bits} bits cannot be read; 4 and 8 bits can.")
        stored = quantization.get("checkpoint_format") or quantization.get("format") or _V1
        if stored not in (_V1, _V2):
            raise UnsupportedModel(f"GPTQ weights laid out as {stored!r} cannot be read; {_V1!r} and {_V2!r} can.")
        packed = quantization.get("pack_dtype") or "int32"
        if str(packed).removeprefix("torch.") != "int32":
            raise UnsupportedModel(f"GPTQ weights packed in {packed} cannot be read; int32 can.")
        act_order = bool(quantization.get("desc_act")) and not quantization.get("static_groups")
        return cls(zeros_less_one=stored == _V1, act_order=act_order, bits=bits)


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """A matrix [out, in]: w[o, order[j]] = (values[o, j] − zeros[o, j // group]) · scales[o, j // group]."""

    values: Tensor  # uint8 [out, in], 0…15 (0…255 of eight bits, to be widened), columns permuted by `order`
    scales: Tensor  # fp16, bf16 or fp32 [out, groups]
    zeros: Tensor  # uint8 [out, groups], of the same range
    order: Tensor | None  # int64 [in]: column j multiplies x[order[j]]; None when the identity
    group: int  # inputs a group

    def dequantize(self) -> Tensor:
        """The matrix with its columns where they came from: fp32 [out, in]."""
        rows, columns = self.values.shape
        wide = self.values.view(rows, -1, self.group).float() - self.zeros.float()[:, :, None]
        wide = wide.mul_(self.scales.float()[:, :, None]).view(rows, columns)
        if self.order is None:
            return wide
        return torch.empty_like(wide).index_copy_(1, self.order, wide)


def read(tensors: Mapping[str, Tensor], config: GptqConfig, name: str = "a matrix") -> Int4Weight:
    """The tensors of one matrix, by their last names (`NAMES`), on whichever device they are. `name` is for errors.

    Raises `UnsupportedModel` for tensors that do not fit together, and for groups of unequal sizes.
    """
    packed, packed_zeros, scales = (tensors[key] for key in NAMES[:3])
    fits = packed.ndim == packed_zeros.ndim == scales.ndim == 2 and packed.dtype == packed_zeros.dtype == torch.int32
    each = 32 // config.bits
    rows = each * packed_zeros.shape[1] if fits else 0
    if not fits or scales.shape != (len(packed_zeros), rows) or packed.shape[1] != rows:
        raise UnsupportedModel(f"The GPTQ tensors of {name} do not fit together.")
    columns, groups = each * len(packed), len(scales)
    group, order = _groups(tensors.get("g_idx"), columns, groups, config, name)
    values = _unpacked(packed.T, config.bits)
    if config.zeros_less_one:
        # In the int as a whole, as GPTQModel took it away: a zero of 0 has borrowed from the next field.
        packed_zeros = packed_zeros + _ONE_EACH[config.bits]
    return Int4Weight(
        values=values if order is None else values.index_select(1, order),
        scales=scales.T.contiguous(),
        zeros=_unpacked(packed_zeros, config.bits).T.contiguous(),
        order=order,
        group=group,
    )


def fuse(parts: Sequence[Int4Weight], name: str = "a matrix") -> Int4Weight:
    """Matrices of the same input as one, along the rows.

    Act-order sorts by the input alone, so parts of one layer share their order; others have no common layout and
    raise `UnsupportedModel`.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.group != first.group or not _same(part.order, first.order):
            raise UnsupportedModel(
                f"The parts of {name} were quantised in different orders or groups, so they cannot be kept in INT4 as "
                "one; use --precision bf16, which widens them."
            )
    if len(parts) == 1:
        return first
    return Int4Weight(
        values=torch.cat([part.values for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=torch.cat([part.zeros for part in parts]),
        order=first.order,
        group=first.group,
    )


def _groups(
    g_idx: Tensor | None, columns: int, groups: int, config: GptqConfig, name: str
) -> tuple[int, Tensor | None]:
    """(inputs a group, the columns sorted by group or None)."""
    unequal = UnsupportedModel(f"The {columns} inputs of {name} are in {groups} groups of unequal sizes.")
    if groups == 0 or columns % groups:
        raise unequal
    size = columns // groups
    if g_idx is None:
        if config.act_order and groups > 1:
            raise UnsupportedModel(f"{name} was quantised with act-order, but the tensor {name}.g_idx is missing.")
        return size, None
    if g_idx.shape != (columns,) or int(g_idx.min()) < 0 or int(g_idx.max()) >= groups:
        raise UnsupportedModel(f"The GPTQ tensors of {name} do not fit together.")
    group_of = g_idx.long()
    if not bool((torch.bincount(group_of, minlength=groups) == size).all()):
        raise unequal
    if bool((group_of[1:] >= group_of[:-1]).all()):
        return size, None
    return size, torch.argsort(group_of, stable=True)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """int32 [a, b] → uint8 [a, 8·b], or [a, 4·b] of eight bits: the fields of each, lowest first."""
    bytes_ = packed.contiguous().view(torch.uint8)  # the lowest comes first on all machines torch runs on
    return bytes_ if bits == 8 else torch.stack((bytes_ & 15, bytes_ >> 4), -1).view(len(bytes_), -1)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
