"""The model in training: attention within packed documents, the loss, layers computed anew in the backward pass.

Knows the model and a batch (`packing.collate`); no precision but the dtype it is told, no optimizer, no files.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from engine.inference.model import HunYuanDense
from engine.tools.training.packing import IGNORED

CHUNK_SCORES = 2**28  # of the head at once: 0.5 GB in 16 bits; more are made, and made anew, chunk by chunk


class PackedAttention:
    """Causal attention within each document of a row: flex attention on a GPU, a dense mask on the CPU."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.documents = torch.zeros(rows, width, dtype=torch.int64, device=device)
        self.mask: BlockMask | None = None
        self._make: Callable[[], BlockMask] | None = None
        if device.type == "cuda":
            documents = self.documents

            def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (documents[row, query] == documents[row, key]) & (query >= key)

            self._make = torch.compile(lambda: create_block_mask(seen, rows, None, width, width, device="cuda"))

    def set(self, documents: Tensor) -> None:
        self.documents.copy_(documents)
        if self._make is not None:
            self.mask = self._make()

    def dense(self, row: int) -> "PackedAttention":
        """The same for one row, without a kernel that has to be compiled."""
        single = PackedAttention(1, self.documents.shape[1], torch.device("cpu"))
        single.documents = self.documents[row : row + 1]
        return single

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if self.mask is not None:
            seen = flex_attention(query, key, value, block_mask=self.mask, enable_gqa=True)
            assert isinstance(seen, Tensor)
        else:
            width = query.shape[2]
            mask = (self.documents[:, :, None] == self.documents[:, None, :]).tril()[:, None, :width, :width]
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return seen.transpose(1, 2)


class Trainee(nn.Module):
    """The model with its loss, so that data parallelism sees one forward. `compute`: of the residual stream.

    `anew`: of each layer only what goes in is kept, and the rest computed again in the backward pass (gradient
    checkpointing, Chen et al., arXiv 1604.06174)."""

    def __init__(
        self,
        model: HunYuanDense,
        attend: PackedAttention,
        label_smoothing: float,
        compute: torch.dtype,
        anew: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.attend, self.label_smoothing, self.compute = model, attend, label_smoothing, compute
        self.loss_of: Callable[..., Tensor] = head_loss
        if attend.documents.is_cuda:
            for layer in model.layers:
                layer.compile(dynamic=False)
            self.loss_of = torch.compile(head_loss, dynamic=False)
        if anew:
            model.layers = ComputedAnew(model.layers)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """[2]: the smoothed loss to descend and the plain one, each summed over target tokens, in nats."""
        hidden = self.model(batch["ids"], batch["positions"], self.attend, self.compute)
        hidden = hidden.flatten(0, 1).index_select(0, batch["places"])
        chunk = max(128, CHUNK_SCORES // self.model.config.vocab_size // 128 * 128)
        if len(hidden) <= chunk:
            return self.loss_of(self.model, hidden, batch["labels"], self.label_smoothing)
        labels: Tensor = batch["labels"]
        parts = zip(hidden.split(chunk), labels.split(chunk), strict=True)  # type: ignore[no-untyped-call]
        sums = [
            checkpoint(self.loss_of, self.model, *part, self.label_smoothing, use_reentrant=False) for part in parts
        ]
        return torch.stack(sums).sum(0)


class ComputedAnew(nn.ModuleList):
    """Layers that keep only what goes in while gradients are wanted. Their parameters keep their names."""

    def __iter__(self) -> Iterator[nn.Module]:
        for layer in super().__iter__():
            recorded = layer.training and torch.is_grad_enabled()
            yield partial(checkpoint, layer, use_reentrant=False) if recorded else layer  # type: ignore[misc]


def head_loss(model: HunYuanDense, hidden: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    scores = model.logits(hidden).float()
    counted = labels != IGNORED
    wanted = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    total = torch.logsumexp(scores, -1)
    plain = torch.where(counted, total - wanted, 0).sum()
    spread = torch.where(counted, total - scores.mean(-1), 0).sum()
    return torch.stack(((1 - smoothing) * plain + smoothing * spread, plain.detach()))


def initialise(model: HunYuanDense, seed: int) -> None:
    """Normal(0, 0.02); what adds to the residual stream is scaled down by √(2·layers), as in GPT-2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02, generator=generator)
                if name.endswith(("output.weight", "down.weight")):
                    parameter.div_(math.sqrt(2 * model.config.layers))
