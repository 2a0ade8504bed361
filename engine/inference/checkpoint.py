"""Checkpoint folders in transformers' layout ↔ our model: names, shapes, config. Reads bf16/fp16/fp32, INT8 and GPTQ.

Knows no tokenizer, no prompt and no kernel: what INT4 and INT8 become is handed in. Nothing here downloads: a hub id
has become a folder before.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.errors import ModelNotFound, UnsupportedModel
from engine.inference import gptq
from engine.inference.gptq import GptqConfig, Int4Weight
from engine.inference.int8 import dequantize_rows, float_weight, quantize_rows
from engine.inference.model import HunYuanDense, ModelConfig, effective_rope_base
from engine.progress import Advance, untold
from engine.shape import MAX_POSITIONS

ARCHITECTURE = "HunYuanDenseV1ForCausalLM"
GPTQ_METHOD = "gptq"
INT8_METHOD = "int8-rows"  # our own: `X.weight` INT8 and `X.weight_scale` fp32 a row, see `int8`
WHOLE_BYTES = 5_000_000_000  # the hub's own bound of one file

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
    path = folder / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError as error:
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
    return config


def read_json(path: Path) -> dict[str, Any]:
    """One of the small files of a folder. Raises `FileNotFoundError`, and `UnsupportedModel` for what is no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
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


def load_model(
    folder: Path,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    device: str,
    int4: MakeLinear | None = None,
    int8: MakeRows | None = None,
    told: Advance = untold,
) -> HunYuanDense:
    """The model of a folder, on `device`, in evaluation mode. Quantised matrices are what `int4` and `int8` make of
    them (query, key and value as one, gate and up too), or are widened to `dtype` without.

    Tensors go to the device one at a time: the host holds no more than the largest. `told` learns how far it is.
    """
    with torch.device("meta"):
        model = HunYuanDense(model_config(config))
    weights = _Weights(folder, config.get("quantization_config") or {}, device)
    for place, names in _names(model):
        module = model.get_submodule(place)
        assert isinstance(module.weight, Tensor)
        widths = _widths(model.config, place, module.weight)
        expected = [part.shape for part in torch.split(module.weight, widths)]
        parts = list(zip(names, expected, strict=True))
        if int4 and all(weights.is_int4(name) for name in names):
            _replace(model, place, int4(gptq.fuse([weights.int4(*part) for part in parts], place)))
        elif int8 and all(weights.is_int8(name) for name in names):
            quantized, scales = zip(*(weights.int8(*part) for part in parts), strict=True)
            _replace(model, place, int8(_joined(quantized), _joined(scales)))
        else:
            wide = _joined([weights.wide(*part, dtype) for part in parts])
            module.weight = nn.Parameter(wide, requires_grad=False)
        told(weights.share_read)
    model.reset_rotation()
    model.to(device)
    return model.eval()


def save_model(
    model: HunYuanDense,
    folder: Path,
    dtype: torch.dtype,
    extra: Mapping[str, Any],
    shard_bytes: int = WHOLE_BYTES,
) -> None:
    """A checkpoint folder that transformers alone can load. `dtype` torch.int8 quantises the matrices a row at a time
    (then only Yiwen reads it). `extra` goes into config.json."""
    tensors: dict[str, Tensor] = {}
    for name, weight in tensors_of(model):
        if dtype == torch.int8 and weight.ndim == 2:
            tensors[name], tensors[name + "_scale"] = (each.contiguous().cpu() for each in quantize_rows(weight))
        else:
            kept = torch.bfloat16 if dtype == torch.int8 else dtype
            tensors[name] = weight.to(kept).cpu().clone()
    config = transformers_config(model.config) | dict(extra)
    if dtype == torch.int8:
        config["quantization_config"] = {"quant_method": INT8_METHOD, "bits": 8}
    else:
        config["dtype"] = str(dtype).removeprefix("torch.")
    write(tensors, config, folder, shard_bytes)


def tensors_of(model: HunYuanDense) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, weight in a float dtype); most are views of the model's own."""
    for place, names in _names(model):
        weight = float_weight(model.get_submodule(place))
        for name, part in zip(names, torch.split(weight, _widths(model.config, place, weight)), strict=True):
            yield name + ".weight", part


def write(tensors: dict[str, Tensor], config: Mapping[str, Any], folder: Path, shard_bytes: int = WHOLE_BYTES) -> None:
    """`config.json` and `model.safetensors`, or several with an index above `shard_bytes`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(tensors, folder, max_shard_size=shard_bytes, metadata={"format": "pt"})
    described = folder / "config.json"
    described.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
    for file in folder.glob("model*.safetensors"):
        shutil.copymode(described, file)  # safetensors lets nobody but its owner read it


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


class _Weights:
    """Matrices and vectors by name from one `model.safetensors` or its shards, each read when asked for."""

    def __init__(self, folder: Path, quantization: Mapping[str, Any], device: str) -> None:
        method = quantization.get("quant_method")
        if method not in (None, GPTQ_METHOD, INT8_METHOD):
            raise UnsupportedModel(f"Weights quantised by {method!r} cannot be read; bf16, INT8 and GPTQ INT4 can.")
        self._gptq = GptqConfig.read(quantization) if method == GPTQ_METHOD else None
        self._folder, self._device = folder, device
        self._read_bytes = 0
        index = folder / "model.safetensors.index.json"
        if index.exists():
            self._files: dict[str, str] = read_json(index).get("weight_map") or {}
        else:
            with self._open("model.safetensors") as file:
                self._files = dict.fromkeys(file.keys(), "model.safetensors")
        files = (folder / name for name in {*self._files.values()})
        self._bytes = sum(file.stat().st_size for file in files if file.exists())

    @property
    def share_read(self) -> float:
        return self._read_bytes / self._bytes if self._bytes else 0.0

    def is_int4(self, name: str) -> bool:
        return self._gptq is not None and name + ".qweight" in self._files

    def is_int8(self, name: str) -> bool:
        return name + ".weight_scale" in self._files  # also the embedding of a GPTQ checkpoint of our own

    def int4(self, name: str, shape: torch.Size) -> Int4Weight:
        assert self._gptq is not None
        needed = {part: f"{name}.{part}" for part in gptq.NAMES}
        if needed["g_idx"] not in self._files:
            del needed["g_idx"]
        weight = gptq.read({part: self._tensor(full) for part, full in needed.items()}, self._gptq, name)
        _check_shape(name, weight.values, shape)
        return weight

    def int8(self, name: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """(INT8 [out, in], scales [out])."""
        return self._matrix(name, shape), self._scales(name, shape)

    def wide(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if self.is_int4(name):
            return self.int4(name, shape).dequantize().to(dtype)
        weight = self._matrix(name, shape)
        if weight.dtype == torch.int8:
            return dequantize_rows(weight, self._scales(name, shape), dtype)
        return weight.to(dtype)

    def _matrix(self, name: str, shape: torch.Size) -> Tensor:
        weight = self._tensor(name + ".weight")
        _check_shape(name, weight, shape)
        return weight

    def _scales(self, name: str, shape: torch.Size) -> Tensor:
        scales = self._tensor(name + ".weight_scale")
        if scales.shape != shape[:1]:
            raise UnsupportedModel(f"{name} has {scales.numel()} scales for {shape[0]} rows.")
        return scales

    def _tensor(self, name: str) -> Tensor:
        if name not in self._files:
            raise UnsupportedModel(f"The checkpoint {str(self._folder)!r} lacks the tensor {name}.")
        with self._open(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name).to(self._device)
        self._read_bytes += tensor.nbytes
        # aminmax: NaN spreads through it too, and isfinite on each value takes twenty times as long on a CPU
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise UnsupportedModel(
                f"The tensor {name} of {str(self._folder)!r} holds NaN or infinity; it is damaged: fetch it again."
            )
        return tensor

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            with safe_open(self._folder / name, "pt") as file:
                yield file
        except FileNotFoundError as error:
            raise ModelNotFound(f"The folder {str(self._folder)!r} holds no {name}.") from error
        except (SafetensorError, OSError) as error:
            raise UnsupportedModel(
                f"{str(self._folder / name)!r} cannot be read ({error}); it may be cut short: fetch it again."
            ) from error


def _names(model: HunYuanDense) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(place of a module in our model, names of its parts in the checkpoint), without the ending `.weight`."""
    yield "embedding", ("model.embed_tokens",)
    for index in range(model.config.layers):
        for ours, theirs in LAYER_NAMES.items():
            yield f"layers.{index}.{ours}", tuple(f"model.layers.{index}.{name}" for name in theirs)
    yield "norm", ("model.norm",)
    if model.head is not None:
        yield "head", ("lm_head",)


def _widths(config: ModelConfig, place: str, weight: Tensor) -> list[int]:
    """Rows of each part that is fused at `place`."""
    if place.endswith(".qkv"):
        return [config.heads * config.head_dim] + 2 * [config.kv_heads * config.head_dim]
    if place.endswith(".gate_up"):
        return 2 * [config.intermediate_size]
    return [weight.shape[0]]


def _check_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise UnsupportedModel(f"{name} has shape {tuple(tensor.shape)}, not {tuple(shape)}.")


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _replace(model: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
