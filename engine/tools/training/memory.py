"""What a training run takes of a card's memory, reckoned before it starts, and what would fit. GB are 10⁹ bytes.

The constants were fitted to runs on one H200 (engine/README.md has them); a run may take a tenth more or less.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import ConfigError
from engine.inference.model import ModelConfig
from engine.tools.training.precision import Precision
from engine.tools.training.trainee import CHUNK_SCORES

GB = 1e9
CONTEXT_BYTES = 1_000_000_000  # CUDA's context, the libraries' workspaces, what the allocator cannot reuse
INT4_BYTES = 0.5 + 2.5 / 128  # a weight in groups of 128
ADAPTER_INPUTS = 0.6  # of what goes into the matrices, kept once more for their adapters, with dropout
SCORE_COPIES = 2  # of the head's scores that live at once, forward and backward


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides the memory of a run."""

    shape: ModelConfig
    precision: Precision
    rank: int | None  # of LoRA; None trains everything
    int4: bool  # whether what is frozen is held in INT4
    anew: bool  # gradient checkpointing
    kind: str  # of the optimizer
    rows: int
    row_tokens: int
    label_share: float


def needed(asked: Asked) -> dict[str, int]:
    """Bytes by use: weights, gradients, optimizer, activations, scores, context."""
    shape, precision = asked.shape, asked.precision
    head = shape.vocab_size * shape.hidden_size
    embeddings = head * (1 if shape.tied_head else 2)
    wide, narrow = precision.weights.itemsize, precision.compute.itemsize
    if asked.rank is None:
        trained, frozen = shape.body_parameters + embeddings, 0.0
    else:
        trained = asked.rank * sum(inputs + outputs for inputs, outputs in _matrices(shape)) * shape.layers
        body = INT4_BYTES if asked.int4 else precision.frozen.itemsize
        frozen = shape.body_parameters * body + embeddings * precision.frozen.itemsize
    states = 1 if asked.kind == "muon" else 2
    tokens = asked.rows * asked.row_tokens
    values = 2 * shape.hidden_size + sum(outputs for _, outputs in _matrices(shape)) + shape.intermediate_size
    values += (shape.heads + 2 * shape.kv_heads) * shape.head_dim  # rotated and normalised
    if asked.rank is not None:
        values += int(ADAPTER_INPUTS * sum(inputs for inputs, _ in _matrices(shape)))
    layers_held = 1 if asked.anew else shape.layers
    kept = shape.layers * shape.hidden_size if asked.anew else 0
    scores = min(asked.label_share * tokens, max(128, CHUNK_SCORES // shape.vocab_size)) * shape.vocab_size
    return {
        "weights": int(trained * wide + frozen),
        "gradients": trained * wide,
        "optimizer": trained * wide * states,
        "activations": tokens * (layers_held * values + kept) * narrow,
        "scores": int(scores * SCORE_COPIES * (narrow + 2)),
        "context": CONTEXT_BYTES,
    }


def check(asked: Asked, free_bytes: int) -> None:
    """Raises `ConfigError` where it cannot fit, with what would."""
    total = sum(needed(asked).values())
    if total <= free_bytes:
        return
    parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in needed(asked).items() if size >= GB / 10)
    tried: Mapping[str, Any] = {
        "--gradient-checkpointing": {"anew": True},
        "--lora 16": {"rank": 16},
        "--lora 16 --gradient-checkpointing": {"rank": 16, "anew": True},
        "--lora 16 --qlora --gradient-checkpointing": {"rank": 16, "int4": True, "anew": True},
        "--lora 16 --qlora --gradient-checkpointing --rows 1": {"rank": 16, "int4": True, "anew": True, "rows": 1},
    }
    sizes = {words: sum(needed(replace(asked, **changes)).values()) for words, changes in tried.items()}
    fitting = [f"{words} (about {size / GB:.1f} GB)" for words, size in sizes.items() if size <= free_bytes]
    remedy = f"it would fit with {' or '.join(fitting[:2])}" if fitting else "use a smaller model or a larger card"
    raise ConfigError(
        f"This run needs about {total / GB:.1f} GB of GPU memory ({parts}), and {free_bytes / GB:.1f} GB are free; "
        f"{remedy}."
    )


def _matrices(shape: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of a layer's four."""
    heads, kv_heads = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        (shape.hidden_size, heads + 2 * kv_heads),
        (heads, shape.hidden_size),
        (shape.hidden_size, 2 * shape.intermediate_size),
        (shape.intermediate_size, shape.hidden_size),
    ]
