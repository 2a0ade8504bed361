"""What the graphs of the CPU engines share: a model whose INT4 matrices are only held, its head in INT4, and its
embedding in INT8.

GPTQ checkpoints keep head and embedding in 16 bits or INT8, but a head in INT8 would be two fifths of what the embedded
model reads for a token, so it is rounded here. Knows no graph.
"""

import torch
from torch import Tensor, nn

from engine.inference import gptq
from engine.inference.gptq import Int4Weight
from engine.inference.int8 import Int8Rows, float_blocks, float_weight, quantize_rows
from engine.inference.model import HunYuanDense

HEAD_GROUP = 64
STEPS = 15  # between the smallest and the largest of four bits


class Int4Held(nn.Module):
    """Stands where an INT4 matrix belongs in a model that is loaded only to be made a graph of, as `Int8Rows` where one
    in INT8 does."""

    def __init__(self, weight: Int4Weight) -> None:
        super().__init__()
        self.held = weight


def int4_weights(model: HunYuanDense) -> list[Int4Weight]:
    return [module.held for module in model.modules() if isinstance(module, Int4Held)]


def embedding_and_head(model: HunYuanDense) -> tuple[nn.Module, nn.Module]:
    """What a graph takes for them, one module where they are one. Beside layers in INT4 the embedding is in INT8 and
    the head in INT4, however they are stored."""
    if int4_weights(model):
        return int8_embedding(model), Int4Held(int4_head(model))
    embedding: nn.Module = model.embedding
    return embedding, embedding if model.head is None else model.head


def int4_head(model: HunYuanDense) -> Int4Weight:
    """[vocab_size, hidden_size], whatever it is stored as; the embedding where they are one."""
    head = model.embedding if model.head is None else model.head
    return gptq.fuse([round_groups(block, HEAD_GROUP) for block in float_blocks(head)])


def int8_embedding(model: HunYuanDense) -> Int8Rows:
    """[vocab_size, hidden_size], as it is or rounded."""
    embedding: nn.Module = model.embedding
    if isinstance(embedding, Int8Rows):
        return embedding
    return Int8Rows(*quantize_rows(float_weight(embedding)))


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
