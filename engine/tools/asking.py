"""What evaluations share: which model is asked, many questions at once, answers kept in a file, shares."""

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
from engine.errors import ConfigError
from engine.types import Sampling

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument(
        "--backend", type=as_app("--backend"), default="local", help="local, onnx, …, or echo to try the tool itself"
    )
    parser.add_argument("--langs", help="such as zh,ja (default: all of the model that have tests)")
    parser.add_argument("--device", type=as_app("--devices"), default="auto", help="auto, cpu, or cuda:0")
    parser.add_argument(
        "--precision", type=as_app("--precision"), default="auto", help="auto, fp32, bf16, fp16, int8 or int4"
    )
    parser.add_argument(
        "--kv-dtype", type=as_app("--kv-dtype"), default="auto", help="auto, bf16 or fp8: what it costs in quality"
    )
    parser.add_argument(
        "--kv-window",
        type=as_app("--kv-window"),
        default="off",
        help="tokens kept beside the first: what a window costs in quality",
    )
    parser.add_argument(
        "--concurrent",
        type=as_app("--max-concurrent"),
        default="auto",
        help="prompts in one batch; 512 suits a large card",
    )
    parser.add_argument("--out", type=Path, help="file for every question and answer, JSON lines")


def as_app(flag: str) -> Callable[[str], str]:
    """For argparse: what `flag` of app.py takes, and its sentence for what it does not."""

    def parse(given: str) -> str:
        try:
            Config.load([f"{flag}={given}"], {})
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
        return given

    return parse


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
    keep: Callable[[Question, Answer], None] = lambda question, answer: None,
    name: str = "",
) -> list[Answer]:
    """Answers in the order of the questions. The longest by `size` are asked first, so that a batch holds like with
    like and none is waited for alone at the end. `keep` is told each answer as it comes; `name`
    stands before the bar."""
    answers: dict[int, Answer] = {}
    longest_first = iter(sorted(range(len(questions)), key=lambda index: -size(questions[index])))
    with tqdm(total=len(questions), desc=name or None, unit="text", mininterval=1) as bar:

        async def work() -> None:
            for index in longest_first:  # shared by all workers
                answers[index] = await ask(questions[index])
                keep(questions[index], answers[index])
                bar.update()

        await asyncio.gather(*(work() for _ in range(concurrent)))
    return [answers[index] for index in range(len(questions))]


def write_lines(path: Path | None, records: Iterable[dict[str, Any]]) -> None:
    """As JSON lines, where a file is asked for."""
    if path:
        path.write_text("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in records), encoding="utf-8")


def read_lines(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The records of JSON lines, which must have `names`. A last line without its end was cut off, and is left out.
    Raises `ConfigError`."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")  # a line may be cut in the midst of a character
    except OSError as error:
        raise ConfigError(f"The answers {str(path)!r} cannot be read ({error.strerror}).") from error
    records = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not record.keys() >= {*names}:
            raise ConfigError(
                f"Line {number:,} of {str(path)!r} is no question and answer of this tool; name a file that --out made."
            )
        records.append(record)
    return records


def share(part: int, whole: int) -> float:
    """From 0 to 1, to four places; 0 of nothing."""
    return round(part / whole, 4) if whole else 0.0
