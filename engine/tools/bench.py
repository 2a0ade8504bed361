"""Times the engine and its peers on this machine, in turns, so that what else the machine does meets both alike.

python -m engine.tools.bench engine --model embedded --batch 1,8 --peer transformers
python -m engine.tools.bench markup
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from tqdm import tqdm  # type: ignore[import-untyped]

from engine import prompts
from engine.backends.local import LocalBackend
from engine.backends.select import EMBEDDED, EMBEDDED_FOLDER
from engine.errors import YiwenError
from engine.inference.loader import load
from engine.inference.sampler import GREEDY
from engine.tools import bench_markup
from engine.tools.convert import convert
from engine.types import Prompt

SENTENCE = (  # 25 words
    "The committee has not yet decided whether the new bridge should be built next to the old one or a little "
    "further down the river."
)
REST_SECONDS = 0.2  # between two runs, so that the threads of one are asleep when the other begins

Generate = Callable[[str, int, int], float]  # (prompt, copies of it at once, new tokens each) → seconds


class Engine:
    """The local backend as it serves. No token ends an answer, so that every one has its full length."""

    def __init__(self, folder: Path, slots: int, device: str, precision: str) -> None:
        loaded = load(str(folder), device, precision)
        loaded.tokenizer.stop_ids = frozenset()
        self.tokenizer, self.info = loaded.tokenizer, loaded.info
        self._backend = LocalBackend(loaded, slots)

    def generate(self, text: str, batch: int, new_tokens: int) -> float:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._answer(text, new_tokens) for _ in range(batch)))

        began = time.perf_counter()
        asyncio.run(all_of_them())
        return time.perf_counter() - began

    def close(self) -> None:
        asyncio.run(self._backend.close())

    async def _answer(self, text: str, new_tokens: int) -> None:
        tokens = 0
        async with aclosing(self._backend.stream(Prompt(text, text, new_tokens, GREEDY))) as chunks:
            async for chunk in chunks:
                tokens += chunk.tokens
        assert tokens == new_tokens


def transformers_peer(folder: Path, tokenize: Callable[[str], list[int]]) -> Generate:
    """transformers' own `generate`, greedy, in fp32, with as many threads as we have."""
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as temporary:
        convert(folder, Path(temporary), "bf16")  # an INT8 checkpoint is ours alone
        model = transformers.AutoModelForCausalLM.from_pretrained(temporary, dtype=torch.float32).eval()

    @torch.inference_mode()
    def generate(text: str, batch: int, new_tokens: int) -> float:
        began = time.perf_counter()
        ids = torch.tensor([tokenize(text)] * batch)
        length = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **length)
        assert made.shape == (batch, ids.shape[1] + new_tokens)
        return time.perf_counter() - began

    return generate


def bench_engine(arguments: argparse.Namespace) -> dict[str, Any]:
    batches = [int(size) for size in arguments.batch.split(",")]
    folder = EMBEDDED_FOLDER if arguments.model == EMBEDDED else Path(arguments.model)
    engine = Engine(folder, max(batches), arguments.device, arguments.precision)
    sentence = prompts.plain(engine.info.family, "en", "fr", SENTENCE)
    text = filled(sentence, arguments.prompt_tokens, engine.tokenizer.count)
    engine.generate(text, max(batches), arguments.new_tokens)  # warm, and at its largest
    result: dict[str, Any] = {
        "model": engine.info.name,
        "precision": engine.info.precision,
        "device": engine.info.device,
        "peak_rss_mb": peak_rss_mb(),  # before a peer is loaded
        "prompt_tokens": len(engine.tokenizer.prompt(text)),
        "new_tokens": arguments.new_tokens,
    }
    sides: dict[str, Generate] = {"ours": engine.generate}
    if arguments.peer:
        sides["peer"] = transformers_peer(folder, engine.tokenizer.prompt)
        sides["peer"](text, max(batches), 2)
        result["peer"] = f"transformers {transformers.__version__} generate, fp32"
    first_seconds: dict[str, list[float]] = {name: [] for name in sides}
    speeds: dict[int, dict[str, list[float]]] = {size: {name: [] for name in sides} for size in batches}
    for _ in tqdm(range(arguments.repeat), unit="round"):
        for name, generate in sides.items():
            time.sleep(REST_SECONDS)
            first_seconds[name].append(generate(sentence, 1, 1))
        for size in batches:
            for name, generate in sides.items():
                time.sleep(REST_SECONDS)
                seconds = generate(text, size, arguments.new_tokens)
                speeds[size][name].append(size * arguments.new_tokens / seconds)
    engine.close()
    result["first_token_ms"] = {name: round(1000 * median(values), 1) for name, values in first_seconds.items()}
    result["tokens_a_second"] = {str(size): compared(by_side) for size, by_side in speeds.items()}
    return result


def filled(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """`text`, with its sentence said again and cut so that it has about `tokens` tokens."""
    while count(text) < tokens:
        text += " " + SENTENCE
    while count(text) > tokens and " " in text:
        text = text.rpartition(" ")[0]
    return text


def compared(by_side: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, all values, and the median of the ratios of each round."""
    compared: dict[str, Any] = {name: round(median(values), 1) for name, values in by_side.items()}
    if "peer" in by_side:
        ratios = [ours / theirs for ours, theirs in zip(by_side["ours"], by_side["peer"], strict=True)]
        compared["ratio"] = round(median(ratios), 2)
    compared["rounds"] = {name: [round(value, 1) for value in values] for name, values in by_side.items()}
    return compared


def peak_rss_mb() -> int:
    """The most memory that this process has held, in 10⁶ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 1_000_000  # Linux counts in KiB


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = (line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name"))
    return {
        "cpu": next(models, platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def show(result: dict[str, Any]) -> str:
    """The figures as lines to read."""
    first = ", ".join(f"{name} {value:.0f} ms" for name, value in result["first_token_ms"].items())
    lines = [f"first token of a 25-word sentence: {first}", f"peak memory, ours: {result['peak_rss_mb']} MB"]
    for size, figures in result["tokens_a_second"].items():
        speeds = ", ".join(f"{name} {figures[name]:.0f}" for name in ("ours", "peer") if name in figures)
        ratio = f" ({figures['ratio']:.2f} ×)" if "ratio" in figures else ""
        lines.append(f"tokens/s, batch {size}: {speeds}{ratio}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the engine, and peers beside it in turns.")
    benches = parser.add_subparsers(dest="what", required=True)
    markup = benches.add_parser("markup", help="MB/s of reading and rebuilding documents")
    markup.add_argument("--mb", type=float, default=1.0, help="the smaller size; the larger is ten times that")
    markup.add_argument("--repeat", type=int, default=3, help="rounds; the figures are the best")
    engine = benches.add_parser("engine", help="tokens/s, first token, memory")
    engine.add_argument("--model", default=EMBEDDED, help="embedded, or a folder")
    engine.add_argument("--batch", default="1,8", help="streams at once, such as 1,8")
    engine.add_argument("--prompt-tokens", type=int, default=64)
    engine.add_argument("--new-tokens", type=int, default=48)
    engine.add_argument("--repeat", type=int, default=5, help="rounds; the figures are medians")
    engine.add_argument("--peer", choices=["transformers"], help="whom to time beside it, on the CPU")
    engine.add_argument("--device", default="cpu", help="cpu or cuda:0")
    engine.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    arguments = parser.parse_args()
    try:
        measured = bench_engine(arguments) if arguments.what == "engine" else bench_markup.bench_markup(arguments)
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    print(show(measured) if arguments.what == "engine" else bench_markup.show(measured), file=sys.stderr)
    print(json.dumps(measured | {"machine": machine()}))


if __name__ == "__main__":
    main()
