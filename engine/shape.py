"""What a checkpoint says of its size before it is loaded: the shape of the model, and how its weights are stored.

From config.json, and the headers of the safetensors files where there are any. Knows no torch and no device. Weights
that are missing or spoilt are told by their reader, not here: then the sizes are computed from the shape alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from engine.errors import UnsupportedModel

MAX_POSITIONS = 32_768  # the longest table of positions we build; HY-MT's own limit in use is about 8k
HY_MT_CONTEXT_TOKENS = 8_192  # prompt and answer: "about 8k" by a Tencent engineer (Hunyuan-MT, issue 8)
HY_MT_SEGMENT_TOKENS = 512  # HY-MT shortens texts above one or two thousand (reports of its users)
GPTQ_GROUP = 128  # inputs that share a scale, where a checkpoint does not say; what AngelSlim and GPTQModel make
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_METHODS = {"gptq": "gptq-int4", "int8-rows": "int8"}
_WHOLE_NUMBERS = (  # in config.json, where it has them
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_LONGEST_HEADER_BYTES = 100_000_000  # the format's own bound


@dataclass(frozen=True, slots=True)
class ModelShape:
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied_head: bool
    stored: str  # "gptq-int4", "int8", "bf16", "fp16", "fp32"
    quantized_parameters: int  # of the matrices stored in INT4 or INT8
    quantized_bytes: int  # of the same, with scales and zero points
    context_tokens: int  # prompt and answer together, the most the model is used with
    segment_tokens: int  # the longest segment it translates well
    widened_from: str = ""  # "gptq-int8", which becomes `stored` as it is read

    @classmethod
    def read(cls, config: Mapping[str, Any], folder: Path | None = None) -> Self:
        """`config`: a `config.json` that says all a HunYuanDense must; `folder`: where its weights are.

        Raises `UnsupportedModel` for what is no size.
        """
        for name in _WHOLE_NUMBERS:
            said = config.get(name)
            if said is not None and (type(said) is not int or said < 1):
                raise UnsupportedModel(
                    f"config.json says {name} {str(said)[:40]!r}; it must be a whole number above 0."
                )
        hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or hidden // heads
        quantization = config.get("quantization_config") or {}
        method = _METHODS.get(quantization.get("quant_method", ""))
        eight_bits = method == "gptq-int4" and quantization.get("bits") == 8
        if eight_bits:
            method = None  # widened as it is read, so it takes what its dtype takes
        body = _body_parameters(hidden, inner, layers, heads, kv_heads, head_dim)
        packed = _packed(folder, method) if folder and method else None
        if packed is None:
            packed = _packed_by_shape(method, body, quantization, hidden, config["vocab_size"])
        return cls(
            hidden_size=hidden,
            intermediate_size=inner,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=config["vocab_size"],
            tied_head=bool(config.get("tie_word_embeddings", False)),
            stored=method or _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "bf16"),
            quantized_parameters=packed[0],
            quantized_bytes=packed[1],
            context_tokens=min(config["max_position_embeddings"], MAX_POSITIONS, HY_MT_CONTEXT_TOKENS),
            segment_tokens=(config.get("yiwen") or {}).get("segment_tokens") or HY_MT_SEGMENT_TOKENS,
            widened_from="gptq-int8" if eight_bits else "",
        )

    @property
    def parameters(self) -> int:
        """Weights of all matrices; norms are too few to count."""
        body = _body_parameters(
            self.hidden_size, self.intermediate_size, self.layers, self.heads, self.kv_heads, self.head_dim
        )
        return body + (1 if self.tied_head else 2) * self.vocab_size * self.hidden_size

    @property
    def kv_values_a_token(self) -> int:
        """Numbers that the KV cache holds for one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def _body_parameters(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, head_dim: int) -> int:
    return layers * (hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * inner)


def _packed_by_shape(
    method: str | None, body: int, quantization: Mapping[str, Any], hidden: int, vocab: int
) -> tuple[int, int]:
    """(parameters, bytes) of what is quantised: GPTQ quantises the layers, INT8 rows the embedding too."""
    if method == "gptq-int4":
        group = quantization.get("group_size") or GPTQ_GROUP
        group = group if group > 0 else hidden  # −1: a scale for a whole row
        return body, body // 2 + body * 5 // (2 * group)  # 4 bits each; a group has a scale of 16 bits, a zero of 4
    if method == "int8":
        return body + vocab * hidden, body + vocab * hidden
    return 0, 0


def _packed(folder: Path, method: str) -> tuple[int, int] | None:
    """The same by what stands in the files. None where they cannot be read."""
    parameters = packed_bytes = 0
    whole = folder / "model.safetensors"  # what is beside it is not read
    try:
        for path in [whole] if whole.exists() else folder.glob("*.safetensors"):
            for name, tensor in read_header(path).items():
                start, end = tensor["data_offsets"]
                if method == "gptq-int4" and name.endswith((".qweight", ".qzeros", ".scales")):
                    parameters += 8 * prod(tensor["shape"]) if name.endswith(".qweight") else 0  # eight in an int32
                    packed_bytes += end - start
                elif method == "int8" and (tensor["dtype"] == "I8" or name.endswith("_scale")):
                    parameters += prod(tensor["shape"]) if tensor["dtype"] == "I8" else 0
                    packed_bytes += end - start
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (parameters, packed_bytes) if parameters else None


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Name → dtype, shape and place of each tensor: a safetensors file begins with the length of this JSON.

    Raises `ValueError` where it does not, or where less follows than it says.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        text = file.read(length)
    try:
        header: dict[str, dict[str, Any]] = json.loads(text)
        header.pop("__metadata__", None)
        said = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (AttributeError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("its header is not of safetensors") from error
    if (found := path.stat().st_size) < said:
        raise ValueError(f"{found:,} of its {said:,} bytes are there")
    return header
