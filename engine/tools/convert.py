"""A checkpoint in another precision, with all that belongs to it: fp32, bf16, fp16 (transformers reads them) or INT8.

    python -m engine.tools.convert IN OUT --precision int8

Reads whatever the engine reads, INT8 and GPTQ too, a whole model in fp32 at once: four bytes of memory a parameter.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from engine.errors import YiwenError
from engine.inference import checkpoint
from engine.tools.asked import amount

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
# Kept as they are. Weights, their index and config.json are written anew; a model card speaks of the old ones.
_COMPANIONS = ("tokenizer*", "generation_config.json", "special_tokens_map.json", "*.jinja", "LICENSE*")
# What config.json says of the weights' old form; the effective RoPE base is written in its place.
_FORM = {"quantization_config", "dtype", "torch_dtype", "rope_theta", "rope_scaling", "transformers_version"}


def convert(source: Path, target: Path, precision: str, shard_bytes: int = checkpoint.WHOLE_BYTES) -> dict[str, Any]:
    """Writes the folder `target` and returns the sizes. Raises `ModelNotFound`, `UnsupportedModel`."""
    config = checkpoint.read_config(source)
    model = checkpoint.load_model(source, config, torch.float32, "cpu")
    written = checkpoint.transformers_config(model.config).keys() | _FORM
    kept = {name: value for name, value in config.items() if name not in written}
    checkpoint.save_model(model, target, PRECISIONS[precision], kept, shard_bytes)
    copy_companions(source, target)
    return {
        "out": str(target),
        "precision": precision,
        "bytes_before": weight_bytes(source),
        "bytes_after": weight_bytes(target),
    }


def copy_companions(source: Path, target: Path) -> None:
    for pattern in _COMPANIONS:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint in another precision.")
    parser.add_argument("source", metavar="IN", type=Path, help="folder of a HunYuanDense checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write; it may not be IN")
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--shard-mb", type=amount, default=checkpoint.WHOLE_BYTES / 1e6, help="largest file, in MB")
    arguments = parser.parse_args()
    if arguments.source.resolve() == arguments.target.resolve():
        parser.error("OUT is IN: a conversion loses precision, so keep the original and name another folder.")
    try:
        sizes = convert(arguments.source, arguments.target, arguments.precision, int(arguments.shard_mb * 1e6))
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    before, after = sizes["bytes_before"] / 1e6, sizes["bytes_after"] / 1e6
    print(f"{before:.1f} MB → {after:.1f} MB", file=sys.stderr)
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
