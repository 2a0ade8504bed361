"""Which part of a model is whose, where several cards hold a share of each layer: heads, columns, rows of the head.

A rank has its query and key heads, with the rows of the query, key and value projections that make them and the
columns of the output projection that read them; as much of gate and up, and the columns of down; and a run of the
vocabulary. Embedding and norms are everywhere. Knows shapes and names only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, Self

from engine.errors import ConfigError
from engine.inference.model import ModelConfig

INNER_COLUMNS = (128, 64, 32, 8, 1)  # gate and up are divided by as many of these as can be; kernels like them many
PACKED_INPUTS = 32  # of a matrix with one group for all, which lie several in a number
HEAD_ROWS = 64  # and the head, as in `fused`
_LAYERS = "or --split layers, which divides by whole layers"


@dataclass(frozen=True, slots=True)
class Cut:
    """Of a matrix in a checkpoint: from `start` to `stop` along `axis`, 0 for outputs. What is missing up to `padded`
    is zeros."""

    axis: int
    start: int
    stop: int
    whole: int  # how long that axis is
    padded: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    rank: int
    count: int  # of ranks
    whole: ModelConfig  # of the model
    group: int = 1  # inputs that share a scale, which stay together

    @classmethod
    def of(cls, rank: int, count: int, whole: ModelConfig, config: Mapping[str, Any]) -> Self:
        """`config`: as `read_config` gives it. Raises `ConfigError` where the model cannot be divided by so many."""
        quantization = config.get("quantization_config") or {}
        group = quantization.get("group_size", 1)
        share = cls(rank, count, whole, group if group > 0 else PACKED_INPUTS)
        if whole.heads % count or whole.kv_heads % count:
            raise ConfigError(
                f"A model with {whole.heads} query heads and {whole.kv_heads} key heads cannot be divided by {count} "
                f"cards; take a number of cards that divides both, {_LAYERS}."
            )
        inputs = whole.heads // count * whole.head_dim
        if inputs % share.group or not share._units:
            raise ConfigError(
                f"Weights in groups of {share.group} inputs cannot be divided by {count} cards in this model, whose "
                f"output projection has {whole.heads * whole.head_dim} and whose down projection has "
                f"{whole.intermediate_size} of them; take fewer cards, {_LAYERS}."
            )
        if quantization.get("desc_act") and not quantization.get("static_groups"):
            raise mixed_groups("This checkpoint")
        return share

    @property
    def config(self) -> ModelConfig:
        """Of this rank's part, which is a model with fewer heads and less between gate, up and down."""
        start, stop = self._inner
        whole, count = self.whole, self.count
        return replace(
            whole, heads=whole.heads // count, kv_heads=whole.kv_heads // count, intermediate_size=stop - start
        )

    @property
    def head_rows(self) -> int:
        """Of each rank; what is beyond the vocabulary is zeros."""
        rows = -(-self.whole.vocab_size // self.count)
        return rows + -rows % HEAD_ROWS

    def cut(self, name: str) -> Cut | None:
        """Of a matrix by its name in the checkpoint; None: all ranks have it whole."""
        whole = self.whole
        match name.rpartition(".")[2]:
            case "q_proj":
                return self._even(0, whole.heads * whole.head_dim)
            case "k_proj" | "v_proj":
                return self._even(0, whole.kv_heads * whole.head_dim)
            case "o_proj":
                return self._even(1, whole.heads * whole.head_dim)
            case "gate_proj" | "up_proj":
                return Cut(0, *self._inner, whole.intermediate_size)
            case "down_proj":
                return Cut(1, *self._inner, whole.intermediate_size)
            case "lm_head":
                start = min(self.rank * self.head_rows, whole.vocab_size)
                stop = min(start + self.head_rows, whole.vocab_size)
                return Cut(0, start, stop, whole.vocab_size, self.head_rows)
        return None

    def _even(self, axis: int, length: int) -> Cut:
        each = length // self.count
        return Cut(axis, self.rank * each, (self.rank + 1) * each, length)

    @property
    def _units(self) -> int:
        """Into how many parts gate and up can be cut; 0: not into enough. As many for each rank, if there is a way."""
        length = self.whole.intermediate_size
        units = [length // unit for columns in INNER_COLUMNS if length % (unit := lcm(self.group, columns)) == 0]
        enough = [count for count in units if count >= self.count]
        return next((count for count in enough if count % self.count == 0), next(iter(enough), 0))

    @property
    def _inner(self) -> tuple[int, int]:
        """Columns of gate and up, in whole groups."""
        units = self._units
        start, stop = (
            rank * units // self.count * (self.whole.intermediate_size // units) for rank in (self.rank, self.rank + 1)
        )
        return start, stop


def mixed_groups(name: str) -> ConfigError:
    return ConfigError(
        f"{name} was quantised with act-order, whose groups have inputs from all over a matrix and so cannot be "
        f"divided; use a copy without, {_LAYERS}."
    )
