"""HunYuanDense as an OpenVINO graph for the CPU: tokens of many sequences in one row, attention over our pages.

Weights go in as the model holds them (INT8 rows, GPTQ INT4, float) and stay so: OpenVINO widens them inside its
products. Knows no batch and no sampling.

Inputs, int32, for the T tokens of S sequences that lie one after another:
    ids, positions         [T]
    rows                   [n]       the tokens after which scores are wanted
    past_lens              [S]       tokens of each sequence that are in its pages already
    subsequence_begins     [S + 1]   where each sequence's tokens begin, and the end of all
    block_indices          [pages of all sequences]
    block_indices_begins   [S + 1]   where each sequence's pages begin, and the end of all
    max_context_len        []        tokens of the longest sequence, with those of this step
    keys.L, values.L                 the pages of layer L; type and shape are OpenVINO's choice: see the compiled model
Output: scores, fp32 [n, vocab_size].
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from engine.inference.gptq import Int4Weight
from engine.inference.held import Int4Held, embedding_and_head
from engine.inference.int8 import Int8Rows
from engine.inference.model import HunYuanDense, Layer, ModelConfig, RMSNorm
from engine.inference.openvino_api import Constant, PagedAttention, op, ov

STEP = (
    "ids",
    "positions",
    "rows",
    "past_lens",
    "subsequence_begins",
    "block_indices",
    "block_indices_begins",
    "max_context_len",
)
SCORES = "scores"
_END = np.iinfo(np.int64).max
_TYPES = {torch.float16: ov.Type.f16, torch.bfloat16: ov.Type.bf16}

Rotation = tuple[ov.Output, ov.Output]  # cosines and sines of each token's position, [T, 1, 1, head_dim]


def build(model: HunYuanDense) -> ov.Model:
    """Constants are the model's own memory where they can be, so it has to live until the graph is compiled."""
    config = model.config
    step = {name: _input(name, [-1]) for name in STEP[:-1]} | {STEP[-1]: _input(STEP[-1], [])}
    pages = {
        f"{kind}.{layer}": _input(f"{kind}.{layer}", None)
        for layer in range(config.layers)
        for kind in ("keys", "values")
    }
    embedding, head = embedding_and_head(model)
    vectors = _matrix(embedding)
    x = op.gather(vectors, step["ids"], _ints(0))
    half = config.head_dim // 2
    cos, sin = (
        op.unsqueeze(op.gather(_floats(table), step["positions"], _ints(0)), _ints([1, 2])).output(0)
        for table in (model.cos, torch.cat((-model.sin[:, :half], model.sin[:, half:]), -1))
    )
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention = [pages[f"keys.{layer.index}"], pages[f"values.{layer.index}"], *(step[name] for name in STEP[3:])]
        x = _layer(config, layer, x, (cos, sin), attention)
    wanted = _normed(model.norm, op.gather(x, step["rows"], _ints(0)))
    result = op.result(op.matmul(wanted, vectors if head is embedding else _matrix(head), False, True))
    result.output(0).set_names({SCORES})
    return ov.Model([result], [*step.values(), *pages.values()], "HunYuanDense")


def of_rows(graph: ov.Model, rows: int, sequences: int, pages: int) -> ov.Model:
    """The same for steps of one token of each of `rows` sequences, and of none of the rest of `sequences`, with `pages`
    block indices. All shapes are fixed then, and OpenVINO need not look at any: a quarter less time a step, for one row
    and for eight.

    What the indices have too much goes to the last sequence: indices that belong to none make OpenVINO crash.
    """
    fixed = graph.clone()
    sizes = [rows, rows, rows, sequences, sequences + 1, pages, sequences + 1]
    fixed.reshape({name: [size] for name, size in zip(STEP[:-1], sizes, strict=True)})
    return fixed


def weight_bytes(graph: ov.Model) -> tuple[int, int]:
    """(of all that `build` has put into it, of what a step reads whole: without what is looked up by id or place)"""
    uses = (use.get_node() for name in ("ids", "positions") for use in graph.input(name).get_target_inputs())
    looked_up = set().union(*(_made_of(use.input_value(0)) for use in uses))
    (scores,) = graph.get_results()
    looked_up -= _made_of(scores.input_value(0).get_node().input_value(1))  # the head, where it is the embedding too
    sizes = {node.name: node.get_byte_size() for node in graph.get_ops() if isinstance(node, Constant)}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name not in looked_up)


def _made_of(output: ov.Output) -> set[str]:
    """The names of all nodes that are behind it."""
    node = output.get_node()
    return {node.name}.union(*map(_made_of, node.input_values()))


def _layer(config: ModelConfig, layer: Layer, x: ov.Node, rotation: Rotation, attention: Sequence[ov.Node]) -> ov.Node:
    joined = _product(layer.qkv, _normed(layer.input_norm, x))
    query, key, value = op.variadic_split(joined, _ints(-1), _ints(layer.widths)).outputs()
    query = _turned(config, query, layer.query_norm, rotation)
    key = _turned(config, key, layer.key_norm, rotation)
    x = op.add(x, _product(layer.output, _attended(config, query, key, value, attention)))
    gate, up = op.split(_product(layer.gate_up, _normed(layer.mlp_norm, x)), _ints(-1), 2).outputs()
    return op.add(x, _product(layer.down, op.multiply(op.swish(gate), up)))


def _attended(
    config: ModelConfig, query: ov.Node, key: ov.Node, value: ov.Output, attention: Sequence[ov.Node]
) -> ov.Output:
    """Writes keys and values of all tokens into their pages, then looks back from each token over its own sequence.

    The operation takes 28 inputs; those after `max_context_len` are for scores, moved pages, sparse attention, sinks,
    images and drafts, none of which we use. In OpenVINO's tests and documentation it is internal: pin the version.
    """
    no_ints, no_floats, zero = _constant(np.zeros(0, np.int32)), _floats(torch.zeros(0)), _ints(0, np.int32)
    keys, values, past, begins, blocks, block_begins, longest = attention
    scale = _floats(torch.tensor(config.head_dim**-0.5))
    inputs = [query, key, value, keys, values, past, begins, blocks, block_begins, scale]
    inputs += [zero, no_floats, longest, no_ints]  # no sliding window, no ALiBi, no scores kept
    inputs += [no_ints, no_ints, no_floats]  # no page turned to another position
    inputs += [no_floats, zero, zero, no_floats]  # no sparse attention, no sinks
    inputs += [zero, no_ints, no_ints, no_ints]  # no pages dropped by likeness
    inputs += [no_ints, _constant(np.zeros(0, np.uint8)), no_ints]  # no images, no drafts
    node = PagedAttention([each if isinstance(each, ov.Output) else each.output(0) for each in inputs])
    shape = {"num_k_heads": config.kv_heads, "num_v_heads": config.kv_heads}
    shape |= {"k_head_size": config.head_dim, "v_head_size": config.head_dim}
    for name, number in shape.items():
        node.get_rt_info()[name] = number  # where the plugin learns the shape of a page
    return node.output(0)


def _turned(config: ModelConfig, x: ov.Output, norm: nn.Module, rotation: Rotation) -> ov.Node:
    """RoPE, then the norm of each head: [T, heads · head_dim] → the same."""
    apart = op.reshape(x, _ints([0, -1, 1, config.head_dim]), True)
    return op.reshape(_normed(norm, _rotated(apart, rotation, config.head_dim)), _ints([0, -1]), True)


def _rotated(x: ov.Node, rotation: Rotation, head_dim: int) -> ov.Node:
    """RoPE as `model.rotate`, written so that OpenVINO knows it again and does it in one pass."""
    first, second = (
        op.slice(x, _ints([start]), _ints([end]), _ints([1]), _ints([-1]))
        for start, end in ((0, head_dim // 2), (head_dim // 2, _END))
    )
    turned = op.concat([op.multiply(second, _floats(torch.full((1, 1, 1, 1), -1.0))), first], -1)
    return op.add(op.multiply(x, rotation[0]), op.multiply(turned, rotation[1]))


def _normed(norm: nn.Module, x: ov.Node) -> ov.Node:
    assert isinstance(norm, RMSNorm)
    mean = op.reduce_mean(op.power(x, _floats(torch.tensor(2.0))), _ints([-1]), True)
    root = op.sqrt(op.add(mean, _floats(torch.tensor(norm.eps))))
    return op.multiply(op.multiply(x, op.divide(_floats(torch.tensor(1.0)), root)), _floats(norm.weight))


def _product(module: nn.Module, x: ov.Node | ov.Output) -> ov.Node:
    """x @ w.T"""
    order = module.held.order if isinstance(module, Int4Held) else None
    if order is not None:
        x = op.gather(x, _ints(order.numpy()), _ints(-1))
    return op.matmul(x, _matrix(module), False, True)


def _matrix(module: nn.Module) -> ov.Node:
    """A weight [out, in] in fp32, as a constant of its stored type that is widened."""
    if isinstance(module, Int4Held):
        return _int4(module.held)
    if isinstance(module, Int8Rows):
        return _int8(module.weight, module.scale)
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dtype == torch.float32:
        return _floats(weight)
    narrow = weight.detach().contiguous().view(torch.int16)  # numpy knows no bf16
    return op.convert(_copied(narrow, list(weight.shape), _TYPES[weight.dtype]), np.float32)


def _int8(weight: Tensor, scale: Tensor) -> ov.Node:
    return op.multiply(op.convert(_constant(weight.numpy()), np.float32), _floats(scale[:, None]))


def _int4(weight: Int4Weight) -> ov.Node:
    rows, columns = weight.values.shape
    groups = columns // weight.group
    values = op.convert(_nibbles(weight.values, [rows, groups, weight.group]), np.float16)
    one, shape = weight.zeros[:1, :1], [rows, groups, 1]
    alike = bool((weight.zeros == one).all())  # then OpenVINO need not read them: a step takes 3 % less time
    zeros = op.convert(_nibbles(one, [1, 1, 1]) if alike else _nibbles(weight.zeros, shape), np.float16)
    scaled = op.multiply(op.subtract(values, zeros), _constant(weight.scales.to(torch.float16)[:, :, None].numpy()))
    return op.convert(op.reshape(scaled, _ints([rows, columns]), False), np.float32)


def _nibbles(values: Tensor, shape: list[int]) -> ov.Node:
    """uint8, each 0…15, as a constant of four bits a value, the first in the lower half of a byte."""
    flat = values.flatten()
    pairs = torch.cat((flat, flat.new_zeros(len(flat) % 2))).view(-1, 2)
    return Constant(
        ov.Tensor((pairs[:, 0] | pairs[:, 1] << 4).numpy(), ov.Shape(shape), ov.Type.u4), shared_memory=False
    )


def _input(name: str, shape: list[int] | None) -> ov.Node:
    """A parameter of int32; without a shape, one whose type and shape the plugin decides."""
    kind = ov.Type.i32 if shape is not None else ov.Type.dynamic
    node = op.parameter(ov.PartialShape(shape) if shape is not None else ov.PartialShape.dynamic(4), kind, name=name)
    node.output(0).set_names({name})
    return node


def _copied(values: Tensor, shape: list[int], kind: ov.Type) -> ov.Node:
    """A constant of a type that numpy lacks, from its bytes. It is a copy: OpenVINO does not keep such memory alive."""
    return Constant(ov.Tensor(values.numpy(), ov.Shape(shape), kind), shared_memory=False)


def _constant(values: np.ndarray) -> ov.Node:
    return op.constant(values, shared_memory=True)


def _floats(values: Tensor) -> ov.Node:
    return _constant(values.detach().float().contiguous().numpy())


def _ints(values: int | Sequence[int] | np.ndarray, kind: type = np.int64) -> ov.Node:
    return op.constant(np.array(values, kind))
