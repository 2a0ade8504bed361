"""Random weights of HY-MT's true shapes, for measuring without a checkpoint. What such a model says means nothing.

    python -m engine.tools.synthetic 7b OUT --precision bf16 --tokenizer assets/models/yiwen-mini

Matrices are made one at a time where they are wanted, always the same for one seed, so the same weights can be written
as a GPTQ checkpoint for other engines. Knows no kernel: what holds a matrix is handed in.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn

from engine.errors import YiwenError
from engine.inference.checkpoint import LAYER_NAMES, MakeLinear, save_model, transformers_config
from engine.inference.gptq import Int4Weight
from engine.inference.model import HunYuanDense, ModelConfig, effective_rope_base
from engine.tools import convert, int4
from engine.tools.asked import amount

GROUP = 128  # inputs a scale, as in Tencent's GPTQ checkpoints
_VALUE_DEVIATION = 4.32  # standard deviation of whole numbers evenly spread over 1…15, so that weights have no bias


def _shape(vocab_size: int, hidden_size: int, intermediate_size: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        layers=32,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        rope_base=effective_rope_base(10_000, 1_000, 128),
        rms_norm_eps=1e-5,
        max_positions=8_192,
        tied_head=True,
    )


SHAPES = {
    "7b": _shape(128_167, 4_096, 14_336, 32, 8),  # Hy-MT2-7B's config.json; HY-MT1.5-7B is taken to be the same
    "1.8b": _shape(120_818, 2_048, 6_144, 16, 4),  # HY-MT1.5-1.8B's config.json
    # for tests
    "tiny": ModelConfig(512, 128, 256, 2, 4, 2, 32, 10_000.0, 1e-5, 512, True),
}

_NAMES = {"embedding": ("model.embed_tokens",), "norm": ("model.norm",)} | LAYER_NAMES  # ours → transformers'


def widened(dtype: torch.dtype) -> MakeLinear:
    """Plain matrices in `dtype`, where there is no INT4 kernel."""

    def linear(weight: Int4Weight) -> nn.Module:
        rows, columns = weight.values.shape
        module = nn.Linear(columns, rows, bias=False, device="meta")
        module.weight = nn.Parameter(weight.dequantize().to(dtype), requires_grad=False)
        return module

    return linear


def build(config: ModelConfig, device: str, dtype: torch.dtype, linear: MakeLinear, seed: int = 0) -> HunYuanDense:
    """The model on `device`, in evaluation mode. Embedding and norms are in `dtype`; of the layers' matrices `linear`
    takes one after the other, so that no two are held in their neutral form at once."""
    with torch.device("meta"):
        model = HunYuanDense(config)
    for place, (rows, columns) in matrices(config):
        parent, _, name = place.rpartition(".")
        setattr(model.get_submodule(parent), name, linear(random_int4(rows, columns, device, _seed(seed, place))))
    for place, tensor in vectors(config, device, seed):
        model.get_submodule(place).weight = nn.Parameter(tensor.to(dtype), requires_grad=False)
    model.reset_rotation()
    return model.to(device).eval()


def matrices(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """(place in the model, (outputs, inputs)) of each INT4 matrix, fused as the model has them."""
    wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
    for layer in range(config.layers):
        yield f"layers.{layer}.qkv", (wide + 2 * narrow, config.hidden_size)
        yield f"layers.{layer}.output", (config.hidden_size, wide)
        yield f"layers.{layer}.gate_up", (2 * config.intermediate_size, config.hidden_size)
        yield f"layers.{layer}.down", (config.hidden_size, config.intermediate_size)


def vectors(config: ModelConfig, device: str, seed: int) -> Iterator[tuple[str, Tensor]]:
    """(place in the model, weight in bf16) of the embedding and of each norm."""
    dice = torch.Generator(device).manual_seed(_seed(seed, "embedding"))
    embedding = torch.randn(config.vocab_size, config.hidden_size, generator=dice, device=device, dtype=torch.bfloat16)
    yield "embedding", embedding.mul_(config.hidden_size**-0.5)
    sizes = {"input_norm": config.hidden_size, "mlp_norm": config.hidden_size}
    sizes |= {"query_norm": config.head_dim, "key_norm": config.head_dim}
    places = [(f"layers.{layer}.{name}", size) for layer in range(config.layers) for name, size in sizes.items()]
    for place, size in [*places, ("norm", config.hidden_size)]:
        dice.manual_seed(_seed(seed, place))
        yield place, (0.5 + torch.rand(size, generator=dice, device=device)).bfloat16()


def random_int4(rows: int, columns: int, device: str, seed: int) -> Int4Weight:
    """A matrix [rows, columns] that keeps the size of what it multiplies: its deviation is about columns^-½."""
    dice = torch.Generator(device).manual_seed(seed)
    values = torch.randint(1, 16, (rows, columns), dtype=torch.uint8, generator=dice, device=device)
    spread = 0.5 + torch.rand(rows, columns // GROUP, generator=dice, device=device)
    scales = (spread * columns**-0.5 / _VALUE_DEVIATION).to(torch.float16)
    zeros = torch.full((rows, columns // GROUP), int4.ZERO, dtype=torch.uint8, device=device)
    return Int4Weight(values, scales, zeros, None, GROUP)


def write_checkpoint(config: ModelConfig, folder: Path, device: str, seed: int = 0) -> None:
    """The same weights as a GPTQ v1 checkpoint for other engines; without a tokenizer."""
    tensors: dict[str, Tensor] = {}
    for place, tensor in vectors(config, device, seed):
        (stem,) = _stored(place)
        tensors[f"{stem}.weight"] = tensor.cpu()
    for place, (rows, columns) in matrices(config):
        weight = random_int4(rows, columns, device, _seed(seed, place))
        stems = _stored(place)
        heads = [config.heads * config.head_dim] + 2 * [config.kv_heads * config.head_dim]
        counts = heads if len(stems) == 3 else len(stems) * [rows // len(stems)]
        split = (torch.split(each, counts) for each in (weight.values, weight.scales, weight.zeros))
        for stem, values, scales, zeros in zip(stems, *split, strict=True):
            packed = int4.pack(Int4Weight(values, scales, zeros, None, GROUP))
            tensors |= {f"{stem}.{kind}": part.cpu() for kind, part in packed.items()}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    described = transformers_config(config) | ends | {"dtype": "bfloat16"}
    int4.write(tensors, described, int4.settings_of(GROUP), folder, int8_embedding=False)


def _stored(place: str) -> list[str]:
    """Names in a checkpoint of the parts of what stands at a place of the model."""
    if place in _NAMES:
        return list(_NAMES[place])
    _, layer, name = place.split(".")
    return [f"model.layers.{layer}.{part}" for part in _NAMES[name]]


def _seed(seed: int, place: str) -> int:
    """One for each place, the same in every process."""
    return crc32(f"{seed} {place}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights in one of HY-MT's shapes.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--precision", choices=("bf16", "fp32", "int4"), default="bf16")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder whose tokenizer it gets")
    parser.add_argument("--shard-mb", type=amount, default=5_000.0, help="largest file, in MB")
    arguments = parser.parse_args()
    config, device = SHAPES[arguments.shape], "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if arguments.precision == "int4":
            write_checkpoint(config, arguments.out, device)
        else:
            dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision]
            model = build(config, device, dtype, widened(dtype))
            ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
            save_model(model, arguments.out, dtype, ends, int(arguments.shard_mb * 1e6))
        convert.copy_companions(arguments.tokenizer, arguments.out)
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    print(json.dumps({"out": str(arguments.out), "bytes": convert.weight_bytes(arguments.out)}))


if __name__ == "__main__":
    main()
