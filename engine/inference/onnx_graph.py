"""HunYuanDense as an ONNX graph for ONNX Runtime on the CPU. Knows no batch and no sampling.

Weights keep their form where ONNX Runtime has a product for it (INT4 in groups, INT8 rows); it rounds activations to
INT8 for those. Attention is its GroupQueryAttention over one buffer a sequence, which it writes in place.

Inputs, for S sequences of T tokens each:
    ids, positions   int64 [S, T]
    row              int64 [S, 1]  the token after which scores are wanted
    last             int32 [S]     the place of each sequence's last token in its buffer
    total            int32 []      tokens of the longest sequence, with those of this step
    keys.L, values.L fp32 [S, kv_heads, length, head_dim], the buffers of layer L
Outputs: scores, fp32 [S, vocab_size]; new_keys.L, new_values.L, to be bound to the same buffers.
"""

from collections.abc import Sequence
from typing import Any

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

SCORES = "scores"
KINDS = ("keys", "values")
_MICROSOFT = "com.microsoft"  # operations of ONNX Runtime's own
_OPSET, _IR = 21, 10
_INSIDE_BYTES = 1_024  # of a constant in the graph itself; some are shapes, which ONNX Runtime wants to see there
_LARGEST_BLOCK = 128  # of weights that share a scale; a power of two, from 16
_INT8_ACTIVATIONS = 4  # `accuracy_level` of MatMulNBits


class _Graph:
    """Nodes and constants as they come; each node's first output is its value. Of large constants the graph has the
    name alone, since a protobuf holds 2 GB at most, and each would be copied twice."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outside: dict[str, NDArray[np.generic]] = {}

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
        self.nodes.append(helper.make_node(operation, inputs, outputs, domain=domain, **attributes))

    def constant(self, values: Tensor | NDArray[np.generic] | Sequence[int]) -> str:
        name = f"constant.{len(self.constants)}"
        if isinstance(values, Tensor):
            values = values.detach().contiguous().numpy()
        array = np.asarray(values)
        if array.nbytes <= _INSIDE_BYTES:
            self.constants.append(numpy_helper.from_array(array, name))
            return name
        self.outside[name] = array
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="memory")
        self.constants.append(tensor)
        return name


def build(model: HunYuanDense) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
    """The graph, and the constants beside it by name, some of which are the model's own memory."""
    config, graph = model.config, _Graph()
    embedding, head = embedding_and_head(model)
    x = _embedded(graph, embedding)
    half = config.head_dim // 2
    rotation = graph.constant(model.cos[:, :half]), graph.constant(model.sin[:, half:])
    for layer in model.layers:
        assert isinstance(layer, Layer)
        x = _layer(graph, config, layer, x, rotation)
    wanted = graph("GatherND", _normed(graph, model.norm, x), "row", batch_dims=1)
    graph.named("Identity", [_product(graph, head, wanted)], [SCORES])
    buffer: list[str | int | None] = ["S", config.kv_heads, "length", config.head_dim]
    inputs: dict[str, list[str | int | None]] = {"ids": ["S", "T"], "positions": ["S", "T"], "row": ["S", 1]}
    described = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()]
    described += [
        helper.make_tensor_value_info("last", TensorProto.INT32, ["S"]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
    ]
    made = [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["S", config.vocab_size])]
    for layer_index in range(config.layers):
        for kind in KINDS:
            described.append(helper.make_tensor_value_info(f"{kind}.{layer_index}", TensorProto.FLOAT, buffer))
            made.append(helper.make_tensor_value_info(f"new_{kind}.{layer_index}", TensorProto.FLOAT, buffer))
    whole = helper.make_graph(graph.nodes, "HunYuanDense", described, made, graph.constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=_IR), graph.outside


def _layer(graph: _Graph, config: ModelConfig, layer: Layer, x: str, rotation: tuple[str, str]) -> str:
    joined = _product(graph, layer.qkv, _normed(graph, layer.input_norm, x))
    query, key, value = graph.all("Split", joined, graph.constant(list(layer.widths)), outputs=3, axis=-1)
    query = _turned(graph, query, config.heads, layer.query_norm, rotation)
    key = _turned(graph, key, config.kv_heads, layer.key_norm, rotation)
    seen = f"seen.{layer.index}"
    graph.named(
        "GroupQueryAttention",
        [query, key, value, *(f"{kind}.{layer.index}" for kind in KINDS), "last", "total"],
        [seen, *(f"new_{kind}.{layer.index}" for kind in KINDS)],
        own=True,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        scale=config.head_dim**-0.5,
    )
    x = graph("Add", x, _product(graph, layer.output, seen))
    gate, up = graph.all(
        "Split", _product(graph, layer.gate_up, _normed(graph, layer.mlp_norm, x)), outputs=2, axis=-1, num_outputs=2
    )
    gated = graph("Mul", graph("Mul", gate, graph("Sigmoid", gate)), up)
    return graph("Add", x, _product(graph, layer.down, gated))


def _turned(graph: _Graph, x: str, heads: int, norm: nn.Module, rotation: tuple[str, str]) -> str:
    """RoPE, then the norm of each head: [S, T, heads · head_dim] → the same."""
    x = graph("RotaryEmbedding", x, "positions", *rotation, own=True, num_heads=heads)
    apart = graph("Reshape", x, graph.constant([0, 0, heads, -1]))
    return graph("Reshape", _normed(graph, norm, apart), graph.constant([0, 0, -1]))


def _normed(graph: _Graph, norm: nn.Module, x: str) -> str:
    assert isinstance(norm, RMSNorm)
    return graph("SimplifiedLayerNormalization", x, graph.constant(norm.weight.float()), axis=-1, epsilon=norm.eps)


def _embedded(graph: _Graph, embedding: nn.Module) -> str:
    """The embeddings of the ids, [S, T, hidden_size]."""
    if not isinstance(embedding, Int8Rows):
        return graph("Gather", graph.constant(float_weight(embedding).float()), "ids")
    rows = graph("Cast", graph("Gather", graph.constant(embedding.weight), "ids"), to=TensorProto.FLOAT)
    return graph("Mul", rows, graph("Gather", graph.constant(embedding.scale[:, None]), "ids"))


def _product(graph: _Graph, module: nn.Module, x: str) -> str:
    """x @ w.T"""
    if isinstance(module, Int4Held):
        return _int4(graph, module.held, x)
    if isinstance(module, Int8Rows):
        return _int8(graph, module, x)
    return graph("MatMul", x, graph.constant(float_weight(module).float().T))


def _int8(graph: _Graph, weight: Int8Rows, x: str) -> str:
    rows, columns = weight.weight.shape
    block = _block(columns)
    values = (weight.weight.view(torch.uint8) ^ 0x80).view(rows, -1, block)  # from 0 to 255, with 128 for zero
    scales = weight.scale.float()[:, None].expand(rows, columns // block)
    return _blocks(graph, x, rows, columns, block, 8, graph.constant(values), graph.constant(scales))


def _int4(graph: _Graph, weight: Int4Weight, x: str) -> str:
    if weight.order is not None:
        x = graph("Gather", x, graph.constant(weight.order), axis=-1)
    rows, columns = weight.values.shape
    block = _block(weight.group)
    times = weight.group // block
    zeros = weight.zeros.repeat_interleave(times, 1)
    if zeros.shape[1] % 2:
        zeros = torch.cat((zeros, zeros[:, :1]), 1)
    inputs = (
        _pairs(weight.values).view(rows, columns // block, block // 2),
        weight.scales.float().repeat_interleave(times, 1),
        _pairs(zeros),
    )
    return _blocks(graph, x, rows, columns, block, 4, *map(graph.constant, inputs))


def _blocks(graph: _Graph, x: str, rows: int, columns: int, block: int, bits: int, *weights: str) -> str:
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
    return graph("MatMulNBits", x, *weights, own=True, **attributes)


def _block(group: int) -> int:
    """The largest block that cuts a group evenly."""
    return min(group & -group, _LARGEST_BLOCK)


def _pairs(values: Tensor) -> Tensor:
    """[rows, n], each 0…15 → [rows, n / 2], the first of a pair in the lower half."""
    return values[:, 0::2] | values[:, 1::2] << 4
