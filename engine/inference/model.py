"""HunYuanDense (`hunyuan_v1_dense`) in plain torch. Knows neither masks nor caches: attention is handed in.

The layout is Llama's with grouped-query attention, SwiGLU and RMSNorm on each query and key head *after* RoPE (the
reverse of Qwen3). Query, key and value are one projection, gate and up another. Parity with transformers'
`HunYuanDenseV1ForCausalLM` is a test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.inference.collective import Inbox

# attend(layer, query, key, value) → what each query sees. Query and the result: [rows, tokens, heads, head_dim];
# key and value, of these same tokens: [rows, tokens, kv_heads, head_dim]. It owns the mask and any cache.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_base: float  # the effective one, see `effective_rope_base`
    rms_norm_eps: float
    max_positions: int
    tied_head: bool

    @property
    def body_parameters(self) -> int:
        """Weights of the matrices in all layers."""
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)


class Ranks(Protocol):
    """Processes that hold a share each of one model, and meet where what they have made is put together: `sum` after
    the output and down projections, `joined` after the head. All of them come there with the same shapes."""

    def sum(self, x: Tensor) -> Tensor:
        """Of all ranks' `x`, the same to the last bit for each. `x` may be written over."""
        ...

    def joined(self, x: Tensor) -> Tensor:
        """[rows, each] → [rows, each × ranks], side by side."""
        ...

    def most(self, number: float) -> float:
        """The greatest of all ranks' numbers, so that all decide alike by it."""
        ...

    def inbox(self, rows: int, width: int, serves: Callable[[Inbox], bool]) -> Inbox | None:
        """See `collective`."""
        ...


def effective_rope_base(theta: float, alpha: float, head_dim: int) -> float:
    """θ·α^(d/(d−2)), the NTK-aware base of HunYuan's "dynamic" RoPE; alpha 1 leaves θ as it is."""
    return theta * alpha ** (head_dim / (head_dim - 2)) if alpha != 1 else theta


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension in fp32, then scales in the dtype of `x`, as transformers does."""
        return self.weight.to(x.dtype) * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)


class Embedding(nn.Embedding):
    """Token embeddings; `project` uses them as a tied head: [..., hidden_size] → [..., vocab_size]."""

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, index: int, dropout: float) -> None:
        super().__init__()
        self.index = index
        self.dropout = dropout
        self.ranks: Ranks | None = None
        self.head_dim = config.head_dim
        self.widths = (config.heads * config.head_dim,) + 2 * (config.kv_heads * config.head_dim,)
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.qkv = nn.Linear(config.hidden_size, sum(self.widths), bias=False)
        self.query_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.key_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.output = nn.Linear(self.widths[0], config.hidden_size, bias=False)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        rows, tokens, _ = x.shape
        query, key, value = (
            part.view(rows, tokens, -1, self.head_dim) for part in self.qkv(self.input_norm(x)).split(self.widths, -1)
        )
        query, key = self.query_norm(rotate(query, rotation)), self.key_norm(rotate(key, rotation))
        seen = attend(self.index, query, key, value).reshape(rows, tokens, -1)
        x = x + self._dropped(self._whole(self.output(seen)))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self._dropped(self._whole(self.down(F.silu(gate) * up)))

    def _whole(self, x: Tensor) -> Tensor:
        return x if self.ranks is None else self.ranks.sum(x)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class HunYuanDense(nn.Module):
    """`dropout` acts on what each sub-layer adds, in training mode only."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index, dropout) for index in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head: nn.Module | None = None
        if not config.tied_head:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.ranks: Ranks | None = None
        self.reset_rotation()

    def join(self, ranks: Ranks) -> None:
        """This is a share of a model, see `sharding`, and the ranks have the others."""
        self.ranks = ranks
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.ranks = ranks

    def reset_rotation(self) -> None:
        """(Re)computes the RoPE tables [max_positions, head_dim] in fp32, on the CPU. The first half of `sin` is
        negative, see `rotate`."""
        config = self.config
        halves = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
        frequencies = 1.0 / config.rope_base**halves  # as transformers rounds it: at 8k another way is off by 1e-5
        angles = torch.outer(torch.arange(config.max_positions, device="cpu").float(), frequencies)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((-angles, angles), -1).sin(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend, dtype: torch.dtype | None = None) -> Tensor:
        """Token ids and positions [rows, tokens] → hidden states [rows, tokens, hidden_size], before the last norm.
        `dtype` of the residual stream, where it is not the weights' own."""
        x: Tensor = self.embedding(ids).to(dtype)
        rotation = (self.cos[positions].unsqueeze(2), self.sin[positions].unsqueeze(2))
        for layer in self.layers:
            x = layer(x, rotation, attend)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden_size] → scores [..., vocab_size] in the model's dtype."""
        project = self.embedding.project if self.head is None else self.head
        scores: Tensor = project(self.norm(hidden))
        return scores if self.ranks is None else self.ranks.joined(scores)[:, : self.config.vocab_size]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE in fp32, the halves convention of Llama: (a, b) → (a·cos − b·sin, b·cos + a·sin).
    `x`: [rows, tokens, heads, head_dim]."""
    cos, sin = rotation
    wide = x.float()
    turned: Tensor = wide * cos + wide.roll(x.shape[-1] // 2, -1) * sin
    return turned.to(x.dtype)
