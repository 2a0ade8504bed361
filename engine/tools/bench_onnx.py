"""ONNX Runtime beside torch on the CPU at the same precision: the same weights, prompts and steps, in turns.

INT8 is dynamic for both: weights rounded once, by rows, activations as they come. Torch's is `quantize_dynamic`.
"""

import argparse
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from engine import inventory
from engine.backends.select import EMBEDDED, EMBEDDED_FOLDER
from engine.inference.checkpoint import load_model, read_config
from engine.inference.int8 import Int8Rows, float_weight, quantize_rows
from engine.inference.kv_cache import PAGE_TOKENS, Pages, pages_of
from engine.inference.model import HunYuanDense
from engine.inference.onnx_graph import build
from engine.inference.onnx_runner import OnnxRunner, Session
from engine.inference.runner import Chunk, Runner, TorchRunner
from engine.inference.sampler import GREEDY
from engine.tools.asked import count

ABOUT = "ONNX Runtime beside torch on the CPU, FP32 and dynamic INT8"
TORCH, ONNX = "torch", "onnxruntime"
STREAMS = (1, 8)
REST_SECONDS = 0.2  # between two runs, so that the threads of one are asleep when the other begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=EMBEDDED, help=f"{EMBEDDED}, or a folder; widened to fp32 and rounded anew")
    parser.add_argument("--prompt-tokens", type=count, default=64)
    parser.add_argument("--new-tokens", type=count, default=32)
    parser.add_argument(
        "--threads",
        type=count,
        help="default: as many as there are cores; with 1 its processor time counts, whatever else the machine does",
    )
    parser.add_argument("--repeat", type=count, default=9, help="rounds; the figures are medians")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for a model that cannot be had."""
    folder = EMBEDDED_FOLDER if arguments.model == EMBEDDED else Path(arguments.model)
    threads = arguments.threads or inventory.survey("cpu").cores
    clock = time.perf_counter if threads > 1 else time.thread_time
    torch.set_num_threads(threads)
    vocabulary = read_config(folder)["vocab_size"]
    pages = pages_of(arguments.prompt_tokens + arguments.new_tokens)
    result: dict[str, Any] = {
        "model": folder.name,
        "prompt_tokens": arguments.prompt_tokens,
        "new_tokens": arguments.new_tokens,
        "threads": threads,
    }
    for precision, (of_torch, of_onnx) in PRECISIONS.items():
        slots = max(STREAMS)
        runners: dict[str, Runner] = {
            TORCH: TorchRunner(of_torch(_wide(folder)), slots, slots * pages),
            ONNX: OnnxRunner(Session.of(build(of_onnx(_wide(folder))), threads=threads), slots, pages * PAGE_TOKENS),
        }
        result[precision] = compared(runners, arguments, vocabulary, precision, clock)
    return result


def _wide(folder: Path) -> HunYuanDense:
    return load_model(folder, read_config(folder), torch.float32, "cpu")


def _as_it_is(model: HunYuanDense) -> HunYuanDense:
    return model


def _dynamic(model: HunYuanDense) -> HunYuanDense:
    """As torch does it by itself, with the head among the linear layers."""
    if model.head is None:
        rows, columns = model.embedding.weight.shape
        model.head = nn.Linear(columns, rows, bias=False, device="meta")
        model.head.weight = model.embedding.weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to be another package's
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    return model


def _rows(model: HunYuanDense) -> HunYuanDense:
    for place, module in [*model.named_modules()]:
        if isinstance(module, nn.Linear | nn.Embedding):
            parent, _, name = place.rpartition(".")
            setattr(model.get_submodule(parent), name, Int8Rows(*quantize_rows(float_weight(module))))
    return model


Clock = Callable[[], float]
Prepare = Callable[[HunYuanDense], HunYuanDense]
PRECISIONS: dict[str, tuple[Prepare, Prepare]] = {"fp32": (_as_it_is, _as_it_is), "int8": (_dynamic, _rows)}


def compared(
    runners: dict[str, Runner], arguments: argparse.Namespace, vocabulary: int, precision: str, clock: Clock
) -> dict[str, Any]:
    """Milliseconds of a prompt, tokens a second of one stream and of several; how many times torch's speed ours is."""
    dice = random.Random(1)
    speeds: dict[str, dict[str, list[float]]] = {}
    for number in tqdm(range(1 + arguments.repeat), unit="round", desc=precision):
        for streams in STREAMS:
            prompts = [dice.choices(range(vocabulary), k=arguments.prompt_tokens) for _ in range(streams)]
            for name, runner in runners.items():
                time.sleep(REST_SECONDS)
                prompt_seconds, step_seconds = timed(runner, prompts, arguments.new_tokens, clock)
                if not number:  # warm
                    continue
                found = {f"streams_{streams}": streams / step_seconds}
                if streams == 1:
                    found["prompt"] = 1 / prompt_seconds
                for label, speed in found.items():
                    speeds.setdefault(label, {}).setdefault(name, []).append(speed)
    return {label: _figures(label, sides) for label, sides in sorted(speeds.items())}


def timed(runner: Runner, prompts: list[list[int]], new_tokens: int, clock: Clock) -> tuple[float, float]:
    """(seconds of the first prompt, seconds of a step for all)"""
    pages = Pages(runner.pages, share=False)
    tables = []
    began = clock()
    seconds = 0.0
    for slot, ids in enumerate(prompts):
        table = pages.open(ids)
        assert table is not None
        tables.append(table)
        runner.begin(slot, GREEDY, ids, 0)
        runner.step([Chunk(slot, ids, table, True)], [], []).tokens()
        pages.advance(table, len(ids))
        seconds = seconds or clock() - began
    slots = list(range(len(prompts)))
    began = clock()
    for _ in range(new_tokens):
        for table in tables:
            pages.grow(table, 1)
        runner.step([], slots, tables).tokens()
        for table in tables:
            pages.advance(table, 1)
    return seconds, (clock() - began) / new_tokens


def _figures(label: str, sides: dict[str, list[float]]) -> dict[str, float]:
    ratio = median(ours / theirs for ours, theirs in zip(sides[ONNX], sides[TORCH], strict=True))
    if label == "prompt":
        shown = {f"{name}_ms": round(1000 / median(values), 2) for name, values in sides.items()}
    else:
        shown = {f"{name}_tokens_a_second": round(median(values), 1) for name, values in sides.items()}
    return shown | {"ratio": round(ratio, 2)}


def show(result: dict[str, Any]) -> str:
    lines = [f"{result['model']}, {result['threads']} threads, prompts of {result['prompt_tokens']} tokens"]
    for precision in PRECISIONS:
        for label, figures in result[precision].items():
            sides = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if name != "ratio")
            lines.append(f"{precision}, {label}: {sides}; ONNX Runtime is {figures['ratio']} × torch")
    return "\n".join(lines)
