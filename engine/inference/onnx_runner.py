"""A runner on ONNX Runtime: `--backend onnx`. Simple rather than fast on the CPU, where OpenVINO runs.

Each slot has a buffer of its own, on the device, which ONNX Runtime writes in place; the batcher's pages are only
counted. So no beginnings are shared and no window is known: give the batcher `share=False`. Prompts go through one at
a time. Scores come to the host, where tokens are chosen. On a card it is CUDA that runs the graph and not TensorRT,
which knows neither attention, RoPE nor INT4 as they stand in it, and would get it in fragments.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import ConfigError, UnsupportedModel
from engine.inference.kv_cache import PAGE_TOKENS, Table
from engine.inference.onnx_api import onnxruntime
from engine.inference.onnx_graph import IDS, KINDS, LOGITS, MASK, POSITIONS, Graph, past, present
from engine.inference.runner import Chosen, Chunk
from engine.inference.sampler import LENGTH, Sampler
from engine.types import Sampling

PREFILL_TOKENS = 256
ERRORS_ONLY = 3  # of ONNX Runtime's log
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NO_MEMORY = re.compile(r"out of memory|failed to allocate|available memory|bad_alloc", re.IGNORECASE)
_DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}


def runs_on_cards() -> bool:
    """Whether the ONNX Runtime that is installed was built for them."""
    return _CUDA in onnxruntime.get_available_providers()


@dataclass(frozen=True, slots=True)
class Session:
    """A graph that ONNX Runtime has taken over, with all its optimisations."""

    session: onnxruntime.InferenceSession
    device: str
    weights_bytes: int
    held: tuple[NDArray[Any], ...] = ()  # which the session has where they are

    @classmethod
    def of(cls, graph: Graph, device: str = "cpu", threads: int = 0, most_bytes: int | None = None) -> Self:
        """`threads`: 0 takes as many as there are cores. `most_bytes`: of a card, for weights and activations.

        Raises `ConfigError` where the device cannot be used.
        """
        options = _options(threads)
        constants = {name: outside.make() for name, outside in graph.outside.items()}
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(constant) for constant in constants.values()]
        options.add_external_initializers(list(constants), values)
        session = _opened(graph.model.SerializeToString(), options, device, most_bytes)
        return cls(session, device, graph.nbytes, tuple(constants.values()))

    @classmethod
    def of_file(
        cls, path: Path, weights_bytes: int, device: str = "cpu", threads: int = 0, most_bytes: int | None = None
    ) -> Self:
        """Raises `UnsupportedModel` for what ONNX Runtime cannot read, and what `of` raises."""
        return cls(_opened(str(path), _options(threads), device, most_bytes), device, weights_bytes)


class OnnxRunner:
    ahead = False
    kernel = "ONNX Runtime"
    prefill_tokens = PREFILL_TOKENS

    def __init__(self, session: Session, slots: int, length: int) -> None:
        """`length`: tokens that a slot has room for."""
        self.device, self.slots, self.length = session.device, slots, length
        self.pages = slots * (length // PAGE_TOKENS)
        self._held_by_session, self._session = session.held, session.session
        buffers = {each.name: each for each in self._session.get_inputs()}
        layers = sum(name.startswith("past_key_values.") for name in buffers) // len(KINDS)
        first = buffers[past(0, KINDS[0])]
        self._dtype = _DTYPES[first.type]
        self._place, self._card = _place(self.device)
        self._shape: tuple[int, ...] = (length, first.shape[3])
        self._kv_heads = first.shape[1]
        # zero, and not as it comes: what is looked past has the weight 0, and 0 times NaN is NaN
        zeros = np.zeros((slots, self._kv_heads, *self._shape), self._dtype)
        self._slot_bytes = zeros.nbytes // slots
        self._buffers = {
            (layer, kind): onnxruntime.OrtValue.ortvalue_from_numpy(zeros.copy(), self._place, self._card)
            for layer in range(layers)
            for kind in KINDS
        }
        self._held = [0] * slots  # tokens in each buffer
        self._vocab_size: int = self._session.get_outputs()[0].shape[2]
        self._sampler = Sampler(slots, self._vocab_size, "cpu", min(LENGTH, length))
        self._memory = {"weights": session.weights_bytes, "kv_total": len(self._buffers) * zeros.nbytes}

    def beside(self, rows: int, before: int) -> int:
        return 8 + 4 * rows

    def memory(self) -> dict[str, int]:
        return dict(self._memory)

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        self._sampler.begin(slot, sampling, ids, made)

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Chosen:
        chosen = [torch.empty(0, dtype=torch.int64)]
        for chunk in chunks:
            scores = self.scores_after(chunk)
            if chunk.last:
                chosen.append(self._choose(scores, [chunk.slot]))
        if slots:
            newest = [int(self._sampler.tokens[slot]) for slot in slots]
            chosen.append(self._choose(self.scores_of_next(newest, slots, tables), slots))
        return Chosen(torch.cat(chosen))

    def scores_after(self, chunk: Chunk) -> Tensor:
        """Takes in a chunk; the scores after it: [1, vocab_size]."""
        end = self._held[chunk.slot] = chunk.table.length + len(chunk.ids)
        positions = range(chunk.table.position, chunk.table.position + len(chunk.ids))
        return self._run([chunk.ids], [positions], [end], slice(chunk.slot, chunk.slot + 1))

    def scores_of_next(self, tokens: Sequence[int], slots: Sequence[int], tables: Sequence[Table]) -> Tensor:
        """Takes in one token of each table's sequence; the scores of the next: [rows, vocab_size].

        ONNX Runtime wants neighbouring buffers, so slots between these run too, with a token that is written behind
        what they hold, where their own next one will come.
        """
        first, end = min(slots), max(slots) + 1
        ids, positions = [[0] for _ in range(first, end)], [[0] for _ in range(first, end)]
        for slot, token, table in zip(slots, tokens, tables, strict=True):
            ids[slot - first], positions[slot - first] = [token], [table.position]
            self._held[slot] = table.length
        ends = [min(held + 1, self.length) for held in self._held[first:end]]
        scores = self._run(ids, positions, ends, slice(first, end))
        for slot in slots:
            self._held[slot] += 1
        return scores[torch.tensor(slots) - first]

    def _run(
        self, ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], ends: Sequence[int], slots: slice
    ) -> Tensor:
        """`ends`: tokens in each buffer, with these."""
        total = max(ends)
        if total > self.length:
            raise ValueError(f"A slot has room for {self.length} tokens, and {total} were asked for.")
        binding = self._session.io_binding()
        mask = np.arange(total) < np.array(ends)[:, None]
        feeds = {IDS: np.array(ids, np.int64), POSITIONS: np.array(positions, np.int64), MASK: mask.astype(np.int64)}
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        shape = (len(ids), self._kv_heads, *self._shape)
        for (layer, kind), buffer in self._buffers.items():
            place = self._place, self._card, self._dtype, shape, buffer.data_ptr() + slots.start * self._slot_bytes
            binding.bind_input(past(layer, kind), *place)
            binding.bind_output(present(layer, kind), *place)
        scores = torch.empty(len(ids), 1, self._vocab_size)
        binding.bind_output(LOGITS, "cpu", 0, np.float32, tuple(scores.shape), scores.data_ptr())
        self._session.run_with_iobinding(binding)
        return scores[:, 0]

    def _choose(self, scores: Tensor, slots: Sequence[int]) -> Tensor:
        return self._sampler.choose(scores, torch.tensor(slots), self._sampler.kind(slots))


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


def _opened(
    model: bytes | str, options: onnxruntime.SessionOptions, device: str, most_bytes: int | None
) -> onnxruntime.InferenceSession:
    providers: list[Any] = [_CPU]
    kind, card = _place(device)
    if kind == "cuda":
        onnxruntime.preload_dlls()  # CUDA's libraries, from torch's folders
        wanted = {"device_id": card, "arena_extend_strategy": "kSameAsRequested"}
        providers.insert(0, (_CUDA, wanted if most_bytes is None else {**wanted, "gpu_mem_limit": most_bytes}))
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own have no other root
        reason = str(error).partition("\n")[0]
        if _NO_MEMORY.search(reason):
            raise ConfigError(
                f"This graph does not fit into the memory of {device} ({reason}); close what else uses it, or use a "
                "smaller model."
            ) from error
        raise UnsupportedModel(
            f"ONNX Runtime cannot take over this graph ({reason}); export the model again, or use --backend local."
        ) from error
    if kind == "cuda" and _CUDA not in session.get_providers():
        raise ConfigError(
            f"ONNX Runtime cannot use {device}: its libraries of CUDA could not be loaded; install those that "
            "onnxruntime-gpu names, or use --devices cpu."
        )
    return session


def _place(device: str) -> tuple[str, int]:
    """As ONNX Runtime has it."""
    kind, _, number = device.partition(":")
    return kind, int(number or 0)
