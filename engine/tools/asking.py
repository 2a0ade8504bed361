"""What evaluations share: which model is asked, many questions at once, shares."""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.backends.base import Backend
from engine.backends.select import select
from engine.config import Config
from engine.types import Sampling

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument("--backend", default="local", help="local, or echo to try the tool itself")
    parser.add_argument("--langs", help="such as zh,ja (default: all of the model that have tests)")
    parser.add_argument("--device", default="auto", help="auto, cpu, or cuda:0")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16, int8 or int4")
    parser.add_argument("--kv-dtype", default="auto", help="auto, bf16 or fp8: what the KV cache costs in quality")
    parser.add_argument(
        "--kv-window", default="off", help="tokens kept beside the first: what a window costs in quality"
    )
    parser.add_argument("--concurrent", default="auto", help="prompts in one batch; 512 suits a large card")
    parser.add_argument("--out", type=Path, help="file for every question and answer, JSON lines")


def backend_of(arguments: argparse.Namespace) -> Backend:
    """Raises `YiwenError` for a model that cannot be had."""
    chosen = [f"--model={arguments.model}", f"--backend={arguments.backend}", f"--devices={arguments.device}"]
    chosen += [f"--precision={arguments.precision}", f"--max-concurrent={arguments.concurrent}"]
    chosen += [f"--kv-dtype={arguments.kv_dtype}", f"--kv-window={arguments.kv_window}"]
    return select(Config.load(chosen, {}))


def model_of(backend: Backend) -> dict[str, str]:
    """What a result says of the model."""
    info = backend.info
    return {"model": info.name, "precision": info.precision, "device": info.device}


async def answers_to(
    ask: Callable[[Question], Awaitable[Answer]],
    questions: Sequence[Question],
    concurrent: int,
    size: Callable[[Question], int],
) -> list[Answer]:
    """Answers in the order of the questions. The longest by `size` are asked first, so that a batch holds like with
    like and none is waited for alone at the end."""
    answers: dict[int, Answer] = {}
    longest_first = iter(sorted(range(len(questions)), key=lambda index: -size(questions[index])))
    with tqdm(total=len(questions), unit="text", mininterval=1) as bar:

        async def work() -> None:
            for index in longest_first:  # shared by all workers
                answers[index] = await ask(questions[index])
                bar.update()

        await asyncio.gather(*(work() for _ in range(concurrent)))
    return [answers[index] for index in range(len(questions))]


def write_lines(path: Path | None, records: Iterable[dict[str, Any]]) -> None:
    """As JSON lines, where a file is asked for."""
    if path:
        path.write_text("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in records), encoding="utf-8")


def share(part: int, whole: int) -> float:
    """From 0 to 1, to four places; 0 of nothing."""
    return round(part / whole, 4) if whole else 0.0
