"""A folder with the graph of a model as ONNX Runtime runs it: model.onnx, its constants in model.onnx.data. Writing it,
and what must hold before it is run. Knows no tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from engine.errors import ModelNotFound, UnsupportedModel
from engine.inference.checkpoint import model_config, read_config
from engine.inference.onnx_graph import KINDS, LOGITS, Compute, Graph, past
from engine.progress import Advance, untold
from engine.shape import ModelShape

Precision = Literal["fp32", "fp16", "int8", "int4"]

GRAPH, DATA = "model.onnx", "model.onnx.data"
_ALIGNED_BYTES = 4_096  # where a constant begins: a page, so that it can be mapped into memory
_WRITTEN_BYTES = 1 << 24  # at once
# As ModelShape reads how a checkpoint is stored: its sizes are those of the graph
_STORED: Mapping[Precision, Mapping[str, Any]] = {
    "fp32": {"dtype": "float32"},
    "fp16": {"dtype": "float16"},
    "int8": {"quantization_config": {"quant_method": "int8-rows"}},
    "int4": {"quantization_config": {"quant_method": "gptq"}},
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder that has been looked at."""

    graph: Path
    config: Mapping[str, Any]
    shape: ModelShape
    precision: Precision  # of the weights
    compute: Compute
    nbytes: int  # of all its constants


def is_exported(folder: Path) -> bool:
    return (folder / GRAPH).is_file()


def write(graph: Graph, folder: Path, precision: Precision, compute: Compute, told: Advance = untold) -> None:
    """One constant in memory at a time. `told` learns how far it is. Raises `OSError`."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    said = {"precision": precision, "compute": compute}
    onnx.helper.set_model_props(model, {f"yiwen.{name}": value for name, value in said.items()})
    outside = {each.name: each for each in model.graph.initializer if each.data_location == TensorProto.EXTERNAL}
    written, total = 0, graph.nbytes
    with (folder / DATA).open("wb") as file:
        for name, constant in graph.outside.items():
            file.write(bytes(-file.tell() % _ALIGNED_BYTES))
            place = {"location": DATA, "offset": str(file.tell()), "length": str(constant.nbytes)}
            del outside[name].external_data[:]
            for key, value in place.items():
                outside[name].external_data.add(key=key, value=value)
            flat = constant.make().reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _WRITTEN_BYTES):
                written += file.write(flat[start : start + _WRITTEN_BYTES].data)
                told(written / total)
    (folder / GRAPH).write_bytes(model.SerializeToString())


def read(folder: Path) -> Exported:
    """Looks at all but the numbers. Raises `ModelNotFound`, `UnsupportedModel`."""
    config = read_config(folder)
    path = folder / GRAPH
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise UnsupportedModel(
            f"{str(path)!r} cannot be read ({type(error).__name__}); it may be cut short: export the model again."
        ) from error
    said = {each.key.removeprefix("yiwen."): each.value for each in model.metadata_props}
    precision, compute = said.get("precision", ""), said.get("compute", "")
    if precision not in get_args(Precision) or compute not in get_args(Compute):
        raise UnsupportedModel(
            f"{str(path)!r} is not a graph that Yiwen has made; export the model with "
            "`python -m engine.tools.export_onnx`."
        )
    _check_shapes(model, path, config)
    nbytes = _check_data(model, folder)
    shape = ModelShape.read({**config, **_STORED[precision]})
    return Exported(path, config, shape, precision, compute, nbytes)


def _check_shapes(model: onnx.ModelProto, path: Path, config: Mapping[str, Any]) -> None:
    ours = model_config(config)
    found = {
        each.name: tuple(size.dim_value for size in each.type.tensor_type.shape.dim)
        for each in (*model.graph.input, *model.graph.output)
    }
    buffer = (0, ours.kv_heads, 0, ours.head_dim)
    expected = {past(layer, kind): buffer for layer in range(ours.layers) for kind in KINDS}
    pasts = {name: shape for name, shape in found.items() if name.startswith("past")}
    if pasts != expected or found.get(LOGITS) != (0, 1, ours.vocab_size):
        raise UnsupportedModel(
            f"{str(path)!r} is the graph of another model than config.json beside it; export the model again."
        )


def _check_data(model: onnx.ModelProto, folder: Path) -> int:
    """Bytes of all constants; where they are outside, they are all in the file beside the graph, and whole."""
    total, end = 0, 0
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            total += tensor.ByteSize()
            continue
        place = {each.key: each.value for each in tensor.external_data}
        location, *numbers = (place.get(name) or "0" for name in ("location", "length", "offset"))
        if location != DATA or not all(number.isdecimal() for number in numbers):
            raise UnsupportedModel(
                f"{str(folder / GRAPH)!r} has weights in {location[:80]!r}, and only {DATA} beside it is read; "
                "export the model again."
            )
        length, offset = map(int, numbers)
        total, end = total + length, max(end, offset + length)
    data = folder / DATA
    if end and not data.is_file():
        raise ModelNotFound(f"The folder {str(folder)!r} holds no {DATA}, with the weights of {GRAPH}.")
    size = data.stat().st_size if end else 0
    if size < end:
        raise UnsupportedModel(
            f"{str(data)!r} has {size:,} bytes of {end:,}; it was cut short: copy it again, or export the model again."
        )
    return total
