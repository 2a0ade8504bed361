"""HunYuanDense on a card by our own kernels: the same numbers as `model`, in nine launches a layer. Knows no requests.

The cache of a layer is [pages + 1, 2, kv_heads, PAGE_TOKENS, head_dim], keys before values, in the model's dtype or as
8-bit floats (e4m3). What a step attends to is handed in, as in `model`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import UnsupportedModel
from engine.inference import kernels
from engine.inference.collective import Inbox
from engine.inference.int4 import Int4Linear, Kernels, Product, Tiles
from engine.inference.kv_cache import PAGE_TOKENS
from engine.inference.model import HunYuanDense, Layer, RMSNorm

HEAD_DIMS = (64, 128)
GROUPED = (1, 2, 4, 8)  # query heads that share a key head
LOG2_E = 1.4426950408889634  # the attention kernel counts in powers of two
NORM_THREADS = 512
HEADS_A_BLOCK = 4  # one warp a head
HEAD_ROWS = 64  # the head is padded to a multiple of these
STEADY_ROWS = 64  # of a library's product where a row may not depend on who is beside it
# Products of so many rows are summed over ranks in fp32, as INT4 kernels leave them. It must be below
# `int4.WIDENED_ROWS`: from there on a rank may have them in 16 bits by its own timing, and all must sum the same.
WIDE_SUM_ROWS = 64

# attend(layer, queries [rows, heads, head_dim], out [rows, heads·head_dim]): fills its rows of `out`
Attend = Callable[[int, Tensor, Tensor], None]
TILE_WARPS = 4  # of the kernel for runs of a prompt; each takes sixteen pairs of a token and a head


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of a step: a token of each running sequence, then runs of prompts; either may be missing."""

    positions: Tensor  # int32 [rows], for RoPE
    places: Tensor  # int64 [rows], where in the pages each one's key and value go: page · PAGE_TOKENS + token
    attend: Sequence[Attend]
    wanted: Tensor | None  # int32, the rows after which scores are wanted; None: all


class Fused:
    """A model that is on a card, with its cache. Takes the model over: gate and up are put in another order."""

    def __init__(self, model: HunYuanDense, pages: int, fp8: bool, deterministic: bool) -> None:
        config, weight = model.config, model.norm.weight
        self.config, self.dtype, self.device = config, weight.dtype, str(weight.device)
        group = config.heads // config.kv_heads
        if config.head_dim not in HEAD_DIMS or group not in GROUPED or config.hidden_size % 8:
            raise UnsupportedModel(
                f"Attention with {config.heads}/{config.kv_heads} heads of {config.head_dim} has no kernel here; use "
                "--devices cpu."
            )
        self._model, self._fp8, self._ranks = model, fp8, model.ranks
        self._layers = [layer for layer in model.layers if isinstance(layer, Layer)]
        for layer in self._layers:
            _interleave(layer)
        self.embedding, self._head = _padded(model)
        self.int4 = Kernels(self.device, self.dtype, deterministic)
        self.int4.serve([module for module in model.modules() if isinstance(module, Int4Linear)])
        self.cache = torch.zeros(
            (config.layers, pages + 1, 2, config.kv_heads, PAGE_TOKENS, config.head_dim),
            dtype=torch.float8_e4m3fn if fp8 else self.dtype,
            device=self.device,
        )
        fp8_word = str(fp8).lower()
        sources: tuple[tuple[str, list[str]], ...] = (
            ("layer.cu", [f"POSITION_KERNEL(place, {config.head_dim}, {fp8_word})"]),
            (
                "attention.cu",
                [
                    f"ATTENTION_KERNEL(attend, {config.head_dim}, {group}, {fp8_word})",
                    f"CHUNK_KERNEL(attend_chunk, {config.head_dim}, {group}, {fp8_word}, {TILE_WARPS})",
                ],
            ),
        )
        if self._ranks is not None:
            sources = (*sources, ("meet.cu", []))
        self._kernels = kernels.load(sources, (f"-DFP16={int(self.dtype == torch.float16)}",), self.device)
        self._inbox: Inbox | None = None
        if self._ranks is not None:
            self._inbox = self._ranks.inbox(WIDE_SUM_ROWS, config.hidden_size, self._serves)

    @property
    def tile_tokens(self) -> int:
        """Tokens of a prompt that one block attends for."""
        return TILE_WARPS * 16 // (self.config.heads // self.config.kv_heads)

    def begin_decode(
        self, plan: Tensor, tokens: Tensor, tables: Tensor, x: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        """`plan`, int32 [5, rows]: slot, tokens in its cache, position, a place in its block table and the page there.
        `tokens`, int64 [slots + 1]: the newest of each. Writes the first rows of `x` and `step`, and `tables`, int32
        [slots + 1, pages a sequence] → (slots, tokens each attends to), int32 [rows]."""
        rows = plan.shape[1]
        slots, lengths = torch.empty(2, rows, dtype=torch.int32, device=self.device)
        self._kernels["begin_decode"](
            (rows,),
            128,
            plan,
            rows,
            tokens,
            tables,
            tables.shape[1],
            PAGE_TOKENS,
            self.embedding,
            self.config.hidden_size,
            x,
            slots,
            lengths,
            step.positions,
            step.places,
        )
        return slots, lengths

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """Embeddings [rows, hidden], which are written over → the last norm's output [wanted rows, hidden]."""
        config, product = self.config, None
        for index, layer in enumerate(self._layers):
            normed = self._add_norm(x, product, layer.input_norm, layer.qkv)
            queries = self._placed(index, layer, self._product(layer.qkv, normed), step)
            wanted = step.wanted if index == config.layers - 1 else None
            if wanted is not None and not len(wanted):
                return x[:0]  # keys and values were all
            seen = torch.empty(len(x), config.heads * config.head_dim, dtype=self.dtype, device=self.device)
            for attend in step.attend:
                attend(index, queries, seen)
            if wanted is not None:
                x, seen = x.index_select(0, wanted), seen.index_select(0, wanted)
            product = self._whole(self._product(layer.output, seen))
            normed = self._add_norm(x, product, layer.mlp_norm, layer.gate_up)
            product = self._whole(self._product(layer.down, self._activation(layer, normed, len(x))))
        normed = self._add_norm(x, product, self._model.norm, None)
        assert isinstance(normed, Tensor)
        return normed

    def scores(self, normed: Tensor) -> Tensor:
        """[rows, hidden] → [rows, vocab_size and what pads it]."""
        scores = self._by_library(self._head, normed)
        return scores if self._ranks is None else self._ranks.joined(scores)

    def _whole(self, product: Product) -> Product:
        """The sum of all ranks' products."""
        if self._ranks is None:
            return product
        data, rows = product.data, product.data.shape[-2]
        if self._inbox is not None and rows <= self._inbox.rows:
            return product  # `_add_norm` sums
        wide = rows <= WIDE_SUM_ROWS or self.int4.deterministic  # in which products are never in 16 bits
        if not product.splits or not wide:
            return Product(self._ranks.sum(product.rounded(self.dtype)), 0)
        return Product(self._ranks.sum(data if product.splits == 1 else data.sum(0, keepdim=True)), 1)

    def _serves(self, inbox: Inbox) -> bool:
        """Whether our sum over ranks is the library's, the same for all, and once more in the same memory."""
        assert self._ranks is not None
        right, width = True, self.config.hidden_size
        for trial in range(4):
            dice = torch.Generator(self.device).manual_seed(inbox.count * trial + inbox.rank)
            parts = torch.randn(2, inbox.rows, width, generator=dice, device=self.device)
            whole = self._ranks.sum(parts.sum(0))
            x = torch.zeros(inbox.rows, width, dtype=self.dtype, device=self.device)
            self._inbox = inbox
            self._add_norm(x, Product(parts, 2), self._model.norm, None)
            self._inbox = None
            check = float(x.double().sum())
            alike = self._ranks.most(check) == -self._ranks.most(-check)
            right = right and alike and torch.allclose(x.float(), whole, rtol=1e-2, atol=1e-2)
        return right

    def _product(self, linear: nn.Module, x: Tensor | Tiles) -> Product:
        if isinstance(linear, Int4Linear):
            return linear.product(x)
        assert isinstance(x, Tensor)
        return Product(self._by_library(_float_weight(linear), x), 0)

    def _activation(self, layer: Layer, normed: Tensor | Tiles, rows: int) -> Tensor | Tiles:
        if isinstance(layer.gate_up, Int4Linear):
            wanted = layer.down.padded_rows(rows) if isinstance(layer.down, Int4Linear) else 0
            return layer.gate_up.activation(normed, wanted)
        assert isinstance(normed, Tensor)
        gate, up = self._by_library(_float_weight(layer.gate_up), normed).chunk(2, -1)
        return F.silu(gate) * up

    def _by_library(self, weight: Tensor, x: Tensor) -> Tensor:
        """x · weightᵀ. Deterministic: always `STEADY_ROWS` rows at once, so that the library takes one path."""
        if not self.int4.deterministic:
            return F.linear(x, weight)
        parts = []
        for part in torch.split(x, STEADY_ROWS):
            whole = torch.cat((part, part.new_zeros(STEADY_ROWS - len(part), part.shape[1])))
            parts.append(F.linear(whole, weight)[: len(part)])
        return torch.cat(parts)

    def paged(self, slots: Tensor, lengths: Tensor, tables: Tensor, splits: int) -> Attend:
        """Attention of single tokens to the pages of their sequences. `slots`, `lengths`: int32 [rows]."""
        config, rows = self.config, len(slots)
        group = config.heads // config.kv_heads
        cells = rows * config.kv_heads
        partial = torch.empty(cells * splits * group * (config.head_dim + 2), device=self.device)
        done = torch.zeros(cells, dtype=torch.int32, device=self.device)
        scale = config.head_dim**-0.5 * LOG2_E

        def attend(layer: int, queries: Tensor, out: Tensor) -> None:
            self._kernels["attend"](
                (splits, config.kv_heads, rows),
                128,
                queries,
                self.cache[layer],
                tables,
                slots,
                lengths,
                out,
                partial,
                done,
                scale,
                config.kv_heads,
                tables.shape[1],
                PAGE_TOKENS,
            )

        return attend

    def chunked(self, tiles: Tensor, tables: Tensor, splits: int) -> Attend:
        """Attention of runs of prompts, each token to what stands before it, which is cut into up to `splits` spans.
        `tiles`: int32 [tiles, 4], up to `tile_tokens` tokens each: first row in the step, tokens, tokens in the cache
        before, row of `tables`."""
        config = self.config
        cells = len(tiles) * config.kv_heads if splits > 1 else 0  # a whole is not merged
        partial = torch.empty(cells * splits * TILE_WARPS * 16 * (config.head_dim + 2), device=self.device)
        done = torch.zeros(cells, dtype=torch.int32, device=self.device)

        def attend(layer: int, queries: Tensor, out: Tensor) -> None:
            self._kernels["attend_chunk"](
                (splits, config.kv_heads, len(tiles)),
                32 * TILE_WARPS,
                queries,
                self.cache[layer],
                tables,
                tiles,
                out,
                partial,
                done,
                config.head_dim**-0.5 * LOG2_E,
                config.kv_heads,
                tables.shape[1],
            )

        return attend

    def _add_norm(
        self, x: Tensor, product: Product | None, norm: RMSNorm, following: nn.Module | None
    ) -> Tensor | Tiles:
        """Adds a product to `x`, of few rows all ranks' products, and normalises that the way the `following` matrix
        wants it."""
        rows, hidden = x.shape
        padded_rows = following.padded_rows(rows) if isinstance(following, Int4Linear) else 0
        shape = (hidden // 64, padded_rows, 64) if padded_rows else (rows, hidden)
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        inbox = self._inbox if product is not None and self._inbox is not None and rows <= self._inbox.rows else None
        met = (inbox.addresses, inbox.rank, inbox.count, inbox.rows, inbox.meeting) if inbox else ()
        self._kernels["add_norm_met" if inbox else "add_norm"](
            (rows,),
            min(NORM_THREADS, hidden // 4),
            x,
            product.data if product else None,
            product.splits if product else 0,
            norm.weight,
            out,
            rows,
            hidden,
            norm.eps,
            padded_rows,
            *met,
            shared_bytes=4 * hidden,
        )
        return Tiles(out, rows) if padded_rows else out

    def _placed(self, index: int, layer: Layer, product: Product, step: Step) -> Tensor:
        config, rows = self.config, len(step.positions)
        queries = torch.empty(rows, config.heads, config.head_dim, dtype=self.dtype, device=self.device)
        self._kernels["place"](
            (rows, -(-(config.heads + 2 * config.kv_heads) // HEADS_A_BLOCK)),
            32 * HEADS_A_BLOCK,
            product.data,
            product.splits,
            rows,
            config.heads,
            config.kv_heads,
            step.positions,
            step.places,
            self._model.cos,
            self._model.sin,
            layer.query_norm.weight,
            layer.key_norm.weight,
            layer.query_norm.eps,
            queries,
            self.cache[index],
            PAGE_TOKENS,
        )
        return queries


def _interleave(layer: Layer) -> None:
    if isinstance(layer.gate_up, Int4Linear) and not layer.gate_up.gated:
        layer.gate_up.interleave()


def _padded(model: HunYuanDense) -> tuple[Tensor, Tensor]:
    """(embedding, head), 16-bit [vocab_size, up to a multiple of HEAD_ROWS, hidden]: with a vocabulary of an odd number
    the library's products take a path four times as slow (128,167 ids, 32 rows, H200: 1.29 ms)."""
    embedding = model.embedding
    head = embedding.weight if model.head is None else _float_weight(model.head)
    short = -len(head) % HEAD_ROWS
    if not short:
        return embedding.weight, head
    padded = torch.cat((head, head.new_zeros(short, head.shape[1])))
    if model.head is None:
        embedding.weight = nn.Parameter(padded[: len(head)], requires_grad=False)  # one matrix, not two
    return embedding.weight, padded


def _float_weight(linear: nn.Module) -> Tensor:
    assert isinstance(linear.weight, Tensor)
    return linear.weight
