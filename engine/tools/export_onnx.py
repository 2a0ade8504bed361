"""A checkpoint as a folder for ONNX Runtime: one graph for prompts and single tokens, over KV caches, and beside it all
that belongs to the model. `app.py --model OUT` serves it, and ONNX Runtime GenAI generates from it (genai_config.json);
whoever has ONNX Runtime alone finds in its README.md how.

    python -m engine.tools.export_onnx MODEL OUT --precision fp32
    python -m engine.tools.export_onnx MODEL OUT --precision int4 --group 32 --compute fp16

Matrices are kept, widened, or rounded to the nearest: INT8 by rows, INT4 by groups. What GPTQ made of a model is better
than the nearest, and is kept with --precision int4. With --compute fp16 the graph is for cards.

What is written is compared with torch before it takes its place: it reads a prompt in two parts and goes on by itself,
and torch, with the same weights in fp32, reads all of that at once. In fp32 no logit may be off by more than 0.001. In
INT8 and INT4 ONNX Runtime rounds activations too, so there the difference is only told.

The graph is stored as it is made. What ONNX Runtime makes of it when it is loaded, with all its optimisations, holds
for the one kind of processor, and takes it less than a second.
"""

import argparse
import errno
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from engine import prompts
from engine.errors import ConfigError, UnsupportedModel, YiwenError
from engine.files import why
from engine.inference import checkpoint, onnx_folder, weight_files
from engine.inference.held import HEAD_GROUP, Int4Held, embedding_and_head
from engine.inference.int8 import Int8Rows, float_weight
from engine.inference.kv_cache import PAGE_TOKENS, Table, pages_of
from engine.inference.loader import family_of
from engine.inference.model import HunYuanDense
from engine.inference.onnx_folder import Precision
from engine.inference.onnx_graph import IDS, KINDS, LOGITS, MASK, POSITIONS, TORCH_DTYPES, Compute, build
from engine.inference.onnx_runner import OnnxRunner, Session, runs_on_cards
from engine.inference.runner import Chunk
from engine.inference.tokenizer import ChatTokenizer
from engine.shape import ModelShape
from engine.tools import int4
from engine.tools.convert import FORM, companions, copy_companions, weight_bytes
from engine.tools.perplexity import attend_within

FP32_BOUND = 1e-3  # of a logit's difference to torch
GROUP = 32  # the finest: nothing but the nearest is looked for
STEPS = 8  # tokens that follow the prompt in the comparison
TEXT = "The committee has not yet decided whether the new bridge should be built next to the old one."
_STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_WRITTEN = (onnx_folder.GRAPH, onnx_folder.DATA, "config.json", "genai_config.json", "README.md")  # and companions
_SMALL_BYTES = 50_000_000  # graph, tokenizer and the like: more than they take
_README = """# {name} for ONNX Runtime

`model.onnx` is one graph, in {precision} and computing in {compute}, for prompts and for the tokens after them; its
weights are in `model.onnx.data`. Inputs, for S sequences of T tokens each, of which with these there are at most
`total`:

| input | | |
|---|---|---|
| `input_ids`, `position_ids` | int64 [S, T] | |
| `attention_mask` | int64 [S, total] | ones for all tokens of a sequence with these, then zeros |
| `past_key_values.L.key`, `.value` | {compute} [S, {kv_heads}, length, {head_dim}] | of layers 0 to {last} |

Beginnings come in side by side, then a token of each at a time; with several tokens after a past S is 1.

Outputs: `logits`, fp32 [S, 1, {vocab_size}], after the last token alone; `present.L.key`, `.value`, the past with these
tokens. Where the past is longer than `total`, the present may be bound to the same memory, and is written in place.

ONNX Runtime GenAI loads the folder as it is, and so does `python app.py --model` of Yiwen. With ONNX Runtime alone:

```python
import numpy as np, onnxruntime as ort

session = ort.InferenceSession("model.onnx")
kinds = ("key", "value")
past = {{f"past_key_values.{{layer}}.{{kind}}": np.zeros((1, {kv_heads}, 0, {head_dim}), np.{numpy})
        for layer in range({layers}) for kind in kinds}}
ids, said = PROMPT, []  # ids of the chat template around your text
while True:
    end = past["past_key_values.0.key"].shape[2] + len(ids)
    feeds = {{"input_ids": [ids], "position_ids": [range(end - len(ids), end)], "attention_mask": [[1] * end]}}
    logits, *present = session.run(None, past | {{name: np.array(values) for name, values in feeds.items()}})
    past, ids = dict(zip(past, present)), [int(logits.argmax())]
    if ids[0] in ENDS:  # eos_token_id of generation_config.json
        break
    said += ids
```
"""


def export(
    source: Path, target: Path, precision: Precision, compute: Compute = "fp32", group: int | None = None
) -> dict[str, Any]:
    """Writes the folder `target`, whole or not at all, and returns sizes and how it compares with torch.

    Raises `ModelNotFound`, `UnsupportedModel`, and `ConfigError` for what does not go together, and for a full disk.
    """
    began = time.perf_counter()
    config = checkpoint.read_config(source)
    _check_target(source, target)
    with _alone(target):
        model = rounded(source, config, precision, group)
        graph = build(model, compute)
        with _written_whole(target, graph.nbytes + _SMALL_BYTES) as folder:
            copy_companions(source, folder)
            _write_json(folder / "config.json", _config(config, model, compute))
            _write_json(folder / "genai_config.json", _genai_config(source, config, model))
            (folder / "README.md").write_text(_readme(config, model, precision, compute), encoding="utf-8")
            with tqdm(total=graph.nbytes, unit="B", unit_scale=True, desc="writing", file=sys.stderr) as bar:
                onnx_folder.write(
                    graph, folder, precision, compute, lambda share: bar.update(int(share * graph.nbytes) - bar.n)
                )
            difference = compare(model, folder)
            _check_difference(difference, precision)
    return {
        "out": str(target),
        "precision": precision,
        "compute": compute,
        "bytes_before": weight_bytes(source),
        "bytes_after": sum(path.stat().st_size for path in target.glob(f"{onnx_folder.GRAPH}*")),
        "difference": difference,
        "seconds": round(time.perf_counter() - began, 1),
    }


def rounded(source: Path, config: dict[str, Any], precision: Precision, group: int | None = None) -> HunYuanDense:
    """The model as the graph shall have it."""
    stored = ModelShape.read(config).stored
    if group is not None and precision != "int4":
        raise ConfigError("--group goes with --precision int4; leave it out.")
    if group is not None and stored == "gptq-int4":
        raise ConfigError("This model is in INT4 already, in groups of its own; leave --group out.")
    if precision == "int8" and stored == "gptq-int4":
        raise ConfigError(
            "This model is stored in INT4, and in INT8 it would take twice the memory and be no better; use "
            "--precision int4, which keeps it, or fp32."
        )
    dtype = _STORED.get(stored, torch.float32)
    if precision in ("fp32", "fp16"):
        return checkpoint.load_model(source, config, dtype, "cpu")
    if precision == "int8":
        return checkpoint.load_model(source, config, dtype, "cpu", int8=Int8Rows, rounded=True)
    if stored == "gptq-int4":
        return checkpoint.load_model(source, config, dtype, "cpu", Int4Held, Int8Rows)
    model = checkpoint.load_model(source, config, dtype, "cpu")
    _round_to_int4(model, group or GROUP)
    return model


def _round_to_int4(model: HunYuanDense, group: int) -> None:
    int4.check_groups(model.config, group)
    if model.config.hidden_size % HEAD_GROUP:
        raise ConfigError(
            f"The head is rounded in groups of {HEAD_GROUP}, which cannot be of {model.config.hidden_size} inputs; "
            "use --precision int8."
        )
    for layer in model.layers:
        for name, module in layer.named_children():
            if isinstance(module, nn.Linear):
                setattr(layer, name, Int4Held(int4.round_symmetric(float_weight(module).float(), group)))


# ---------------------------------------------------------------------------------------------------------------------
# what is written


def _check_target(source: Path, target: Path) -> None:
    if target.resolve() == source.resolve():
        raise ConfigError("OUT is MODEL: a graph takes the place of no checkpoint; name another folder.")
    if not target.exists():
        return
    found = set(target.iterdir()) if target.is_dir() else {target}
    if others := sorted(path.name for path in found - {target / name for name in _WRITTEN} - {*companions(target)}):
        raise ConfigError(
            f"{str(target)!r} is there already and holds more than a graph of ours ({others[0]}); name another folder."
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(weight_files.alone(target.resolve(), beside=True))
        except OSError as error:
            raise _not_written(target, error) from error
        yield


@contextmanager
def _written_whole(target: Path, needed: int) -> Iterator[Path]:
    """A folder that takes the place of `target` at the end, unless something goes wrong."""
    target = target.resolve()  # "." has no name
    passing, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    try:
        if old.exists() and not target.exists():  # one was killed between two names
            old.rename(target)
        for left in (passing, old):
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(passing.parent).free
        if free < needed:
            raise _no_room(target, needed, free)
        passing.mkdir()
        yield passing
        if target.exists():
            target.rename(old)
        passing.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(passing, ignore_errors=True)  # a full disk gets its room back
        if old.exists() and not target.exists():
            old.rename(target)
        if not isinstance(error, OSError):
            raise
        if error.errno in _NO_ROOM:
            raise _no_room(target, needed, shutil.disk_usage(target.parent).free) from error
        raise _not_written(target, error) from error


def _not_written(target: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{str(target)!r} cannot be written ({why(error)}); name another folder.")


def _no_room(target: Path, needed: int, free: int) -> ConfigError:
    return ConfigError(
        f"{str(target)!r} takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free on its disk; make room, or "
        "name a folder elsewhere. What was there before is unchanged."
    )


def _config(config: dict[str, Any], model: HunYuanDense, compute: Compute) -> dict[str, Any]:
    """As the checkpoint has it, without what it says of the form of its weights."""
    kept = {name: value for name, value in config.items() if name not in FORM}
    dtype = str(TORCH_DTYPES[compute]).removeprefix("torch.")
    return {**kept, **checkpoint.transformers_config(model.config), "dtype": dtype}


def _genai_config(source: Path, config: dict[str, Any], model: HunYuanDense) -> dict[str, Any]:
    """What ONNX Runtime GenAI asks for; its "llama" is any decoder with a cache of keys and values."""
    ours = model.config
    path = source / "generation_config.json"
    declared = checkpoint.read_json(path) if path.exists() else {}
    ends = declared.get("eos_token_id", config.get("eos_token_id"))
    first = next(iter(ends), None) if isinstance(ends, list) else ends
    tokens = {"bos_token_id": config.get("bos_token_id", first), "pad_token_id": config.get("pad_token_id", first)}
    search = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
    names = {
        "inputs": {IDS: IDS, MASK: MASK, POSITIONS: POSITIONS},
        "outputs": {LOGITS: LOGITS},
    }
    for kind in KINDS:
        names["inputs"][f"past_{kind}_names"] = f"past_key_values.%d.{kind}"
        names["outputs"][f"present_{kind}_names"] = f"present.%d.{kind}"
    decoder = {
        "filename": onnx_folder.GRAPH,
        "head_size": ours.head_dim,
        "hidden_size": ours.hidden_size,
        "num_attention_heads": ours.heads,
        "num_key_value_heads": ours.kv_heads,
        "num_hidden_layers": ours.layers,
        "session_options": {"provider_options": []},
    }
    described = {"type": "llama", "context_length": ours.max_positions, "vocab_size": ours.vocab_size}
    return {
        "model": described | {"decoder": decoder | names, "eos_token_id": ends} | tokens,
        "search": {name: declared[name] for name in search if name in declared}
        | {"max_length": ours.max_positions, "past_present_share_buffer": True},
    }


def _readme(config: dict[str, Any], model: HunYuanDense, precision: Precision, compute: Compute) -> str:
    ours = model.config
    return _README.format(
        name=(config.get("yiwen") or {}).get("name") or "A model",
        precision=precision.upper(),
        compute=compute,
        numpy=str(TORCH_DTYPES[compute]).removeprefix("torch."),
        layers=ours.layers,
        last=ours.layers - 1,
        kv_heads=ours.kv_heads,
        head_dim=ours.head_dim,
        vocab_size=ours.vocab_size,
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# what is compared


@torch.inference_mode()
def compare(model: HunYuanDense, folder: Path) -> dict[str, Any]:
    """The logits of the graph in `folder` against those of torch with the weights of `model`, widened."""
    exported = onnx_folder.read(folder)
    device = "cuda:0" if exported.compute == "fp16" and runs_on_cards() and torch.cuda.is_available() else "cpu"
    family = family_of(folder.name, dict(exported.config))
    prompt = ChatTokenizer(folder).prompt(prompts.plain(family, "en", "fr", TEXT))
    length = PAGE_TOKENS * pages_of(len(prompt) + STEPS)
    runner = OnnxRunner(Session.of_file(exported.graph, exported.nbytes, device), 1, length)
    half = len(prompt) // 2
    first = runner.scores_after(Chunk(0, prompt[:half], _table(0), False))
    found, ids = [first, runner.scores_after(Chunk(0, prompt[half:], _table(half), True))], list(prompt)
    for _ in tqdm(range(STEPS), unit="token", desc="comparing", file=sys.stderr):
        ids.append(int(found[-1].argmax()))
        found.append(runner.scores_of_next(ids[-1:], [0], [_table(len(ids) - 1)]))
    ours = torch.cat(found)
    true = _reference_scores(model, ids)[[half - 1, *range(len(prompt) - 1, len(ids))]]
    off = (ours - true).abs()
    return {
        "device": device,
        "tokens": len(ids),
        "steps": STEPS,
        "max": _figure(off.max()),
        "mean": _figure(off.mean()),
        "deviation_of_logits": _figure(true.std()),
        "same_best": round(float((ours.argmax(1) == true.argmax(1)).float().mean()), 3),
    }


def _check_difference(difference: dict[str, Any], precision: Precision) -> None:
    if not difference["max"] < (FP32_BOUND if precision == "fp32" else float("inf")):  # so that NaN is told too
        raise UnsupportedModel(
            f"The graph's logits are off by {difference['max']} from torch's with the same weights, and "
            f"{FP32_BOUND} is the most in fp32; nothing has been written. With --compute fp16 it is too large for fp16."
        )


def _table(length: int) -> Table:
    return Table([], length, length)


def _figure(value: Tensor) -> float:
    return float(f"{float(value):.3g}")


class _Widened(nn.Module):
    """Multiplies in fp32 by what `held` has, of which one matrix at a time is widened."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        held = self.held
        return F.linear(x, held.held.dequantize() if isinstance(held, Int4Held) else float_weight(held).float())


class _WidenedRows(nn.Module):
    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, ids: Tensor) -> Tensor:
        if isinstance(self.held, Int8Rows):
            return self.held.weight[ids].float() * self.held.scale[ids][..., None]
        return float_weight(self.held)[ids].float()


def _reference_scores(model: HunYuanDense, ids: list[int]) -> Tensor:
    """After each of the ids: [tokens, vocab_size]"""
    with torch.device("meta"):
        wide: Any = HunYuanDense(replace(model.config, tied_head=False))
    embedding, head = embedding_and_head(model)
    wide.embedding, wide.head, wide.norm = _WidenedRows(embedding), _Widened(head), model.norm
    for ours, theirs in zip(wide.layers, model.layers, strict=True):
        for name, module in theirs.named_children():
            setattr(ours, name, module if name.endswith("norm") else _Widened(module))
    wide.reset_rotation()
    scores: Tensor = wide.logits(wide(torch.tensor([ids]), torch.arange(len(ids))[None], attend_within([len(ids)])))
    return scores[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint as a graph for ONNX Runtime.")
    parser.add_argument("source", metavar="MODEL", type=Path, help="folder of a HunYuanDense checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write; an earlier graph there is replaced")
    parser.add_argument("--precision", choices=get_args(Precision), required=True, help="of the weights")
    parser.add_argument("--compute", choices=get_args(Compute), help="fp16 is for cards; default fp32, for the CPU")
    groups = [each for each in int4.GROUPS if each > 0]
    parser.add_argument(
        "--group", type=int, choices=groups, help=f"weights that share a scale in INT4; default {GROUP}"
    )
    arguments = parser.parse_args()
    compute: Compute = arguments.compute or ("fp16" if arguments.precision == "fp16" else "fp32")
    if (arguments.precision, compute) in (("fp32", "fp16"), ("fp16", "fp32")):
        parser.error(f"--precision {arguments.precision} computes in {arguments.precision}; leave --compute out.")
    try:
        result = export(arguments.source, arguments.target, arguments.precision, compute, arguments.group)
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    print(f"{result['bytes_before'] / 1e6:.1f} MB → {result['bytes_after'] / 1e6:.1f} MB", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
