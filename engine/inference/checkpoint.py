"""Checkpoint folders in transformers' layout ↔ our model: names, shapes, config. Reads bf16/fp16/fp32, INT8 and GPTQ.

Knows no tokenizer, no prompt and no kernel: what INT4 and INT8 become is handed in. Nothing here downloads: a hub id
has become a folder before.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.errors import ModelNotFound, UnsupportedModel
from engine.inference import gptq, weight_files
from engine.inference.gptq import GptqConfig, Int4Weight
from engine.inference.int8 import BLOCK_ROWS, dequantize_rows, float_weight, quantize_rows
from engine.inference.model import HunYuanDense, ModelConfig, effective_rope_base
from engine.inference.sharding import Cut, Share, mixed_groups
from engine.inference.weight_files import CONFIG, INDEX, WHOLE, Piece, in_shards, place
from engine.progress import Advance, untold
from engine.shape import MAX_POSITIONS, read_header

ARCHITECTURE = "HunYuanDenseV1ForCausalLM"
GPTQ_METHOD = "gptq"
INT8_METHOD = "int8-rows"  # our own: `X.weight` INT8 and `X.weight_scale` fp32 a row, see `int8`
WHOLE_BYTES = weight_files.WHOLE_BYTES
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch's, in a zip and before
_POINTER = b"version https://git-lfs"
_NAMED = 4  # files in a sentence

_NEEDED = (  # in config.json; the rest has a default
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)

_RUN_ONLY: dict[str, Any] = {  # in config.json, where HY-MT's models agree
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_qk_norm": True,
    "use_cla": False,
}

_NUMBER, _ABOVE_0, _STRING, _LIST, _OBJECT = "a number", "a number above 0", "a string", "a list", "an object"
_KINDS = {  # in config.json, what must be what where it is there; whole numbers are looked at by `ModelShape`
    "rope_parameters": _OBJECT,
    "rope_scaling": _OBJECT,
    "quantization_config": _OBJECT,
    "yiwen": _OBJECT,
    "rms_norm_eps": _ABOVE_0,
    "rope_theta": _ABOVE_0,
    "rope_parameters.rope_theta": _ABOVE_0,
    "rope_parameters.alpha": _NUMBER,
    "rope_scaling.rope_theta": _ABOVE_0,
    "rope_scaling.alpha": _NUMBER,
    "quantization_config.quant_method": _STRING,
    "quantization_config.bits": _ABOVE_0,
    "quantization_config.group_size": _NUMBER,
    "yiwen.languages": _LIST,
    "yiwen.segment_tokens": _ABOVE_0,
}

# our name in a layer → transformers' (one, or several fused along the rows)
LAYER_NAMES: dict[str, tuple[str, ...]] = {
    "input_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "query_norm": ("self_attn.query_layernorm",),
    "key_norm": ("self_attn.key_layernorm",),
    "output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder, checked to be a model we can run."""
    if not folder.is_dir():
        raise ModelNotFound(f"There is no model folder {str(folder)!r}; give a folder that holds config.json.")
    path = place(folder, CONFIG)
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        refuse_pickles(folder)
        raise ModelNotFound(f"The folder {str(folder)!r} holds no config.json, so it is no model.") from error
    found = config.get("architectures")
    if found != [ARCHITECTURE]:
        raise UnsupportedModel(f"{str(folder)!r} is a model of {found}; Yiwen runs {ARCHITECTURE} (HY-MT) only.")
    for name, can_run in _RUN_ONLY.items():
        if config.get(name, can_run) != can_run:
            raise UnsupportedModel(f"{str(path)!r} says {name} {config[name]!r}; Yiwen runs {can_run!r} only.")
    missing = [name for name in _NEEDED if config.get(name) is None]
    if missing:
        raise UnsupportedModel(f"{str(path)!r} does not say {', '.join(missing)}.")
    _check_kinds(config, path)
    return config


def _check_kinds(config: Mapping[str, Any], path: Path) -> None:
    for name, kind in _KINDS.items():
        outer, _, inner = name.rpartition(".")
        value = ((config.get(outer) or {}) if outer else config).get(inner)
        if value is not None and not _is(value, kind):
            raise UnsupportedModel(f"{str(path)!r} says {name} {str(value)[:40]!r}; it must be {kind}.")


def _is(value: object, kind: str) -> bool:
    if kind in (_NUMBER, _ABOVE_0):
        return isinstance(value, int | float) and type(value) is not bool and (kind == _NUMBER or value > 0)
    return isinstance(value, {_STRING: str, _LIST: list, _OBJECT: dict}[kind])


def read_json(path: Path) -> dict[str, Any]:
    """One of the small files of a folder. Raises `FileNotFoundError`, and `UnsupportedModel` for what is no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{str(path)!r} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UnsupportedModel(f"{str(path)!r} is not a JSON object.")
    return value


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """transformers' config, in our words. `rope_scaling` (or `rope_parameters`) may carry HunYuan's alpha."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "dynamic"):
        raise UnsupportedModel(f"Positions scaled by {kind!r} cannot be run; HY-MT's own (dynamic, with alpha) can.")
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return ModelConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rope_base=effective_rope_base(theta, float(rope.get("alpha") or 1), head_dim),
        rms_norm_eps=config["rms_norm_eps"],
        max_positions=min(config["max_position_embeddings"], MAX_POSITIONS),
        tied_head=config.get("tie_word_embeddings", False),
    )


# An INT4 matrix, on the device → what stands where its layer belongs.
MakeLinear = Callable[[Int4Weight], nn.Module]
# The same for INT8 [rows, in] and scales [rows], of a layer or the embedding.
MakeRows = Callable[[Tensor, Tensor], nn.Module]


class Places(Protocol):
    """Where the parts of a model go that are not all on one device. `where`: a place in our model."""

    def device(self, where: str) -> str:
        """On which a part is read and, if quantised, packed."""
        ...

    def take(self, where: str, module: nn.Module) -> None:
        """It has been read, and may be put away."""
        ...


def load_model(
    folder: Path,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    device: str,
    int4: MakeLinear | None = None,
    int8: MakeRows | None = None,
    told: Advance = untold,
    rounded: bool = False,
    share: Share | None = None,
    places: Places | None = None,
) -> HunYuanDense:
    """The model of a folder, on `device`, in evaluation mode. Quantised matrices are what `int4` and `int8` make of
    them (query, key and value as one, gate and up too), or are widened to `dtype` without. `rounded`: those in 16 or 32
    bits become INT8 rows as they are read, and what `int8` makes of these. `share`: no more than that part is read;
    the rest is for who is joined to it. `places`: of what is not to be on `device`.

    Tensors go to the device one at a time: the host holds no more than the largest. `told` learns how far it is.
    """
    with torch.device("meta"):
        model = HunYuanDense(share.config if share else model_config(config))
        if share and model.head is not None:
            model.head = nn.Linear(model.config.hidden_size, share.head_rows, bias=False)
    weights = Weights(folder, config, device, share)
    for where, parts in _parts(model):
        module = model.get_submodule(where)
        assert isinstance(module.weight, Tensor)
        names = [name for name, _ in parts]
        if places:
            weights.device = places.device(where)
        if int4 and all(weights.is_int4(name) for name in names):
            _replace(model, where, int4(gptq.fuse([weights.int4(*part) for part in parts], where)))
        elif int8 and (all(weights.is_int8(name) for name in names) or (rounded and module.weight.ndim == 2)):
            quantized, scales = zip(*(weights.int8(*part) for part in parts), strict=True)
            _replace(model, where, int8(_joined(quantized), _joined(scales)))
        else:
            wide = _joined([weights.wide(*part, dtype) for part in parts])
            module.weight = nn.Parameter(wide, requires_grad=False)
        if places:
            places.take(where, model.get_submodule(where))
        told(weights.share_read)
    if share and model.head is None:
        model.head = OwnRows(model.embedding, share)
    model.reset_rotation()
    model.cos, model.sin = model.cos.to(device), model.sin.to(device)  # all else is where it was read to
    return model.eval()


class OwnRows(nn.Module):
    """A rank's rows of a tied head, which the embedding holds."""

    def __init__(self, embedding: nn.Embedding, share: Share) -> None:
        super().__init__()
        rows, start = share.head_rows, share.rank * share.head_rows
        table = embedding.weight
        padded = torch.cat((table, table.new_zeros(max(0, share.count * rows - len(table)), table.shape[1])))
        embedding.weight = nn.Parameter(padded[: len(table)], requires_grad=False)
        self._own = [padded[start : start + rows]]  # in a list, so that it is not counted as one weight more

    @property
    def weight(self) -> Tensor:
        return self._own[0]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def save_model(
    model: HunYuanDense,
    folder: Path,
    dtype: torch.dtype,
    extra: Mapping[str, Any],
    shard_bytes: int = WHOLE_BYTES,
) -> None:
    """A checkpoint folder that transformers alone can load. `dtype` torch.int8 quantises the matrices a row at a time
    (then only Yiwen reads it). `extra` goes into config.json. Raises `ConfigError`, as `write`."""
    pieces = [piece(name, weight.shape, dtype, partial(_same, weight)) for name, weight in tensors_of(model)]
    weight_files.write(pieces, described(model.config, dtype, extra), folder, shard_bytes)


def tensors_of(model: HunYuanDense) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, weight in a float dtype); most are views of the model's own."""
    for where, parts in _parts(model):
        weight = float_weight(model.get_submodule(where))
        rows = [shape[0] for _, shape in parts]
        yield from zip((f"{name}.weight" for name, _ in parts), torch.split(weight, rows), strict=True)


def shapes_of(config: ModelConfig) -> dict[str, torch.Size]:
    """Every weight of a checkpoint, without the ending `.weight`."""
    with torch.device("meta"):
        model = HunYuanDense(config)
    return {name: shape for _, parts in _parts(model) for name, shape in parts}


def piece(name: str, shape: torch.Size, dtype: torch.dtype, make: Callable[[], Tensor]) -> Piece:
    """What `make` gives in any float dtype, as it is stored in a checkpoint of `dtype`."""
    forms = _stored(name, torch.empty(shape, device="meta"), dtype)
    return Piece(forms, lambda: _stored(name, make(), dtype))


def described(config: ModelConfig, dtype: torch.dtype, extra: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of such a checkpoint."""
    if dtype == torch.int8:
        form: dict[str, Any] = {"quantization_config": {"quant_method": INT8_METHOD, "bits": 8}}
    else:
        form = {"dtype": str(dtype).removeprefix("torch.")}
    return transformers_config(config) | dict(extra) | form


def write(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path, shard_bytes: int = WHOLE_BYTES
) -> None:
    """`config.json` and `model.safetensors`, or several with an index above `shard_bytes`. Other files of the folder
    stay as they are.

    Raises `ConfigError` where the disk has no room or refuses: then what was there before stays.
    """
    pieces = [Piece({name: tensor.to("meta")}, partial(dict, {name: tensor})) for name, tensor in tensors.items()]
    weight_files.write(pieces, config, folder, shard_bytes)


def _stored(name: str, weight: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype == torch.int8 and weight.ndim == 2:
        blocks = [quantize_rows(block) for block in torch.split(weight, BLOCK_ROWS)]
        return {
            name: torch.cat([rows for rows, _ in blocks]),
            f"{name}_scale": torch.cat([scale for _, scale in blocks]),
        }
    return {name: weight.to(torch.bfloat16 if dtype == torch.int8 else dtype)}


def _same(weight: Tensor) -> Tensor:
    return weight


def transformers_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "hunyuan_v1_dense",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "tie_word_embeddings": config.tied_head,
        "use_qk_norm": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
    }


class Weights:
    """Matrices and vectors by name from one `model.safetensors` or its shards, each read when asked for."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], device: str = "cpu", share: Share | None = None
    ) -> None:
        quantization = config.get("quantization_config") or {}
        method = quantization.get("quant_method")
        if method not in (None, GPTQ_METHOD, INT8_METHOD):
            raise UnsupportedModel(f"Weights quantised by {method!r} cannot be read; bf16, INT8 and GPTQ INT4 can.")
        self._gptq = GptqConfig.read(quantization) if method == GPTQ_METHOD else None
        self._folder, self.device, self._share = folder, device, share
        self._read_bytes = 0
        if in_shards(folder):
            self._files = _indexed(folder)
            for name in sorted({*self._files.values()}):
                _header(folder, name)  # so that what is cut short is told before the first gigabytes are read
        else:
            self._files = dict.fromkeys(_header(folder, WHOLE), WHOLE)
        self._bytes = sum(place(folder, name).stat().st_size for name in {*self._files.values()})

    @property
    def share_read(self) -> float:
        """Of what is to be read, about."""
        ranks = self._share.count if self._share else 1
        return min(1.0, self._read_bytes * ranks / self._bytes) if self._bytes else 0.0

    def is_int4(self, name: str) -> bool:
        return self._is_gptq(name) and self._gptq is not None and self._gptq.bits == 4

    def is_int8(self, name: str) -> bool:
        return name + ".weight_scale" in self._files  # also the embedding of a GPTQ checkpoint of our own

    def int4(self, name: str, shape: torch.Size) -> Int4Weight:
        assert self._gptq is not None
        needed = {part: f"{name}.{part}" for part in gptq.NAMES}
        if needed["g_idx"] not in self._files:
            del needed["g_idx"]
        weight = gptq.read(self._gptq_tensors(name, needed), self._gptq, name)
        _check_shape(name, weight.values, shape)
        return weight

    def _gptq_tensors(self, name: str, needed: Mapping[str, str]) -> dict[str, Tensor]:
        cut = self._cut(name)
        if cut is None:
            return {part: self._tensor(full) for part, full in needed.items()}
        assert self._gptq is not None
        start, stop, whole, each = cut.start, cut.stop, cut.whole, 32 // self._gptq.bits
        packed = Cut(1 - cut.axis, start // each, stop // each, whole // each)  # inputs come first in these
        if cut.axis == 0:
            outputs = Cut(1, start, stop, whole)
            spans = {"qweight": outputs, "qzeros": packed, "scales": outputs}
            return {part: self._tensor(full, spans.get(part)) for part, full in needed.items()}
        with self._opened(needed["scales"]) as file:
            groups = file.get_slice(needed["scales"]).get_shape()[0]
        size = whole // max(1, groups)
        of_groups = Cut(0, start // size, -(-stop // size), groups)
        tensors = {
            "qweight": self._tensor(needed["qweight"], packed),
            "qzeros": self._tensor(needed["qzeros"], of_groups),
            "scales": self._tensor(needed["scales"], of_groups),
        }
        if "g_idx" in needed:
            group_of = self._tensor(needed["g_idx"])
            if not torch.equal(group_of.long().cpu(), torch.arange(whole) // size):
                raise mixed_groups(name)
            tensors["g_idx"] = group_of[start:stop] - of_groups.start
        return tensors

    def int8(self, name: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """(INT8 [out, in], scales [out]), as they are stored, or rounded."""
        weight = self.wide(name, shape, torch.float32) if self._is_gptq(name) else self._matrix(name, shape)
        return (weight, self._scales(name, shape)) if weight.dtype == torch.int8 else quantize_rows(weight)

    def wide(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if self._is_gptq(name):
            return self.int4(name, shape).dequantize().to(dtype)
        weight = self._matrix(name, shape)
        if weight.dtype == torch.int8:
            return dequantize_rows(weight, self._scales(name, shape), dtype)
        return weight.to(dtype)

    def _is_gptq(self, name: str) -> bool:
        return self._gptq is not None and name + ".qweight" in self._files

    def _matrix(self, name: str, shape: torch.Size) -> Tensor:
        weight = self._padded(name, self._tensor(name + ".weight", self._cut(name)))
        _check_shape(name, weight, shape)
        return weight

    def _cut(self, name: str) -> Cut | None:
        return self._share.cut(name) if self._share else None

    def _padded(self, name: str, rows: Tensor) -> Tensor:
        """With zeros behind, where a rank's part of the head is shorter than others'."""
        cut = self._cut(name)
        short = max(0, cut.padded - len(rows)) if cut else 0
        return F.pad(rows, (*(0, 0) * (rows.ndim - 1), 0, short)) if short else rows

    def _scales(self, name: str, shape: torch.Size) -> Tensor:
        cut = self._cut(name)
        scales = self._tensor(name + ".weight_scale", cut if cut and cut.axis == 0 else None)
        scales = self._padded(name, scales) if cut and cut.axis == 0 else scales
        if scales.shape != shape[:1]:
            raise UnsupportedModel(f"{name} has {scales.numel()} scales for {shape[0]} rows.")
        return scales

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        """The file with a tensor."""
        if name not in self._files:
            raise UnsupportedModel(f"The checkpoint {str(self._folder)!r} lacks the tensor {name}.")
        with opened(place(self._folder, self._files[name])) as file:
            yield file

    def _tensor(self, name: str, cut: Cut | None = None) -> Tensor:
        with self._opened(name) as file:
            tensor: Tensor = (_part(file, name, cut) if cut else file.get_tensor(name)).to(self.device)
        self._read_bytes += tensor.nbytes
        check_finite(name, tensor, self._folder)
        return tensor


def _part(file: Any, name: str, cut: Cut) -> Tensor:
    """No more of the file is read."""
    stored = file.get_slice(name)
    if cut.axis >= len(stored.get_shape()) or stored.get_shape()[cut.axis] != cut.whole:
        raise UnsupportedModel(f"{name} has shape {tuple(stored.get_shape())}, which is not what config.json says.")
    span = slice(cut.start, cut.stop)
    part: Tensor = stored[span] if cut.axis == 0 else stored[:, span]
    return part


def check_finite(name: str, tensor: Tensor, folder: Path) -> None:
    # aminmax: NaN spreads through it too, and isfinite on each value takes twenty times as long on a CPU
    if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise UnsupportedModel(
            f"The tensor {name} of {str(folder)!r} holds NaN or infinity; it is damaged: fetch it again."
        )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises `ModelNotFound`, and `UnsupportedModel` for what is damaged."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError as error:
        raise ModelNotFound(f"The folder {str(path.parent)!r} holds no {path.name}.") from error
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def refuse_pickles(folder: Path) -> None:
    """For where no safetensors are found: says so if the weights are there as pickle files."""
    found = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if found:
        raise UnsupportedModel(
            f"The weights in {str(folder)!r} are pickle files ({_some(found)}), which can run code when they are read; "
            "Yiwen reads safetensors only. Fetch the model in safetensors, or load what you trust with transformers "
            "and write them anew with save_pretrained."
        )


def _indexed(folder: Path) -> dict[str, str]:
    """Tensor → file. Raises `ModelNotFound` for files that are not there."""
    index = place(folder, INDEX)
    files: dict[str, str] = read_json(index).get("weight_map") or {}
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise UnsupportedModel(f"{str(index)!r} does not say which tensor is in which file; fetch it again.")
    names = sorted({*files.values()})
    if outside := [name for name in names if re.search(r"[/\\:]", name) or not name.endswith(".safetensors")]:
        raise UnsupportedModel(
            f"{str(index)!r} names {_some(outside)}; weights are read from safetensors files of the folder itself only."
        )
    if missing := [name for name in names if not place(folder, name).exists()]:
        raise ModelNotFound(
            f"The folder {str(folder)!r} holds no {_some(missing)}, {len(missing)} of the {len(names)} files that its "
            "index names; fetch what is missing."
        )
    return files


def _header(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """What a file says it holds, which is all there. Raises `ModelNotFound` and `UnsupportedModel`."""
    path = place(folder, name)
    try:
        return read_header(path)
    except FileNotFoundError as error:
        refuse_pickles(folder)
        raise ModelNotFound(f"The folder {str(folder)!r} holds no {name}.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UnsupportedModel:
    try:
        with path.open("rb") as file:
            begin = file.read(len(_POINTER))
    except OSError:
        begin = b""
    if begin.startswith(_PICKLED):
        what = "is a pickle file, which can run code when it is read; fetch the model in safetensors"
    elif begin == _POINTER:
        what = "is a pointer of Git LFS, not the file itself; fetch that with git lfs pull"
    else:
        what = f"cannot be read ({error}); it may be cut short: fetch it again"
    return UnsupportedModel(f"{str(path)!r} {what}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _parts(model: HunYuanDense) -> Iterator[tuple[str, list[tuple[str, torch.Size]]]]:
    """(place of a module in our model, its parts in the checkpoint: name without the ending `.weight`, and shape)."""
    config = model.config
    fused = {"qkv": [config.heads * config.head_dim, *2 * [config.kv_heads * config.head_dim]]}
    fused["gate_up"] = 2 * [config.intermediate_size]
    for where, names in _names(model):
        weight = model.get_submodule(where).weight
        assert isinstance(weight, Tensor)
        rows = fused.get(where.rpartition(".")[2], [len(weight)])
        shapes = [torch.Size((count, *weight.shape[1:])) for count in rows]
        yield where, list(zip(names, shapes, strict=True))


def _names(model: HunYuanDense) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "embedding", ("model.embed_tokens",)
    for index in range(model.config.layers):
        for ours, theirs in LAYER_NAMES.items():
            yield f"layers.{index}.{ours}", tuple(f"model.layers.{index}.{name}" for name in theirs)
    yield "norm", ("model.norm",)
    if model.head is not None:
        yield "head", ("lm_head",)


def _check_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise UnsupportedModel(f"{name} has shape {tuple(tensor.shape)}, not {tuple(shape)}.")


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _replace(model: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
