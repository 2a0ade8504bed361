"""A runner on ONNX Runtime: `--backend onnx`. Simple rather than fast, for machines where OpenVINO does not run.

Each slot has a buffer of its own, which ONNX Runtime writes in place; the batcher's pages are only counted. So no
beginnings are shared and no window is known: give the batcher `share=False`. Prompts go through one at a time.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.inference.kv_cache import PAGE_TOKENS, Table
from engine.inference.model import HunYuanDense
from engine.inference.onnx_graph import KINDS, SCORES, build
from engine.inference.runner import Chosen, Chunk
from engine.inference.sampler import LENGTH, Sampler
from engine.types import Sampling

PREFILL_TOKENS = 256
ERRORS_ONLY = 3  # of ONNX Runtime's log


class OnnxRunner:
    """Serves a model that was loaded for it, on the CPU with `Int4Held` and `Int8Rows`; it may be let go afterwards."""

    ahead = False
    device = "cpu"
    kernel = "ONNX Runtime"
    prefill_tokens = PREFILL_TOKENS

    def __init__(self, model: HunYuanDense, slots: int, length: int, threads: int = 0) -> None:
        """`length`: tokens that a slot has room for. `threads`: 0 takes as many as there are cores."""
        config = model.config
        self.slots, self.length = slots, length
        self.pages = slots * (length // PAGE_TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, ERRORS_ONLY
        graph, self._constants = build(model)  # held, for the session has them where they are
        values = map(onnxruntime.OrtValue.ortvalue_from_numpy, self._constants.values())
        options.add_external_initializers(list(self._constants), list(values))
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        shape = (slots, config.kv_heads, length, config.head_dim)
        self._buffers = {
            f"{kind}.{layer}": np.zeros(shape, np.float32) for layer in range(config.layers) for kind in KINDS
        }
        self._held = [0] * slots  # tokens in each buffer
        self._vocab_size = config.vocab_size
        self._sampler = Sampler(slots, config.vocab_size, "cpu", min(LENGTH, length))
        kv_bytes = sum(buffer.nbytes for buffer in self._buffers.values())
        weights = sum(constant.nbytes for constant in self._constants.values())
        self._memory = {"weights": weights, "kv_total": kv_bytes}

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
        return self._run([chunk.ids], [positions], [end - 1], slice(chunk.slot, chunk.slot + 1))

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
        last = [min(held, self.length - 1) for held in self._held[first:end]]
        scores = self._run(ids, positions, last, slice(first, end))
        for slot in slots:
            self._held[slot] += 1
        return scores[torch.tensor(slots) - first]

    def _run(
        self, ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], last: Sequence[int], slots: slice
    ) -> Tensor:
        if max(last) >= self.length:
            raise ValueError(f"A slot has room for {self.length} tokens, and {max(last) + 1} were asked for.")
        binding = self._session.io_binding()
        feeds: dict[str, NDArray[np.generic]] = {
            "ids": np.array(ids, np.int64),
            "positions": np.array(positions, np.int64),
            "row": np.full((len(ids), 1), len(ids[0]) - 1, np.int64),
            "last": np.array(last, np.int32),
            "total": np.array(max(last) + 1, np.int32),
        }
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        for name, buffer in self._buffers.items():
            part = buffer[slots]
            binding.bind_input(name, "cpu", 0, np.float32, part.shape, part.ctypes.data)
            binding.bind_output("new_" + name, "cpu", 0, np.float32, part.shape, part.ctypes.data)
        scores = torch.empty(len(ids), self._vocab_size)
        binding.bind_output(SCORES, "cpu", 0, np.float32, tuple(scores.shape), scores.data_ptr())
        self._session.run_with_iobinding(binding)
        return scores

    def _choose(self, scores: Tensor, slots: Sequence[int]) -> Tensor:
        return self._sampler.choose(scores, torch.tensor(slots), self._sampler.kind(slots))
