"""HunYuanDense as an ONNX graph for ONNX Runtime: in fp32 for the CPU, in fp16 for a card. Knows no batch.

Weights keep their form where ONNX Runtime has a product for it (INT4 in groups, INT8 rows); on the CPU it rounds
activations to INT8 for those. Attention is its GroupQueryAttention, which on cards there is in 16 bits alone.

One graph takes in prompts and single tokens. Names are those of Optimum and ONNX Runtime GenAI. Inputs, for S sequences
of T tokens each, of which before these and with them there are at most `total`:
    input_ids, position_ids    int64 [S, T]
    attention_mask             int64 [S, total]  ones for all tokens of a sequence with these, then zeros
    past_key_values.L.key, past_key_values.L.value  of layer L, [S, kv_heads, length, head_dim], fp32 or fp16
More than one token after a past are taken in of one sequence alone (GroupQueryAttention's own bound).
Outputs: logits, fp32 [S, 1, vocab_size], after the last token alone; present.L.key, present.L.value.
    The present is the past with these tokens. It is of the length `total`, or as long as the past where that is longer;
    then both may be the same buffer, which is written in place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engine.inference.gptq import Int4Weight
from engine.inference.held import Int4Held, embedding_and_head
from engine.inference.int8 import Int8Rows, float_weight
from engine.inference.model import HunYuanDense, Layer, ModelConfig, RMSNorm

Compute = Literal["fp32", "fp16"]  # of activations, keys and values, and of weights that are not quantised

KINDS = ("key", "value")
IDS, POSITIONS, MASK, LOGITS = "input_ids", "position_ids", "attention_mask", "logits"
TORCH_DTYPES: dict[Compute, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
_MICROSOFT = "com.microsoft"  # operations of ONNX Runtime's own
_OPSET, _IR = 21, 10
_INSIDE_BYTES = 1_024  # of a constant in the graph itself; some are shapes, which ONNX Runtime wants to see there
_LARGEST_BLOCK = 128  # of weights that share a scale; a power of two, from 16
_INT8_ACTIVATIONS = 4  # `accuracy_level` of MatMulNBits
_INT4_ZERO, _INT8_ZERO = 8, 128  # of its four and eight bits without zero points


@dataclass(frozen=True, slots=True)
class Outside:
    """A constant that stands beside the graph, made anew whenever it is asked for: some are the model's own memory,
    others as large as a matrix in fp32."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Graph:
    """Of large constants `model` has the name alone: a protobuf holds 2 GB at most, and each would be copied twice."""

    model: onnx.ModelProto
    outside: Mapping[str, Outside]

    @property
    def nbytes(self) -> int:
        """Of the constants beside it."""
        return sum(each.nbytes for each in self.outside.values())


def past(layer: int, kind: str) -> str:
    return f"past_key_values.{layer}.{kind}"


def present(layer: int, kind: str) -> str:
    return f"present.{layer}.{kind}"


def build(model: HunYuanDense, compute: Compute = "fp32") -> Graph:
    """`model`: on the CPU, with `Int4Held` and `Int8Rows` where it is quantised."""
    config, graph = model.config, _Graph(compute)
    embedding, head = embedding_and_head(model)
    x = _embedded(graph, embedding)
    half = config.head_dim // 2
    rotation = (
        graph.floats("cos", (*model.cos.shape[:1], half), lambda: model.cos[:, :half]),
        graph.floats("sin", (*model.sin.shape[:1], half), lambda: model.sin[:, half:]),
    )
    lengths = _lengths(graph)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        x = _layer(graph, config, layer, x, rotation, lengths)
    last = graph("Gather", x, graph.constant(-1), axis=1)
    scores = _scores(graph, head, _normed(graph, "norm", model.norm, last), shared=head is embedding)
    scores = graph("Unsqueeze", scores, graph.constant([1]))
    graph.named("Cast", [scores], [LOGITS], to=TensorProto.FLOAT)
    buffer = ["S", config.kv_heads, "length", config.head_dim]
    buffer_after = ["S", config.kv_heads, "length_after", config.head_dim]
    inputs = {IDS: ["S", "T"], POSITIONS: ["S", "T"], MASK: ["S", "total"]}
    described = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["S", 1, config.vocab_size])]
    for index in range(config.layers):
        for kind in KINDS:
            described.append(helper.make_tensor_value_info(past(index, kind), graph.kind, buffer))
            made.append(helper.make_tensor_value_info(present(index, kind), graph.kind, buffer_after))
    whole = helper.make_graph(graph.nodes, "HunYuanDense", described, made, graph.constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return Graph(helper.make_model(whole, opset_imports=opsets, ir_version=_IR, producer_name="Yiwen"), graph.outside)


class _Graph:
    """Nodes and constants as they come; each node's first output is its value."""

    def __init__(self, compute: Compute) -> None:
        self.dtype = TORCH_DTYPES[compute]
        self._numpy = np.dtype(np.float32 if compute == "fp32" else np.float16)
        self.kind = helper.np_dtype_to_tensor_dtype(self._numpy)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outside: dict[str, Outside] = {}

    def __call__(self, operation: str, *inputs: str, outputs: int = 1, own: bool = False, **attributes: Any) -> str:
        return self.all(operation, *inputs, outputs=outputs, own=own, **attributes)[0]

    def all(self, operation: str, *inputs: str, outputs: int = 1, own: bool = False, **attributes: Any) -> list[str]:
        names = [f"{operation}.{len(self.nodes)}.{number}" for number in range(outputs)]
        self.named(operation, inputs, names, own, **attributes)
        return names

    def named(
        self, operation: str, inputs: Sequence[str], outputs: Sequence[str], own: bool = False, **attributes: Any
    ) -> None:
        domain = _MICROSOFT if own else ""
        name = f"{operation}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, outputs, name, domain=domain, **attributes))

    def constant(self, values: Sequence[int] | int) -> str:
        """Whole numbers, such as a shape."""
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def floats(self, name: str, shape: Sequence[int], make: Callable[[], Tensor]) -> str:
        """In the dtype that is computed in."""
        return self.large(name, shape, self._numpy, lambda: make().to(self.dtype))

    def large(self, name: str, shape: Sequence[int], dtype: np.dtype[Any], make: Callable[[], Tensor]) -> str:
        """What is not asked for twice under one name is there once."""
        outside = Outside(tuple(shape), dtype, lambda: make().detach().contiguous().numpy().reshape(shape))
        if name in self.outside:
            return name
        if outside.nbytes <= _INSIDE_BYTES:
            self.constants.append(numpy_helper.from_array(outside.make(), name))
            return name
        self.outside[name] = outside
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        tensor = TensorProto(name=name, dims=outside.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="memory")
        self.constants.append(tensor)
        return name


def _lengths(graph: _Graph) -> tuple[str, str]:
    """As GroupQueryAttention wants them: the place of each sequence's last token, and the tokens of the longest."""
    last = graph("Sub", graph("ReduceSum", MASK, graph.constant([1]), keepdims=0), graph.constant(1))
    total = graph("Gather", graph("Shape", MASK), graph.constant(1))
    return graph("Cast", last, to=TensorProto.INT32), graph("Cast", total, to=TensorProto.INT32)


def _layer(
    graph: _Graph, config: ModelConfig, layer: Layer, x: str, rotation: tuple[str, str], lengths: tuple[str, str]
) -> str:
    index, place = layer.index, f"layers.{layer.index}"
    joined = _product(graph, f"{place}.qkv", layer.qkv, _normed(graph, f"{place}.input_norm", layer.input_norm, x))
    query, key, value = graph.all("Split", joined, graph.constant(list(layer.widths)), outputs=3, axis=-1)
    query = _turned(graph, f"{place}.query_norm", query, config.heads, layer.query_norm, rotation)
    key = _turned(graph, f"{place}.key_norm", key, config.kv_heads, layer.key_norm, rotation)
    seen = f"seen.{index}"
    graph.named(
        "GroupQueryAttention",
        [query, key, value, *(past(index, kind) for kind in KINDS), *lengths],
        [seen, *(present(index, kind) for kind in KINDS)],
        own=True,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        scale=config.head_dim**-0.5,
    )
    x = graph("Add", x, _product(graph, f"{place}.output", layer.output, seen))
    both = _product(graph, f"{place}.gate_up", layer.gate_up, _normed(graph, f"{place}.mlp_norm", layer.mlp_norm, x))
    gate, up = graph.all("Split", both, outputs=2, axis=-1, num_outputs=2)
    gated = graph("Mul", graph("Mul", gate, graph("Sigmoid", gate)), up)
    return graph("Add", x, _product(graph, f"{place}.down", layer.down, gated))


def _turned(graph: _Graph, name: str, x: str, heads: int, norm: nn.Module, rotation: tuple[str, str]) -> str:
    """RoPE, then the norm of each head: [S, T, heads · head_dim] → the same."""
    x = graph("RotaryEmbedding", x, POSITIONS, *rotation, own=True, num_heads=heads)
    apart = graph("Reshape", x, graph.constant([0, 0, heads, -1]))
    return graph("Reshape", _normed(graph, name, norm, apart), graph.constant([0, 0, -1]))


def _normed(graph: _Graph, name: str, norm: nn.Module, x: str) -> str:
    assert isinstance(norm, RMSNorm)
    weight = norm.weight
    scale = graph.floats(f"{name}.weight", weight.shape, lambda: weight)
    return graph("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=norm.eps)


def _embedded(graph: _Graph, embedding: nn.Module) -> str:
    """The embeddings of the ids, [S, T, hidden_size]."""
    if not isinstance(embedding, Int8Rows):
        return graph("Gather", _float_table(graph, "embedding", embedding), IDS)
    rows = graph("Gather", _int8_values(graph, "embedding", embedding), IDS)
    rows = graph("Cast", graph("Reshape", rows, graph.constant([0, 0, -1])), to=graph.kind)
    zero = graph.floats("int8_zero", (), lambda: torch.tensor(float(_INT8_ZERO)))
    scale = embedding.scale[:, None]
    scales = graph.floats("embedding.scale", scale.shape, lambda: scale)
    return graph("Mul", graph("Sub", rows, zero), graph("Gather", scales, IDS))


def _scores(graph: _Graph, head: nn.Module, x: str, shared: bool) -> str:
    """[S, hidden_size] → [S, vocab_size]. `shared`: its constants are those of the embedding."""
    name = "embedding" if shared else "head"
    if isinstance(head, Int4Held | Int8Rows):
        return _product(graph, name, head, x)
    return graph("Gemm", x, _float_table(graph, name, head), transB=1)


def _float_table(graph: _Graph, name: str, module: nn.Module) -> str:
    """[vocab_size, hidden_size]"""
    shape = float_weight(module).shape
    return graph.floats(f"{name}.weight", shape, lambda: float_weight(module))


def _product(graph: _Graph, name: str, module: nn.Module, x: str) -> str:
    """x @ w.T"""
    if isinstance(module, Int4Held):
        return _int4(graph, name, module.held, x)
    if isinstance(module, Int8Rows):
        rows, columns = module.weight.shape
        block = _block(columns)
        scale = module.scale[:, None].expand(rows, columns // block)
        scales = graph.floats(f"{name}.scales", scale.shape, lambda: scale)
        return _blocks(graph, x, rows, columns, block, 8, _int8_values(graph, name, module), scales)
    rows, columns = float_weight(module).shape
    weight = graph.floats(f"{name}.weight", (columns, rows), lambda: float_weight(module).T)
    return graph("MatMul", x, weight)


def _int8_values(graph: _Graph, name: str, weight: Int8Rows) -> str:
    """From 0 to 255, with 128 for zero: [rows, blocks, block]"""
    rows, columns = weight.weight.shape
    shape = rows, columns // _block(columns), _block(columns)
    byte = np.dtype(np.uint8)
    return graph.large(f"{name}.values", shape, byte, lambda: weight.weight.view(torch.uint8) ^ _INT8_ZERO)


def _int4(graph: _Graph, name: str, weight: Int4Weight, x: str) -> str:
    if weight.order is not None:
        order = weight.order
        x = graph("Gather", x, graph.large(f"{name}.order", order.shape, np.dtype(np.int64), lambda: order), axis=-1)
    rows, columns = weight.values.shape
    block = _block(weight.group)
    times = weight.group // block
    byte = np.dtype(np.uint8)
    shape = rows, columns // block, block // 2
    inputs = [
        graph.large(f"{name}.values", shape, byte, partial(_pairs, weight.values)),
        graph.floats(f"{name}.scales", shape[:2], lambda: weight.scales.repeat_interleave(times, 1)),
    ]
    if not bool((weight.zeros == _INT4_ZERO).all()):
        zeros = weight.zeros.repeat_interleave(times, 1)
        if zeros.shape[1] % 2:
            zeros = torch.cat((zeros, zeros[:, :1]), 1)
        inputs.append(graph.large(f"{name}.zeros", (rows, zeros.shape[1] // 2), byte, partial(_pairs, zeros)))
    return _blocks(graph, x, rows, columns, block, 4, *inputs)


def _blocks(graph: _Graph, x: str, rows: int, columns: int, block: int, bits: int, *weights: str) -> str:
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
    return graph("MatMulNBits", x, *weights, own=True, **attributes)


def _block(group: int) -> int:
    """The largest block that cuts a group evenly."""
    return min(group & -group, _LARGEST_BLOCK)


def _pairs(values: Tensor) -> Tensor:
    """[rows, n], each 0…15 → [rows, n / 2], the first of a pair in the lower half."""
    return values[:, 0::2] | values[:, 1::2] << 4
