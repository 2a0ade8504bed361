"""In which numbers training computes, and what fp16 cannot hold. Knows no model and no data.

Mixed precision is autocast's O1: weights, gradients and the optimizer stay fp32, products and the residual stream are
in 16 bits. With fp16 the loss is scaled, so that small gradients are not rounded to zero (Micikevicius et al., arXiv
1710.03740). Pure fp16 is there to be looked at: it is what goes wrong without any of this.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

# Half of fp16's smallest number, 2⁻²⁴: what is not larger is rounded to zero
FP16_LOST = 2.0**-25
FIRST_SCALE = 2.0**16  # of the loss; halved where a gradient overflows, doubled after `GROWTH_STEPS` without
GROWTH_STEPS = 2_000  # as in torch.amp.GradScaler
BF16_CAPABILITY = (8, 0)  # Ampere
LOWEST_SCALE = 2.0**-6  # one that small is no answer any more: something else is wrong


@dataclass(frozen=True, slots=True)
class Precision:
    name: str
    weights: torch.dtype  # of what is trained, and with it of gradients and optimizer
    frozen: torch.dtype  # of what is not
    compute: torch.dtype  # of products and of the residual stream
    scaled: bool = False
    tf32: bool = False  # products of fp32 with 10 bits of mantissa

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.compute == self.weights:
            return nullcontext()
        return torch.autocast(device.type, self.compute)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(
            device.type, init_scale=FIRST_SCALE, growth_interval=GROWTH_STEPS, enabled=self.scaled
        )


_ALL = (
    Precision("fp32", torch.float32, torch.float32, torch.float32),
    Precision("tf32", torch.float32, torch.float32, torch.float32, tf32=True),
    Precision("amp-fp16", torch.float32, torch.float16, torch.float16, scaled=True),
    Precision("bf16", torch.float32, torch.bfloat16, torch.bfloat16),
    Precision("fp16", torch.float16, torch.float16, torch.float16),
)
PRECISIONS = {each.name: each for each in _ALL}


def best_for(device: torch.device) -> tuple[Precision, str]:
    """What `--precision auto` takes, and why."""
    if device.type != "cuda":
        return PRECISIONS["fp32"], "a CPU has no faster one that every processor knows"
    if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY:
        return PRECISIONS["bf16"], "the card multiplies it at full speed, and it needs no loss scale"
    return PRECISIONS["amp-fp16"], "the card is older than Ampere and has no bf16"


@torch.no_grad()
def underflow(gradients: Iterable[Tensor], scale: float = 1.0) -> dict[str, float]:
    """Shares of gradients' values, from 0 to 1: `zero` already; `lost` and `lost_scaled` of the rest when rounded to
    fp16 as they are and times `scale`; `squares_lost`, whose square is: Adam's second moment in fp16."""
    counts = torch.zeros(5, dtype=torch.float64)
    for gradient in gradients:
        size = gradient.float().abs()
        found = [size == 0, size <= FP16_LOST, size * scale <= FP16_LOST, size * size <= FP16_LOST]
        counts += torch.stack([*(each.sum() for each in found), torch.tensor(size.numel(), device=size.device)]).cpu()
    zero, lost, scaled, squares, all_values = counts.tolist()
    rest = max(all_values - zero, 1.0)
    return {
        "zero": round(zero / max(all_values, 1.0), 4),
        "lost": round((lost - zero) / rest, 4),
        "lost_scaled": round((scaled - zero) / rest, 4),
        "squares_lost": round((squares - zero) / rest, 4),
    }
