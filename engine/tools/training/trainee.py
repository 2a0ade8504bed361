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
    checkpointing, Chen et al., arXiv 1604.06174). With a `teacher`, whose weights stay, what is descended is how far
    the model's probabilities at each target token are from the teacher's (Hinton et al., arXiv 1503.02531).
    """

    def __init__(
        self,
        model: HunYuanDense,
        attend: PackedAttention,
        label_smoothing: float,
        compute: torch.dtype,
        anew: bool = False,
        teacher: HunYuanDense | None = None,
    ) -> None:
        super().__init__()
        self.model, self.attend, self.label_smoothing, self.compute = model, attend, label_smoothing, compute
        # hidden from `nn.Module`: no part of what is trained and kept
        self._teachers: tuple[HunYuanDense, ...] = (teacher,) if teacher else ()
        self._sums: Callable[..., Tensor] = self._sums_of
        if attend.documents.is_cuda:
            for each in (model, *self._teachers):
                for layer in each.layers:
                    layer.compile(dynamic=False)
            self._sums = torch.compile(self._sums_of, dynamic=False)
        if anew:
            model.layers = ComputedAnew(model.layers)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """[2]: the loss to descend and the plain one, each summed over target tokens, in nats."""
        parts = [batch["labels"], self._at_targets(self.model, batch)]
        with torch.no_grad():
            parts += [self._at_targets(each, batch) for each in self._teachers if self.training]
        chunk = max(128, CHUNK_SCORES // self.model.config.vocab_size // 128 * 128)
        if len(parts[0]) <= chunk:
            return self._sums(*parts)
        chunks = zip(*(part.split(chunk) for part in parts), strict=True)  # type: ignore[no-untyped-call]
        return torch.stack([checkpoint(self._sums, *each, use_reentrant=False) for each in chunks]).sum(0)

    def _at_targets(self, model: HunYuanDense, batch: dict[str, Tensor]) -> Tensor:
        """[targets, hidden]: what the head reads."""
        hidden: Tensor = model(batch["ids"], batch["positions"], self.attend, self.compute)
        return hidden.flatten(0, 1).index_select(0, batch["places"])

    def _sums_of(self, labels: Tensor, hidden: Tensor, *taught: Tensor) -> Tensor:
        """`forward`'s, of so many targets."""
        scores = self.model.logits(hidden).float()
        counted = labels != IGNORED
        total = torch.logsumexp(scores, -1)
        wanted = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        plain = torch.where(counted, total - wanted, 0).sum()
        if taught:
            with torch.no_grad():
                known = self._teachers[0].logits(*taught).float().log_softmax(-1)
            apart = (known.exp() * (known - scores + total[:, None])).sum(-1)
            return torch.stack((torch.where(counted, apart, 0).sum(), plain.detach()))
        spread = torch.where(counted, total - scores.mean(-1), 0).sum()
        return torch.stack(((1 - self.label_smoothing) * plain + self.label_smoothing * spread, plain.detach()))


class ComputedAnew(nn.ModuleList):
    """Layers that keep only what goes in while gradients are wanted. Their parameters keep their names."""

    def __iter__(self) -> Iterator[nn.Module]:
        for layer in super().__iter__():
            recorded = layer.training and torch.is_grad_enabled()
            yield partial(checkpoint, layer, use_reentrant=False) if recorded else layer  # type: ignore[misc]


def initialise(model: HunYuanDense, seed: int) -> None:
    """Normal(0, 0.02); what adds to the residual stream is scaled down by √(2·layers), as in GPT-2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02, generator=generator)
                if name.endswith(("output.weight", "down.weight")):
                    parameter.div_(math.sqrt(2 * model.config.layers))
