"""The INT4 products of a layer of a 7B or 1.8B on a card: µs, share of the bandwidth of a copy, bf16 beside them."""

import argparse
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.inference.int4 import ROW_STEPS, Int4Linear, Kernels
from engine.tools import synthetic
from engine.tools.bench_engine import copy_bytes_a_second

ABOUT = "µs of the INT4 products of one layer on a card, beside bf16 by the library"
PLACES = ("qkv", "output", "gate_up", "down")
ROTATED_BYTES = 400_000_000  # of weights gone round for each matrix, so that no cache holds them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--synthetic", choices=["7b", "1.8b"], default="7b", help="whose shapes")
    parser.add_argument("--device", default="cuda:0")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise ConfigError("There is no CUDA card here, and these kernels are for one.")
    device, config = arguments.device, synthetic.SHAPES[arguments.synthetic]
    shapes = {place.rpartition(".")[2]: shape for place, shape in list(synthetic.matrices(config))[: len(PLACES)]}
    linears: dict[str, list[Int4Linear]] = {}
    for name, (outs, ins) in shapes.items():
        seeds = range(_copies(outs * ins // 2))
        linears[name] = [Int4Linear(synthetic.random_int4(outs, ins, device, seed)) for seed in seeds]
    for linear in linears["gate_up"]:
        linear.interleave()
    kernels = Kernels(device, torch.bfloat16)
    kernels.serve([linear for alike in linears.values() for linear in alike])
    copied = copy_bytes_a_second(device)
    floor = sum(alike[0].packed.nbytes + alike[0].scales.nbytes for alike in linears.values()) / copied * 1e6
    result: dict[str, Any] = {
        "shapes": arguments.synthetic,
        "copy_gb_a_second": round(copied / 1e9, 1),
        "floor_us": round(floor, 1),
        "rows": {},
    }
    for index, rows in enumerate(ROW_STEPS):
        each = {name: kernels.microseconds[alike[0].traits][index] for name, alike in linears.items()}
        total = sum(each.values())
        result["rows"][str(rows)] = {
            "us": {name: round(taken, 1) for name, taken in each.items()},
            "sum_us": round(total, 1),
            "share_of_copy": round(floor / total, 3),
            "kernels": {name: kernels.named(alike[0], rows) for name, alike in linears.items()},
            "bf16_us": round(sum(_library(shape, rows, device) for shape in shapes.values()), 1),
        }
    return result


def show(result: dict[str, Any]) -> str:
    lines = [f"floor of a layer at {result['copy_gb_a_second']} GB/s: {result['floor_us']} µs"]
    for rows, figures in result["rows"].items():
        each = ", ".join(f"{name} {taken}" for name, taken in figures["us"].items())
        lines.append(
            f"{rows} rows: {figures['sum_us']} µs ({each}), {figures['share_of_copy']:.0%} of a copy's bandwidth; "
            f"bf16 by the library {figures['bf16_us']} µs"
        )
    return "\n".join(lines)


def _library(shape: tuple[int, int], rows: int, device: str) -> float:
    """µs of a bf16 product by the library, in a graph, weights gone round likewise."""
    outs, ins = shape
    weights = [torch.randn(outs, ins, device=device, dtype=torch.bfloat16) for _ in range(_copies(outs * ins * 2))]
    x = torch.randn(rows, ins, device=device, dtype=torch.bfloat16)

    def work() -> list[Tensor]:
        return [x @ weight.T for weight in weights]

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times: list[float] = []
    for _ in range(5):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) * 1000 / len(weights))
    return min(times)


def _copies(matrix_bytes: int) -> int:
    return max(2, ROTATED_BYTES // matrix_bytes)
