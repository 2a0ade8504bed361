"""The engine on this machine as a Backend: prompts in, whole characters out, many at once. Knows nothing of faces."""

import asyncio
import gc
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

import torch
from torch import nn

from engine import hardware, inventory
from engine.cards import Cards
from engine.config import Config
from engine.errors import BackendError, ConfigError, TextTooLong, UnsupportedModel
from engine.footprint import LoadPlan
from engine.inference.batcher import Batcher, Generation
from engine.inference.checkpoint import read_config
from engine.inference.cuda_runner import CudaRunner, keep_below
from engine.inference.held import Int4Held
from engine.inference.int4 import Int4Linear
from engine.inference.int8 import Int8Rows
from engine.inference.loader import Described, Loaded, folder_of, load
from engine.inference.parallel import ParallelRunner, planned
from engine.inference.runner import Runner, TorchRunner
from engine.inference.sampler import resolve
from engine.progress import Advance, Progress, Step, untold
from engine.shape import ModelShape
from engine.types import FinishReason, ModelInfo, Prompt, Replica, TokenChunk

PAINT_SECONDS = 0.012  # between two deliveries; a screen is painted every 16 ms
DOWNLOAD_BYTES_A_SECOND = 12_500_000  # 100 Mbit/s, until the connection has shown its own speed
# How long a model takes that is loaded, (seconds, more for each GB of its files): on the CPU as the embedded one and a
# 1.8B in INT4 did for OpenVINO (two cores of an AMD EPYC), or one in bf16 that is rounded, on a card as a 7B in INT4
# (one H200; 2026-11-21 and -22)
EXPECTED: dict[str, dict[Step, tuple[float, float]]] = {
    "cpu": {"weights": (0.0, 12.0), "prepare": (0.6, 30.0), "test": (0.7, 20.0)},
    "rounded": {"weights": (0.0, 14.0), "prepare": (0.6, 5.0), "test": (0.7, 2.0)},
    "card": {"weights": (3.0, 1.0), "prepare": (8.5, 0.0), "test": (0.3, 0.0)},
}

log = logging.getLogger(__name__)
Told = tuple[int | None, FinishReason | None, BackendError | None]


class _Outbox:
    """What the generation thread tells the streams of one event loop. All of a step wakes the loop once: with 256
    streams a token takes 6 µs of Python so, and 13 µs when each wakes it. And not more often than a page is painted,
    but for the first token of an answer and its end: on two cores a loop that wakes for every token takes the model a
    sixth of its time (2.0 against 2.35 ms a token)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._told: list[tuple[asyncio.Queue[Told], Told]] = []
        self._ticking = False  # what is told will be delivered without the loop being woken for it, …
        self._woken = False  # … or it has been woken
        self._next: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()

    def put(self, reader: asyncio.Queue[Told], told: Told, at_once: bool) -> None:
        """Called on the generation thread."""
        with self._lock:
            self._told.append((reader, told))
            wake = (at_once or not self._ticking) and not self._woken
            self._ticking, self._woken = True, self._woken or wake
        if wake:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            told, self._told = self._told, []
            self._ticking, self._woken = bool(told), False
        if self._next:
            self._next.cancel()
        self._next = self.loop.call_later(PAINT_SECONDS, self._deliver) if told else None
        for reader, each in told:
            reader.put_nowait(each)


class LocalBackend:
    def __init__(
        self, loaded: Described, plan: LoadPlan, runner: Runner, window: int | None = None, share: bool = True
    ) -> None:
        """`window`, `share`: see `Batcher`."""
        self._tokenizer, self._recommended = loaded.tokenizer, loaded.sampling
        self._info = replace(
            loaded.info,
            max_context_tokens=plan.sequence_tokens,
            segment_tokens=plan.segment_tokens,
            kernel=runner.kernel,
            plan=plan.reason,
            planned_bytes=_planned(plan),
        )
        self._outbox: _Outbox | None = None
        self._runner = runner
        self._batcher = batcher = Batcher(runner, loaded.tokenizer.stop_ids, window, share)
        if isinstance(runner, ParallelRunner):
            runner.ended.add_done_callback(lambda ended: batcher.abandon(ended.result()))

    @classmethod
    def load(cls, config: Config, progress: Progress | None = None) -> Self:
        """The model of `config.model`, a folder or a hub id, as this machine can best hold it.

        Raises what `hardware.plan` and `loader.load` raise.
        """
        progress = progress or Progress()
        gc.collect()  # what another had before this one, which the plan may count on
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        if shares := in_shares(config, progress):
            return cls(*shares, config.kv_window)
        loaded, plan = prepared(config, progress)
        progress.report("prepare")
        runner = runner_of(loaded, plan, config, progress.told("prepare"))
        return cls(loaded, plan, runner, config.kv_window)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def slots(self) -> int:
        return self._batcher.slots

    @property
    def failed(self) -> Future[BackendError]:
        return self._batcher.failed

    @property
    def running(self) -> int:
        """Sequences in the batch right now."""
        return self._batcher.running

    def count_tokens(self, text: str) -> int:
        return self._tokenizer.count(text)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        ids = self._tokenizer.prompt(prompt.text)
        room = self._info.max_context_tokens - len(ids)
        if room < 1:
            raise TextTooLong(
                f"A prompt of {len(ids)} tokens does not fit the model's {self._info.max_context_tokens}; "
                "shorten the context or the terms."
            )
        outbox = self._outbox_of(asyncio.get_running_loop())
        told: asyncio.Queue[Told] = asyncio.Queue()

        def tell(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
            first_or_last = len(generation.made) == len(prompt.made) + 1 or finish is not None or error is not None
            outbox.put(told, (token, finish, error), at_once=first_or_last)

        sampling = resolve(prompt.sampling, self._recommended)
        generation = Generation(
            ids, min(prompt.max_new_tokens, room), sampling, tell, prompt.first, made=list(prompt.made)
        )
        decoder = self._tokenizer.decoder()
        for made in prompt.made:  # what they say has been said, but for half a character
            decoder.feed(made)
        self._batcher.submit(generation)
        try:
            finish: FinishReason | None = None
            while finish is None:
                token, finish, error = await told.get()
                if error is not None:
                    raise error
                text = "" if token is None else decoder.feed(token)
                if finish is not None:
                    text += decoder.rest()
                yield TokenChunk(text, 0 if token is None else 1, finish, () if token is None else (token,))
        finally:
            self._batcher.cancel(generation)

    def _outbox_of(self, loop: asyncio.AbstractEventLoop) -> _Outbox:
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = _Outbox(loop)
        return self._outbox

    def memory(self) -> dict[str, int]:
        used, total = self._batcher.kv_bytes
        taken = self._runner.memory()
        for name in [name for name in taken if name.endswith("/kv_total")]:  # of each of several cards
            taken[f"{name.removesuffix('total')}used"] = used * taken[name] // max(1, total)
        counts = self._batcher.counts
        pages = {"pages_used": counts.pages_used, "pages_free": counts.pages_free, "preempted": counts.preempted}
        pages["batch"] = self._batcher.running
        if self._batcher.shares:
            pages |= {"prompt_tokens": counts.prompt_tokens, "shared_tokens": counts.shared_tokens}
        return taken | {"kv_used": used} | pages

    def replicas(self) -> Sequence[Replica]:
        return ()

    async def close(self) -> None:
        await asyncio.to_thread(self._batcher.close)
        if isinstance(self._runner, ParallelRunner):
            await asyncio.to_thread(self._runner.close)


def prepared(config: Config, progress: Progress | None = None) -> tuple[Loaded, LoadPlan]:
    """The model, loaded, and how it is to run."""
    progress = progress or Progress()
    folder = _folder(config, progress)
    shape = ModelShape.read(read_config(folder), folder)
    plan = hardware.plan(config, shape, inventory.survey(config.devices))
    log.info("plan: %s", plan.reason)
    rounded = plan.weights == "int8" != shape.stored
    kind = "rounded" if rounded else "cpu" if plan.device == "cpu" else "card"
    _expect(kind, folder, progress)
    torch.set_num_threads(min(plan.threads, torch.get_num_threads()))  # torch does not see a container's quota
    if config.max_vram_gb is not None and plan.device != "cpu" and plan.engine != "onnx":  # which takes none of torch's
        keep_below(config.max_vram_gb, plan, plan.cards)
    widened, by_kernels = plan.weights == plan.dtype, plan.engine == "cuda" or bool(plan.layers)
    int4 = None if widened else Int4Linear if by_kernels else Int4Held
    int8 = None if widened or by_kernels else Int8Rows
    told = progress.told("weights")
    device = "cpu" if plan.engine == "onnx" else plan.device  # from which ONNX Runtime takes its graph to a card
    if plan.layers:
        from engine.inference.dispatch import Dispatch  # late, for Accelerate takes most of a second

        places = Dispatch(plan.layers, device)
        loaded = load(config.model, device, plan.dtype, int4, int8, folder, told=told, places=places)
        places.spread(loaded.model)
        return replace(loaded, info=replace(loaded.info, device="+".join(plan.cards))), plan
    return load(config.model, device, plan.dtype, int4, int8, folder, told=told, rounded=rounded), plan


def in_shares(config: Config, progress: Progress) -> tuple[Described, LoadPlan, ParallelRunner] | None:
    """The same of a model of which each card has a share of every layer, where that is to be: with `--split tensor`, or
    with `auto` where NVLink joins the cards, over which it is faster (figures: engine/README.md)."""
    cards = config.devices.split("+")
    if len(cards) == 1 or config.split == "layers" or (config.split == "auto" and not Cards().linked(cards)):
        return None
    folder = _folder(config, progress)
    try:
        described, plan = planned(config, folder)
    except (ConfigError, UnsupportedModel) as error:
        if config.split == "tensor":
            raise
        log.info("split=layers: not all cards can have a share of each layer: %s", error)
        return None
    log.info("plan: %s", plan.reason)
    _expect("card", folder, progress)
    return described, plan, ParallelRunner.load(folder, cards, plan, config, progress)


def _folder(config: Config, progress: Progress) -> Path:
    def expect_bytes(size: int) -> None:
        progress.expect("download", size / DOWNLOAD_BYTES_A_SECOND)

    folder = folder_of(config.model, progress.told("download"), expect_bytes)
    progress.report("libraries")  # the tokenizer comes before the weights, and has no more to tell
    return folder


def _expect(kind: str, folder: Path, progress: Progress) -> None:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for step, (seconds, seconds_a_gb) in EXPECTED[kind].items():
        progress.expect(step, seconds + seconds_a_gb * size / inventory.GB)


def runner_of(loaded: Loaded, plan: LoadPlan, config: Config, told: Advance = untold) -> Runner:
    """What runs a loaded model as planned. Its libraries are imported late: OpenVINO alone takes a second. `told`
    learns how far it is."""
    model = loaded.model
    if plan.engine == "openvino":
        try:
            from engine.inference.openvino_runner import OpenVinoRunner
        except ImportError as error:
            raise ConfigError(
                f"OpenVINO cannot be imported ({error}); install the version that requirements.txt names, or use "
                "--backend onnx."
            ) from error
        return OpenVinoRunner(model, plan.slots, plan.pages, plan.threads, plan.graphs, config.deterministic, told=told)
    if plan.engine == "torch":
        return TorchRunner(model, plan.slots, plan.pages, plan.computing, plan.prefill_tokens)
    if plan.weights == "gptq-int4" and any(isinstance(module, nn.Linear) for module in model.layers.modules()):
        raise UnsupportedModel(
            "This checkpoint says that it is in INT4, but some of its layers are not, and they would be slow without "
            "a word; use --precision bf16, which widens it."
        )
    return CudaRunner.planned(model, plan, config.deterministic, told)


def _planned(plan: LoadPlan) -> dict[str, int]:
    """By kind, of all cards; and what is fetched from elsewhere."""
    planned = Counter(asdict(plan.bytes))
    for place, taken in plan.elsewhere.items():
        planned.update(asdict(taken) if place in plan.cards else {"offloaded": taken.weights})
    return dict(planned)
