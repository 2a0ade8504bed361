"""How sure a checkpoint is of true answers, and how far the matrices of two checkpoints are apart.

Both read a layer at a time from the disk, so a model of any size goes through a small card or little memory; all is
computed in fp32, so figures do not depend on the device. Knows no tokenizer and no prompts: texts come as ids.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.inference import checkpoint
from engine.inference.checkpoint import LAYER_NAMES, Weights
from engine.inference.model import Attend, HunYuanDense, Layer, ModelConfig

DTYPE = torch.float32
ROW_TOKENS = 2_048


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt with its true answer."""

    ids: tuple[int, ...]
    prompt_tokens: int  # of `ids`; what follows is the answer, with its end


@dataclass(frozen=True, slots=True)
class Sureness:
    tokens: int  # of all answers
    nats: float  # a token, the mean

    @property
    def perplexity(self) -> float:
        return float(torch.tensor(self.nats).exp())


@torch.inference_mode()
def measure(
    folder: Path, config: Mapping[str, Any], texts: Sequence[Text], device: str, told: Callable[[], object]
) -> Sureness:
    """Teacher-forced: each answer's tokens after the true ones before them. `told` is called after each layer.

    Raises `ModelNotFound` and `UnsupportedModel` for weights that are missing or damaged: all of them are read.
    """
    model = checkpoint.model_config(config)
    weights, shapes = Weights(folder, config, device), checkpoint.shapes_of(model)

    def wide(name: str) -> nn.Parameter:
        return nn.Parameter(weights.wide(name, shapes[name], DTYPE), requires_grad=False)

    with torch.device("meta"):
        frame = HunYuanDense(replace(model, layers=0))
    frame.reset_rotation()
    frame.embedding.weight, frame.norm.weight = wide("model.embed_tokens"), wide("model.norm")
    if frame.head is not None:
        frame.head.weight = wide("lm_head")
    rows = list(_rows(texts))
    streams = [frame.embedding(torch.tensor([[id for text in row for id in text.ids]], device=device)) for row in rows]
    rotations = [_rotation(frame, row, device) for row in rows]
    for index in range(model.layers):
        layer = _layer(model, index, wide)
        for place, row in enumerate(rows):
            streams[place] = layer(streams[place], rotations[place], attend_within([len(text.ids) for text in row]))
        del layer  # before the next is read
        told()
    nats, tokens = 0.0, 0
    for row, stream in zip(rows, streams, strict=True):
        for text, hidden in zip(row, stream[0].split([len(text.ids) for text in row]), strict=True):
            answer = torch.tensor(text.ids[text.prompt_tokens :], device=device)
            scores = frame.logits(hidden[text.prompt_tokens - 1 : -1])
            nats += float(F.cross_entropy(scores, answer, reduction="sum"))
            tokens += len(answer)
    return Sureness(tokens, nats / tokens)


@torch.inference_mode()
def weight_errors(
    before: Path, after: Path, device: str, told: Callable[[], object]
) -> Iterator[tuple[int, str, float]]:
    """(layer, name in it, |after − before| / |before|) of each matrix of the layers. `told` is called after a layer."""
    configs = [checkpoint.read_config(folder) for folder in (before, after)]
    both = [Weights(folder, config, device) for folder, config in zip((before, after), configs, strict=True)]
    model = checkpoint.model_config(configs[0])
    shapes = checkpoint.shapes_of(model)
    for index in range(model.layers):
        for name in (name for names in LAYER_NAMES.values() for name in names):
            full = f"model.layers.{index}.{name}"
            shape = shapes[full]
            if len(shape) == 2:
                true, found = (weights.wide(full, shape, DTYPE) for weights in both)
                yield index, name, float((found - true).norm() / true.norm())
        told()


def _layer(model: ModelConfig, index: int, wide: Callable[[str], nn.Parameter]) -> Layer:
    with torch.device("meta"):
        layer = Layer(model, index, dropout=0.0)
    for ours, theirs in LAYER_NAMES.items():
        parts = [wide(f"model.layers.{index}.{name}") for name in theirs]
        layer.get_submodule(ours).weight = nn.Parameter(torch.cat(list[Tensor](parts)), requires_grad=False)
    return layer.eval()


def _rows(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """As many as go through a layer at once, one behind the other; a longer text goes alone."""
    row: list[Text] = []
    for text in texts:
        if row and sum(len(each.ids) for each in row) + len(text.ids) > ROW_TOKENS:
            yield row
            row = []
        row.append(text)
    yield row


def _rotation(frame: HunYuanDense, row: Sequence[Text], device: str) -> tuple[Tensor, Tensor]:
    positions = torch.cat([torch.arange(len(text.ids)) for text in row])
    return frame.cos[positions, None].to(device), frame.sin[positions, None].to(device)


def attend_within(lengths: Sequence[int]) -> Attend:
    """Every token sees itself and those before it in its own text."""

    def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = []
        each = (torch.split(part.transpose(1, 2), list(lengths), 2) for part in (query, key, value))
        for asked, past, held in zip(*each, strict=True):
            seen.append(F.scaled_dot_product_attention(asked, past, held, is_causal=True, enable_gqa=True))
        return torch.cat(seen, 2).transpose(1, 2)

    return attend
