"""A checkpoint in another precision, with all that belongs to it: fp32, bf16, fp16 (transformers reads them) or INT8.

    python -m engine.tools.convert IN OUT --precision bf16
    python -m engine.tools.convert IN OUT --precision int8 --lora ADAPTER --shard-mb 2000

Reads whatever the engine reads, INT8 and GPTQ too, a matrix at a time: of memory it takes what the largest needs a few
times over (2.4 GB for the 1.8B's shape, most of it the embedding, where both together have 5.4). A LoRA adapter in
PEFT's layout is added to the weights in fp32 on the way. Values that fp16 cannot hold are named, and nothing is
written. OUT is written whole or not at all; after a kill the same command goes on after the last file that is whole.
Then both are loaded, and what they say is compared.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.errors import ConfigError, YiwenError
from engine.inference import checkpoint, weight_files
from engine.shape import ModelShape
from engine.tools.adapter import Adapter
from engine.tools.asked import amount

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
# Kept as they are. Weights, their index and config.json are written anew; a model card speaks of the old ones.
_COMPANIONS = (
    *("tokenizer*", "generation_config.json", "special_tokens_map.json", "*.jinja"),
    *("LICENSE*", "License*", "NOTICE*"),  # HY-MT's own is License.txt
)
# What config.json says of the weights' old form; the effective RoPE base is written in its place.
FORM = {"quantization_config", "dtype", "torch_dtype", "rope_theta", "rope_scaling", "transformers_version"}
_FP16 = torch.finfo(torch.float16)
# Values at once: these are in the processor's cache, and for more torch asks threads, which takes longer
_LOOKED_AT = 1 << 15
_NAMED = 5  # tensors in a sentence
_WORST = 3  # tensors whose small values are told


def convert(
    source: Path,
    target: Path,
    precision: str,
    shard_bytes: int = checkpoint.WHOLE_BYTES,
    lora: Path | None = None,
) -> dict[str, Any]:
    """Writes the folder `target` and returns sizes and seconds, and of fp16 what became of small values.

    Raises `ModelNotFound`, `UnsupportedModel`, and `ConfigError` for values beyond fp16 and for a full disk.
    """
    config = checkpoint.read_config(source)
    ModelShape.read(config, source)
    model = checkpoint.model_config(config)
    shapes = checkpoint.shapes_of(model)
    weights = checkpoint.Weights(source, config)
    adapter = Adapter.read(lora, shapes) if lora else None
    ranges = _Ranges()

    def weight_of(name: str, shape: torch.Size) -> Tensor:
        weight = weights.wide(name, shape, torch.float32)
        if adapter:
            weight = adapter.merged(name, weight)
        if precision == "fp16":
            ranges.look(name, weight)
        return weight

    dtype = PRECISIONS[precision]
    pieces = [
        checkpoint.piece(f"{name}.weight", shape, dtype, partial(weight_of, name, shape))
        for name, shape in shapes.items()
    ]
    written = checkpoint.transformers_config(model).keys() | FORM
    kept = {name: value for name, value in config.items() if name not in written}
    whole = sum(form.nbytes for piece in pieces for form in piece.forms.values())
    began = time.monotonic()
    with tqdm(total=whole, unit="B", unit_scale=True, desc=f"writing {precision}") as bar:
        try:
            weight_files.write(
                pieces,
                checkpoint.described(model, dtype, kept),
                target,
                shard_bytes,
                companions(source),
                {"precision": precision, "shard_bytes": shard_bytes, "read": state(source), "lora": state(lora)},
                bar.update,
            )
        except _Overflow:
            for name in tqdm(shapes.keys() - ranges.seen.keys(), unit="tensor", desc="looking for others"):
                with suppress(_Overflow):
                    weight_of(name, shapes[name])
            raise ConfigError(ranges.refusal()) from None
    result = {
        "out": str(target),
        "precision": precision,
        "bytes_before": weight_bytes(source),
        "bytes_after": weight_bytes(target),
        "files": len(list(target.glob("*.safetensors"))),
        "seconds": round(time.monotonic() - began, 1),
    }
    if adapter:
        result["merged"] = {"adapter": str(lora), "matrices": adapter.matrices}
    if precision == "fp16":
        for name in shapes.keys() - ranges.seen.keys():  # of files that were written before a kill
            weight_of(name, shapes[name])
        result["fp16"] = ranges.told()
    return result


class _Overflow(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Range:
    """Of one tensor, in fp16."""

    values: int
    largest: float
    beyond: int  # infinite in fp16
    lost: int  # zero there, and not before
    subnormal: int  # below 2⁻¹⁴, where precision dwindles


@dataclass(frozen=True, slots=True)
class _Ranges:
    seen: dict[str, _Range] = field(default_factory=dict)

    def look(self, name: str, weight: Tensor) -> None:
        """Raises `_Overflow`."""
        largest, beyond, lost, subnormal = 0.0, 0, 0, 0
        for block in torch.split(weight.flatten(), _LOOKED_AT):
            narrow = block.half()
            top = max(map(abs, map(float, block.aminmax())))
            largest = max(largest, top)
            beyond += int(narrow.isinf().sum()) if top > _FP16.max else 0
            kept = int(narrow.count_nonzero())
            lost += int(block.count_nonzero()) - kept
            subnormal += int((narrow.abs() < _FP16.tiny).count_nonzero()) - (len(block) - kept)
        self.seen[name] = _Range(weight.numel(), largest, beyond, lost, subnormal)
        if beyond:
            raise _Overflow

    def refusal(self) -> str:
        beyond = {name: found for name, found in self.seen.items() if found.beyond}
        worst = sorted(beyond, key=lambda name: -beyond[name].beyond)
        named = ", ".join(
            f"{name} ({beyond[name].beyond:,} of {beyond[name].values:,}, the largest {beyond[name].largest:.6g})"
            for name in worst[:_NAMED]
        )
        more = f" and {len(worst) - _NAMED} more tensors" if len(worst) > _NAMED else ""
        return f"fp16 ends at 65,504, and values of {named}{more} are beyond it; write bf16 instead (--precision bf16)."

    def told(self) -> dict[str, Any]:
        values = sum(found.values for found in self.seen.values())
        worst = sorted(
            self.seen, key=lambda name: -(self.seen[name].lost + self.seen[name].subnormal) / self.seen[name].values
        )
        return {
            "largest": max(found.largest for found in self.seen.values()),
            "underflow_share": sum(found.lost for found in self.seen.values()) / values,
            "subnormal_share": sum(found.subnormal for found in self.seen.values()) / values,
            "worst": [  # of small values
                {
                    "tensor": name,
                    "underflow_share": self.seen[name].lost / self.seen[name].values,
                    "subnormal_share": self.seen[name].subnormal / self.seen[name].values,
                }
                for name in worst[:_WORST]
                if self.seen[name].lost + self.seen[name].subnormal
            ],
        }


def copy_companions(source: Path, target: Path) -> None:
    for path in companions(source):
        shutil.copyfile(path, target / path.name)


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def companions(folder: Path) -> Iterator[Path]:
    return (path for pattern in _COMPANIONS for path in sorted(folder.glob(pattern)) if path.is_file())


def state(folder: Path | None) -> dict[str, list[int]]:
    """By which a folder's weights are known to be the same as before."""
    files = [*folder.glob("*.json"), *folder.glob("*.safetensors")] if folder else []
    return {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)}


def _say(result: dict[str, Any]) -> None:
    before, after = result["bytes_before"] / 1e6, result["bytes_after"] / 1e6
    print(f"{before:,.1f} MB → {after:,.1f} MB in {result['seconds']} s", file=sys.stderr)
    if "fp16" in result:
        print("weights below fp16's normal range, and lost to zero:", file=sys.stderr)
        for found in [{"tensor": "all", **result["fp16"]}, *result["fp16"]["worst"]]:
            shares = f"{found['subnormal_share']:8.3%} {found['underflow_share']:8.3%}"
            print(f"{shares}  {found['tensor']}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint in another precision.")
    parser.add_argument("source", metavar="IN", type=Path, help="folder of a HunYuanDense checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write; it may not be IN")
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument(
        "--lora", metavar="ADAPTER", type=Path, help="folder of a LoRA adapter (PEFT) to add to the weights"
    )
    parser.add_argument("--shard-mb", type=amount, default=checkpoint.WHOLE_BYTES / 1e6, help="largest file, in MB")
    parser.add_argument("--no-compare", action="store_true", help="do not load both and compare what they say")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    if source.resolve() == target.resolve():
        parser.error("OUT is IN: a conversion loses precision, so keep the original and name another folder.")
    try:
        try:
            result = convert(source, target, arguments.precision, int(arguments.shard_mb * 1e6), arguments.lora)
        except KeyboardInterrupt:
            raise SystemExit("Stopped; the same command goes on after the last file that is whole.") from None
        _say(result)
        if not arguments.no_compare:
            from engine.tools import comparison  # here: it takes the whole engine, and `quantize` takes this file

            result |= comparison.compare(source, target)
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
