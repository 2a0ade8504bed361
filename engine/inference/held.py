"""What the graphs of the CPU engines share: a model whose INT4 matrices are only held, and its head in INT4.

The head of GPTQ checkpoints stays in 16 bits, but it is a third of what the embedded model reads for a token, so it is
rounded here. Knows no graph.
"""

import torch
from torch import Tensor, nn

from engine.inference.gptq import Int4Weight
from engine.inference.int8 import Int8Rows, float_weight
from engine.inference.model import HunYuanDense

HEAD_GROUP = 64
STEPS = 15  # between the smallest and the largest of four bits


class Int4Held(nn.Module):
    """Stands where an INT4 matrix belongs in a model that is loaded only to be made a graph of: `load_model`'s
    `linear`."""

    def __init__(self, weight: Int4Weight) -> None:
        super().__init__()
        self.held = weight


def int4_weights(model: HunYuanDense) -> list[Int4Weight]:
    return [module.held for module in model.modules() if isinstance(module, Int4Held)]


def float_head(model: HunYuanDense) -> Tensor:
    """[vocab_size, hidden_size], whatever it is stored as."""
    return float_weight(model.embedding if model.head is None else model.head)


def round_groups(weight: Tensor, group: int) -> Int4Weight:
    """[out, in] in any float type, `group` a divisor of `in`. Each group's range, widened to hold zero, is cut into
    equal steps."""
    parts = weight.float().view(len(weight), -1, group)
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    scales = ((high - low) / STEPS).clamp(min=torch.finfo(torch.float16).tiny).to(torch.float16)
    wide = scales.float()
    zeros = (-low / wide).round().clamp(0, STEPS)
    values = (parts / wide[..., None]).round_().add_(zeros[..., None]).clamp_(0, STEPS)
    return Int4Weight(values.to(torch.uint8).flatten(1), scales, zeros.to(torch.uint8), None, group)


def weight_bytes(model: HunYuanDense) -> int:
    """Of the weights as they are stored, with INT4 packed."""
    total = 0
    for module in model.modules():
        if isinstance(module, Int4Held):
            total += (module.held.values.nbytes + module.held.zeros.nbytes) // 2 + module.held.scales.nbytes
        elif isinstance(module, Int8Rows):
            total += module.weight.nbytes + module.scale.nbytes
        else:
            total += sum(weight.nbytes for weight in module.parameters(recurse=False))
    return total
