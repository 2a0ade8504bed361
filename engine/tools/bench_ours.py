"""Our engine as the bench drives it: jobs in, the times of all tokens out. Knows no peers and no figures.

Random weights go through the generation thread with ids, a checkpoint through the whole backend with text.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import torch

from engine import prompts
from engine.backends.local import LocalBackend, prepared, runner_of
from engine.config import Config
from engine.errors import BackendError
from engine.footprint import LoadPlan
from engine.inference.batcher import Batcher, Generation
from engine.inference.checkpoint import model_config, read_config
from engine.inference.kv_cache import PAGE_TOKENS
from engine.inference.loader import Loaded
from engine.inference.model import HunYuanDense, ModelConfig
from engine.inference.runner import Runner, TorchRunner
from engine.tools import synthetic
from engine.types import FinishReason, Prompt, Sampling

SENTENCE = (  # 25 words
    "The committee has not yet decided whether the new bridge should be built next to the old one or a little "
    "further down the river."
)


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt; `text` is what becomes `ids` in the model's own layout, empty where there is no tokenizer."""

    ids: Sequence[int]
    text: str = ""
    new_tokens: int = 1
    at: float = 0.0  # seconds after the load begins


@dataclass(frozen=True, slots=True)
class Room:
    """How much an engine must have room for at once."""

    slots: int  # sequences
    pages: int  # of the KV cache
    longest: int  # tokens of a prompt and its answer
    fp8: bool = False  # the KV cache; else 16 bits, or as the CPU computes


Times = list[float]  # of each token of a job, in seconds after the load began


class Engine(Protocol):
    """Ours, in either of its forms."""

    name: str
    precision: str
    device: str
    config: ModelConfig
    longest: int  # tokens of a prompt and its answer
    threads: int  # of the processor
    weights_read: int  # bytes that one step reads
    kv_token_bytes: int

    def prompt(self, tokens: int, dice: random.Random) -> Job:
        """A new prompt of (about) that many tokens."""
        ...

    def run(self, jobs: Sequence[Job]) -> list[Times]: ...

    def memory(self) -> dict[str, int]: ...

    def close(self) -> None: ...

    def checkpoint(self, folder: Path) -> Path:
        """The same weights as a checkpoint, in `folder` where it must be written."""
        ...


class ThroughBatcher:
    """Random weights behind the generation thread: ids in, ids out."""

    def __init__(self, shape: str, device: str, room: Room, sampling: Sampling) -> None:
        self.name, self.device = f"synthetic {shape}", device
        self.config = synthetic.SHAPES[shape]
        self.longest = min(self.config.max_positions, room.longest)
        self.threads = torch.get_num_threads()
        self._sampling = sampling
        self._runner, self.precision, self.weights_read = synthetic_runner(self.config, device, room)
        self.kv_token_bytes = _kv_token_bytes(self._runner)
        self._batcher = Batcher(self._runner, frozenset())

    def prompt(self, tokens: int, dice: random.Random) -> Job:
        return Job([dice.randrange(self.config.vocab_size) for _ in range(tokens)])

    def run(self, jobs: Sequence[Job]) -> list[Times]:
        times: list[Times] = [[] for _ in jobs]
        ended: SimpleQueue[BackendError | None] = SimpleQueue()
        generations = [
            Generation(job.ids, job.new_tokens, self._sampling, _teller(own, ended))
            for job, own in zip(jobs, times, strict=True)
        ]
        began = time.perf_counter()
        for place in sorted(range(len(jobs)), key=lambda place: jobs[place].at):
            if (early := began + jobs[place].at - time.perf_counter()) > 0:
                time.sleep(early)
            self._batcher.submit(generations[place])
        for _ in jobs:
            if (error := ended.get()) is not None:
                raise error
        return [[each - began for each in own] for own in times]

    def memory(self) -> dict[str, int]:
        return self._runner.memory()

    def close(self) -> None:
        self._batcher.close()

    def checkpoint(self, folder: Path) -> Path:
        synthetic.write_checkpoint(self.config, folder, self.device)
        return folder


def synthetic_runner(config: ModelConfig, device: str, room: Room) -> tuple[Runner, str, int]:
    """(what runs random weights on this device, what its weights are held as and multiplied by, how many bytes of them
    a step reads)"""
    if not device.startswith("cuda"):
        model = synthetic.build(config, device, torch.float32, synthetic.widened(torch.float32))
        reference = TorchRunner(model, room.slots, room.pages)
        return reference, "INT4 widened to float32", _weights_read(reference, model)
    from engine.inference.cuda_runner import CudaRunner  # here, since it is for cards alone
    from engine.inference.int4 import Int4Linear

    model = synthetic.build(config, device, torch.bfloat16, Int4Linear)
    torch.cuda.empty_cache()  # what the making took is not the engine's
    torch.cuda.reset_peak_memory_stats(device)
    longest = min(config.max_positions, room.longest)
    runner = CudaRunner(model, room.slots, room.pages, longest, fp8=room.fp8)
    return runner, f"INT4, {runner.kernel}", _weights_read(runner, model)


def _weights_read(runner: Runner, model: HunYuanDense) -> int:
    """Bytes that a step reads whole: an embedding is looked up by id, unless it is the head as well."""
    told: int | None = getattr(runner, "weights_read", None)  # OpenVINO's runner holds them in a form of its own
    if told is not None:
        return told
    tensors = [*model.parameters(), *model.buffers()]
    looked_up = [model.cos, model.sin, *([] if model.head is None else model.embedding.parameters())]
    return sum(tensor.nbytes for tensor in tensors) - sum(tensor.nbytes for tensor in looked_up)


def _kv_token_bytes(runner: Runner) -> int:
    return runner.memory()["kv_total"] // (runner.pages * PAGE_TOKENS)


def _teller(
    times: Times, ended: "SimpleQueue[BackendError | None]"
) -> Callable[[int | None, FinishReason | None, BackendError | None], None]:
    def tell(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
        if token is not None:
            times.append(time.perf_counter())
        if finish is not None or error is not None:
            ended.put(error)

    return tell


class _TimedBackend(LocalBackend):
    """Notes when each token of a stream was made. Most are delivered some at a time, as a page is painted."""

    times: ContextVar[Times] = ContextVar("times")  # of the stream that a task reads

    def __init__(self, loaded: Loaded, plan: LoadPlan, runner: Runner) -> None:
        super().__init__(loaded, plan, runner)
        submit = self._batcher.submit

        def timed(generation: Generation) -> None:
            tell, times = generation.tell, self.times.get()

            def noted(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
                times.append(time.perf_counter())
                tell(token, finish, error)

            generation.tell = noted
            submit(generation)

        self._batcher.submit = timed  # type: ignore[method-assign, assignment]


class ThroughBackend:
    """A checkpoint behind the backend as it serves: text in, text out. The first token and the last, which ends the
    answer, have the time of their delivery."""

    def __init__(self, folder: Path, device: str, precision: str, slots: int, sampling: Sampling) -> None:
        config = Config(model=str(folder), devices=device, precision=precision, max_concurrent=slots)
        loaded, plan = prepared(config)
        loaded.tokenizer.stop_ids = frozenset()
        self.name, self.precision, self.device = loaded.info.name, loaded.info.precision, loaded.info.device
        self.config = model_config(read_config(folder))
        self._start = prompts.plain(loaded.info.family, "en", "fr", "")
        self._tokenize = loaded.tokenizer.prompt
        runner = runner_of(loaded, plan, config)
        self._backend = _TimedBackend(loaded, plan, runner)
        self.longest = self._backend.info.max_context_tokens
        self.threads = plan.threads
        self.weights_read = _weights_read(runner, loaded.model)
        self.kv_token_bytes = _kv_token_bytes(runner)
        self._folder, self._sampling = folder, sampling

    def prompt(self, tokens: int, dice: random.Random) -> Job:
        text = filled(self._start, tokens, lambda text: len(self._tokenize(text)), dice)
        return Job(self._tokenize(text), text)

    def run(self, jobs: Sequence[Job]) -> list[Times]:
        async def answer(job: Job, began: float) -> Times:
            await asyncio.sleep(max(0.0, began + job.at - time.perf_counter()))
            made: Times = []
            self._backend.times.set(made)
            prompt = Prompt(job.text, job.text, job.new_tokens, self._sampling)
            delivered: Times = []
            async with aclosing(self._backend.stream(prompt)) as chunks:
                async for _ in chunks:
                    delivered.append(time.perf_counter())
            made[0], made[-1] = delivered[0], delivered[-1]
            return [each - began for each in made]

        async def all_of_them() -> list[Times]:
            began = time.perf_counter()
            return await asyncio.gather(*(answer(job, began) for job in jobs))

        return asyncio.run(all_of_them())

    def memory(self) -> dict[str, int]:
        return self._backend.memory()

    def close(self) -> None:
        asyncio.run(self._backend.close())

    def checkpoint(self, folder: Path) -> Path:
        return self._folder


def filled(start: str, tokens: int, count: Callable[[str], int], dice: random.Random) -> str:
    """`start` and the words of `SENTENCE`, each time in another order, until there are about `tokens` tokens."""
    text = start
    while count(text) < tokens:
        text += " " + " ".join(dice.sample(SENTENCE.split(), 25))
    while count(text) > tokens and " " in text.removeprefix(start):
        text = text.rpartition(" ")[0]
    return text
